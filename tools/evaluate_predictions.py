"""Compute scores with 95 % intervals from the predictions csvs that the test scripts write; networks and images are not needed.

Several files without a common image are folds: they are pooled, and their spread is shown. Two files of the same images are compared by
their paired difference. More files of the same images are repeats: their mean and spread are shown.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.evaluate_predictions results/demo/BSCE/seed0/results_test.csv --run experiments/demo/BSCE/seed0
  python -m tools.evaluate_predictions results/demo/*/seed0/results_test.csv --json demo.json
  python -m tools.evaluate_predictions results/demo/instance/seed0/results_test.csv results/demo/BSCE/seed0/results_test.csv
"""
from utils.cli import tune_process

tune_process()  # before the other imports

import argparse
import json
import os
import re
import sys

import numpy as np
import pandas as pd

from utils.cli import say_next, script_parser, warn_without_effect
from utils.common import InputError, counted, file_sha256, run_script, write_text
from utils.data.check_data import find_unknown_names
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.label_column import NAME_COLUMNS, describe_label_column, drop_empty_columns, find_label_column
from utils.data.permissions import add_private_flag, keep_private
from utils.data.read_csv import read_csv
from utils.decisions.of_predictions import add_flags as add_decision_flags
from utils.decisions.of_predictions import check_flags as check_decision_flags
from utils.decisions.of_predictions import evaluate_decisions
from utils.prediction.per_group import HELP as PER_HELP
from utils.prediction.per_group import check_rule, parse_per, per_group
from utils.prediction.predictions import read_labelled
from utils.runs.formats import read_config
from utils.runs.provenance import replaced_network, results_of
from utils.runs.results import is_results_file
from utils.statistics.bootstrap import INTERVALS, STRATIFIED, check_classes
from utils.statistics.comparison import copies_note, ways_note
from utils.statistics.folds import are_repeats, evaluate_files, pool
from utils.statistics.settings import are_ordered, describe_settings, differing_settings
from utils.statistics.subgroups import HELP as BY_HELP
from utils.statistics.subgroups import as_json, parse_by, subgroups, subgroups_text
from utils.statistics.text import report_text
from utils.statistics.weighted_metrics import LEVEL, REFERABLE, is_ordered

WITHOUT_EFFECT = (
    ('referable', 'for classes that are not grades (see --ordered)', lambda a: a.referable and not a.is_ordered),
    ('referable', 'if --at has no level', lambda a: a.referable and not a.at),
    *((flag, 'without --json if two files are compared', lambda a: a.is_pair and not a.json)
      for flag in ('train_csv', 'at', 'referable')),
    ('private', 'without --json', lambda a: not a.json),
    ('label_column', 'without --train_csv', lambda a: not a.train_csv),
)


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('csvs', nargs='+', metavar='PRED.csv',
                      help='predictions csv: columns image_id, label, pred, p_<class>..., optionally patient_id')
    counts = data.add_mutually_exclusive_group()
    counts.add_argument('--train_csv', metavar='CSV',
                        help='training csv, for scores of the many/medium/few and head/medium/tail classes')
    counts.add_argument('--run', metavar='RUN', help='run folder below experiments/, as an alternative to --train_csv')
    data.add_argument('--label_column', metavar='COLUMN', help=f'--train_csv: {LABEL_HELP}')
    scores = parser.add_argument_group('scores')
    scores.add_argument('--ordered', action=argparse.BooleanOptionalAction,
                        help='treat the classes as ordered grades, with kappa and --referable (default: if they are named DR0, DR1, ... or '
                             'grade 0, ..., or if the run selected its epoch by kappa)')
    scores.add_argument('--at', nargs='*', type=float, default=[LEVEL], metavar='LEVEL',
                        help='specificities between 0 and 1 at which the sensitivity is shown, and vice versa')
    scores.add_argument('--referable', type=int, metavar='K',
                        help=f'also show operating points of grade >= K (default: {REFERABLE}; 0: none)')
    scores.add_argument('--stratified', action='store_true', help=STRATIFIED)
    scores.add_argument('--draws', type=int, default=1000, metavar='N', help='bootstrap resamples, 100 or more')
    scores.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the bootstrap')
    scores.add_argument('--by', nargs='+', default=[], metavar='COLUMN[:LIMITS]', help=BY_HELP)
    scores.add_argument('--per', metavar='COLUMN[:worst]', help=PER_HELP)
    add_decision_flags(parser)
    output = parser.add_argument_group('output')
    output.add_argument('--json', metavar='FILE', help='write all results to FILE, as fractions; undefined values are null')
    add_private_flag(output)
    return parser


