"""Fit the decisions of a trained network on validation images, and save them as decision.json in its run folder.

The file holds a temperature, prediction sets, thresholds for sensitivity and specificity, and a threshold for "not sure". The test scripts
and tools.predict use it for this checkpoint unless --no_decision is given. Do not use test images here.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.calibrate --load_path experiments/demo/BSCE/seed0
  python -m tools.calibrate --load_path experiments/demo/instance/seed0 --logit_adjust --coverage 0.95 --abstain 0.2
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import argparse
import contextlib
import os

from utils.cli import add_network_flag, network_flag, say_next, script_parser, sibling_csv, to_test
from utils.common import InputError, check_writable, file_sha256, printable, run_script
from utils.data.leakage import check_tuning, note_of_patients
from utils.data.permissions import add_private_flag, keep_private
from utils.decisions.abstention import fit_abstention
from utils.decisions.decision_file import Decision, decision_path, read_decision, write_decision
from utils.decisions.prediction_sets import KINDS
from utils.decisions.prevalence import fit_source
from utils.decisions.rules import Rules, fit_rules
from utils.decisions.scores import set_notes
from utils.model_saving_loading import load_model
from utils.prediction.accelerator import add_device_flag
from utils.prediction.inference import Logits, to_predictions
from utils.prediction.tta import add_view_flags, check_view_flags
from utils.runs.results import Checkpoint, SourceCsv, Views
from utils.statistics.tables import to_text
from utils.statistics.weighted_metrics import LEVEL, REFERABLE, is_ordered
from utils.testing.network import NetworkUnderTest, get_accelerator
from utils.testing.post_hoc import assumed_prior, last_epoch
from utils.testing.tuning import add_strength_flags, corrected, given_correction, tune_on, validation_csv


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--load_path', required=True, metavar='RUN', help='run folder (its best epoch), checkpoint folder or file')
    add_network_flag(data)
    data.add_argument('--csv_val', metavar='CSV', help='labelled validation csv to fit on (default: that of the training run)')
    data.add_argument('--label_column', metavar='COLUMN', help='column with the class (default: as in training)')
    data.add_argument('--data_path', metavar='FOLDER', help='image folder (default: as in training)')
    data.add_argument('--num_workers', type=int, default=8, metavar='N',
                      help='number of processes or threads that decode images, at most one per CPU core')
    data.add_argument('--cache_dir', metavar='FOLDER', help='folder for a cache of decoded images')
    data.add_argument('--skip_bad_images', action='store_true', help='skip images that cannot be read')
    data.add_argument('--allow_outside_data_path', action='store_true', help='allow images outside of --data_path in the csv')
    method = parser.add_argument_group('method')
    add_view_flags(method)
    method.add_argument('--batch_size', type=int, default=8, metavar='N', help='batch size; evaluation uses four times this number')
    add_device_flag(method)
    add_strength_flags(parser.add_argument_group('corrections without training', 'use at most one of them'))
    rules = parser.add_argument_group('decisions')
    rules.add_argument('--coverage', type=float, default=.9, metavar='SHARE', help='share of prediction sets that contain the true class')
    rules.add_argument('--sets', default='class', choices=tuple(KINDS), help='; '.join(f'{kind}: {what}' for kind, what in KINDS.items()))
    rules.add_argument('--at', nargs='*', type=float, default=[LEVEL], metavar='LEVEL',
                       help='sensitivities and specificities to choose thresholds for')
    rules.add_argument('--referable', type=int, metavar='K',
                       help=f'also thresholds for grade >= K (default: {REFERABLE} for grades; 0: none)')
    rules.add_argument('--abstain', type=float, default=.1, metavar='SHARE', help='share of images to leave undecided; 0: none')
    output = parser.add_argument_group('output')
    add_private_flag(output)
    return parser


def check_flags(args, n_classes):
    check_view_flags(args)
    given_correction(args)
    for name, values in (('coverage', [args.coverage]), ('at', args.at), ('abstain', [args.abstain] if args.abstain else [])):
        for value in values:
            if not 0 < value < 1:
                raise InputError(f'--{name} {value:g} must be between 0 and 1')
    if args.referable is not None and not 0 <= args.referable < n_classes:
        raise InputError(f'--referable {args.referable} is outside the grades 1..{n_classes - 1}')


def rules_table(rules: Rules, class_names):
    """-> table of the calibration images and thresholds of each class"""
    rows = [['class', 'images', *(['in a set if p is at least'] if rules.sets else []),
             *dict.fromkeys(f'threshold for {point.aim} {100 * point.level:g} %' for point in rules.points)]]
    points = {(point.name, f'threshold for {point.aim} {100 * point.level:g} %'): f'{point.threshold:.3f}' for point in rules.points}
    names = [*class_names, *dict.fromkeys(point.name for point in rules.points if point.name not in class_names)]
    rule = rules.sets[0]
    for c, name in enumerate(names):
        own = c < len(class_names)
        share = rule.frequencies[c] if own and rule.kind in ('adjusted', 'between') and rule.frequencies[c] > 0 else 1
        rows.append([name, str(rule.counts[c]) if own else '-', f'{max((1 - rule.thresholds[c]) * share, 0):.3f}' if own else '-',
                     *(points.get((name, column), '-') for column in rows[0][3:])])
    return to_text(rows)


def main(argv=None):
    args = get_parser().parse_args(argv)
    loaded = load_model(args.load_path, args.model_name)
    info, names = loaded.info, loaded.info['class_names']
    args = argparse.Namespace(**vars(args), calibrate=True, salt=None, target_prior=None)
    check_flags(args, len(names))
    args.data_path = info['config']['data_path'] if args.data_path is None else args.data_path
    csv = args.csv_val or validation_csv(None, {}, info['config'], '--csv_val')
    path = decision_path(loaded.folder)
    keep_private(args.private, os.path.dirname(path), args.cache_dir)
    check_writable(os.path.dirname(path))
    network = NetworkUnderTest(args, loaded, get_accelerator(loaded, args.device), os.path.dirname(path))
    print(f'* Loaded {loaded}')
    loader = network.loader(csv, is_tuned_on=True)
    if not loader.dataset.has_labels:
        raise InputError(f'{csv} has no labels, which the calibration needs (--csv_val)')
    check_tuning(loader.dataset, {}, info, args.num_workers, flag='--csv_val')
    print(''.join(f'* {line}\n' for line in note_of_patients(loader.dataset, info['config']).splitlines()), end='')
    logits: Logits = network.logits(loader, 'calibrate')
    tuning = tune_on(network, csv, logits)
    predictions, temperature = corrected(logits, tuning, names)
    patients = loader.dataset.table.get('patient_id')
    patient_ids = None if patients is None else patients.fillna('image ' + loader.dataset.table.image_id).tolist()
    labels, ordered = logits.labels.numpy(), is_ordered(names, info['config']['metric'])
    referable = (min(REFERABLE, len(names) - 1) if ordered else 0) if args.referable is None else args.referable
    frequencies = assumed_prior(info['config'], info['class_count'], last_epoch(info), tuning.correction)
    rules = fit_rules(predictions.probs, labels, names, coverage=args.coverage, kinds=[args.sets], levels=args.at, referable=referable,
                      abstain=args.abstain, frequencies=None if frequencies is None else frequencies.tolist())
    raw = to_predictions(logits).probs
    source = fit_source(raw, labels, patient_ids)
    decision = Decision(
        checkpoint=Checkpoint(loaded.folder, info['epoch']), weights_sha256=info['checksum'],
        csv=SourceCsv(printable(csv), file_sha256(csv)), n_images=len(labels), class_names=names,
        tta=Views(args.dihedral_tta, tuple(args.zoom_tta)), correction=tuning.correction, temperature=tuning.temperature,
        source=source, rules=rules, prior_abstention=fit_abstention(source.calibrated(raw), args.abstain) if args.abstain else None,
        image_hashes=tuple(loader.dataset.content_hashes(args.num_workers).tolist()), path=path)
    replaced = read_replaced(path)
    write_decision(decision)
    print_summary(decision, temperature)
    if replaced:
        print(f'* It replaces the decisions of {replaced}')
    test = to_test(args.load_path, info['config']['csv_train'], csv, info['config']['data_path'])
    if csv == sibling_csv(info['config']['csv_train'], 'test'):
        print(f'* Warning: {csv} seems to be the test csv: tests of these images will not use the decisions')
    elif csv != test[-1]:
        say_next(*test, *network_flag(args.model_name))


def read_replaced(path):
    """-> checkpoint of the decision file that is replaced; None if there is none, or if it cannot be read"""
    with contextlib.suppress(InputError):
        before = read_decision(path)
        return before and before.checkpoint.folder


def print_summary(decision, temperature):
    names, rules = decision.class_names, decision.rules
    for line in filter(None, (decision.correction and decision.correction.line, temperature.line)):
        print(line)
    print('These are the images that it was fitted on: only a test on other images shows how well it works.')
    print(f'\n{rules_table(rules, names)}\n')
    print(f'Prediction sets ({rules.sets[0].kind}) for a coverage of {100 * rules.sets[0].coverage:g} %')
    for note in set_notes(rules, names):
        print(f'* Note: {note}')
    if rules.abstention:
        print(f'Not sure: if the highest probability is below {rules.abstention.threshold:.3f}, which holds for '
              f'{100 * rules.abstention.share:g} % of these images.')
    print(f'* Wrote {decision.path}')


if __name__ == '__main__':
    run_script(main, 'use a smaller --batch_size')