def group_of(csv):
    """-> folder of the runs to compare with: results/demo for results/demo/BSCE/seed0/results_test.csv, else the folder of the csv"""
    group = re.match(r'(.*/)?results/[^/]+(?=/)', csv)
    return group.group() if group else os.path.dirname(csv) or '.'


def other_classes(table):
    """-> note if `pred` is not the most probable class in some rows, as in predictions by costs; else None"""
    n = (table.probs[np.arange(len(table.preds)), table.preds] < table.probs.max(axis=1)).sum()
    return f'{table.path}: pred is not the most probable class in {n} of {len(table.preds)} rows' if n else None


def training_counts(args, class_names):
    """-> number of training images of each class, a list of length K; None if no flag gives them"""
    k = len(class_names)
    if args.run:
        return read_config(args.run)['class_count']
    if args.train_csv:
        table, rows = read_csv(args.train_csv)
        table = drop_empty_columns(table, args.label_column)
        column = find_label_column(table, args.train_csv, args.label_column)
        if column is None:
            raise InputError(f'--train_csv {args.train_csv} has no labels')
        print(describe_label_column(args.train_csv, column))
        labels = pd.to_numeric(table[column], errors='coerce')
        bad = np.flatnonzero(~labels.isin(range(k)))
        if len(bad):
            raise InputError(f"--train_csv {args.train_csv}, row {rows[bad[0]]}: '{table[column][bad[0]]}' in column '{column}' is not "
                             f'one of the classes 0..{k - 1} of the predictions (choose another column with --label_column)')
        labels = labels.astype(int)
        pairs = sorted({pair for name in set(NAME_COLUMNS) & set(table) for pair in zip(labels, table[name].fillna(''), strict=True)})
        for problem in find_unknown_names(pairs, class_names):
            raise InputError(f'--train_csv {args.train_csv}: {problem}')
        return np.bincount(labels, minlength=k).tolist()
    return None


def assumed_frequencies(args):
    """-> class frequencies that the probabilities of the csv assume, a list of length K; None if --run and the csv do not tell"""
    results = results_of(args.csvs[0]) if args.run and args.calibration else None
    if results is None or results.checkpoint is None:
        return None
    from utils.testing.post_hoc import assumed_prior  # imported here because it needs torch
    config = read_config(args.run)
    found = assumed_prior(config, config['class_count'], max(results.checkpoint.epoch - 1, 0), results.correction)
    return None if found is None else found.tolist()


def further_scores(tables, of, args, **options):
    """Print the scores of --per and --by. -> {'per', 'subgroups': plain values}. `of`: how the files are interpreted (`evaluate_files`)."""
    further: dict = {}
    per, columns = parse_per(args.per), parse_by(args.by)
    if per:
        check_rule(per, options['ordered'])
        grouped = [per_group(table, per) for table in tables]
        result = evaluate_files(grouped, args.draws, args.seed, **options)
        print(f"\nPer {per.text}: {counted(len({name for table in grouped for name in table.image_ids}), 'group')}\n\n"
              + report_text(result, len(tables)))
        further['per'] = {'column': per.column, 'rule': per.rule} | result
    as_one = {'': tables} if len(tables) != 2 or of == 'pooled' else {table.path: [table] for table in tables}
    for name, of_name in as_one.items():
        together = [pool(of_name)] if of == 'pooled' else of_name
        for by in columns:
            groups = subgroups(together, by, args.draws, args.seed, **options)
            print('\n' + (f'{name}\n' if name else '') + subgroups_text(groups))
            further.setdefault('subgroups', {}).setdefault(by.column, {})[name or 'all'] = as_json(groups)
    return further


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.draws < 100 or args.seed < 0 or not all(0 < level < 1 for level in args.at):
        raise InputError('--draws must be 100 or more, --seed 0 or more, each --at between 0 and 1')
    if args.json and is_results_file(args.json):
        raise InputError(f'--json {args.json} would overwrite a results file of a test script: choose another name')
    check_decision_flags(args)
    tables = [read_labelled(csv) for csv in args.csvs]
    class_names = tables[0].class_names
    metric = None
    if args.run:
        config = read_config(args.run)
        check_classes(tables[0], config['class_names'], f'--run {args.run}')
        metric = config['metric']
    ordered = are_ordered(tables, args.ordered) or is_ordered(class_names, metric, args.ordered)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT, is_ordered=ordered, is_pair=len(tables) == 2 and are_repeats(tables))
    referable = min(REFERABLE, len(class_names) - 1) if args.referable is None else args.referable
    if ordered and not 0 <= referable < len(class_names):
        raise InputError(f'--referable {referable} is outside the grades 1..{len(class_names) - 1}')
    text, decisions = '', {}
    if len(tables) == 1:  # before the other scores, since it checks the flags of decisions
        text, decisions = evaluate_decisions(tables[0], args, levels=args.at, ordered=ordered, referable=referable,
                                             frequencies=assumed_frequencies(args))
    result = evaluate_files(tables, args.draws, args.seed, ordered=ordered, class_count=training_counts(args, class_names),
                            levels=args.at, referable=referable, stratified=args.stratified)
    differing = {}  # two files of the same images may differ: they are compared
    if result['of'] == 'pooled' or len(tables) > 2:
        differing = differing_settings(args.csvs, [0 if result['of'] == 'mean' else i for i in range(len(tables))])
    if differing:
        print(f'* Note: the files are pooled, but the settings of their runs differ: {describe_settings(differing)}', file=sys.stderr)
    notes = [*filter(None, map(replaced_network, args.csvs)), *copies_note({'files': args.csvs}), *filter(None, map(other_classes, tables))]
    if result['of'] == 'pooled' or len(tables) > 2:
        notes += ways_note({csv: [csv] for csv in args.csvs})
    for note in notes:
        print(f'* Note: {note}', file=sys.stderr)
    for table in tables:
        print(f"{table.path}: {counted(len(table.labels), 'image')}, {len(class_names)} classes"
              + (f", {counted(len(set(table.patient_ids)), 'patient')}" if table.patient_ids else ''))
    print(report_text(result, len(tables)))
    options = {'ordered': ordered, 'stratified': args.stratified}
    further = further_scores(tables, result['of'], args, **options)
    if text:
        print(f'\n{text}')
        further['decisions'] = decisions
    if args.json:
        settings = {'files': args.csvs, 'n_images': len({i for table in tables for i in table.image_ids}), 'class_names': class_names,
                    'ordered': ordered, 'draws': args.draws, 'seed': args.seed, 'intervals': INTERVALS,
                    'sha256': [file_sha256(csv) for csv in args.csvs], 'settings_differ': differing}
        keep_private(args.private, beside=os.path.dirname(args.json))
        write_text(args.json, json.dumps(settings | result | further, indent=1, ensure_ascii=False) + '\n')
        print(f'* Wrote {args.json}')
    file, *others = {os.path.basename(csv) for csv in args.csvs}
    if not others:  # files of one name can be compared with those of the same name in other folders
        say_next('compare with other runs', 'python', '-m', 'tools.compare_experiments', group_of(args.csvs[0]),
                 *([] if file == 'results_test.csv' else ['--file', file]))


if __name__ == '__main__':
    run_script(main)
