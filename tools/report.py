"""One page to look at and to send: report.html, a single file that needs no network, for one run or to compare several.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.report experiments/demo/BSCE/seed0
  python -m tools.report results/demo --baseline instance
  python -m tools.report results/demo/BSCE/seed0 --with_images --data_path data/demo/images
"""
import argparse
import os
from datetime import date
from pathlib import Path

from utils.cli import say_next, script_parser
from utils.common import InputError, check_writable, progress, run_script, write_text
from utils.data.permissions import add_private_flag, keep_private
from utils.report import scores, training
from utils.report.comparison import comparison_sections
from utils.report.html import join, page, section, tag
from utils.report.runs import find_runs
from utils.report.thumbnails import mistakes
from utils.runs.provenance import PAGES, source_lines
from utils.statistics.bootstrap import STRATIFIED, bootstrap_metrics
from utils.statistics.plots import to_svg
from utils.statistics.weighted_metrics import LEVEL, REFERABLE, is_ordered
from utils.without_effect import warn

MOST_DETAILS = 6  # runs of a comparison that are shown one by one, too
WITHOUT_EFFECT = (
    *((flag, 'for runs that have not been tested', lambda a: not a.is_tested)
      for flag in ('draws', 'stratified', 'baseline', 'with_images')),
    ('with_images', f'for more than {MOST_DETAILS} runs, which are not shown one by one', lambda a: a.n_runs > MOST_DETAILS),
)


def get_parser():
    parser = script_parser(__doc__)
    runs = parser.add_argument_group('runs')
    runs.add_argument('runs', nargs='+', metavar='RUN_OR_RESULTS',
                      help='run below experiments/, its folder below results/, a per-image csv, or a folder of many')
    runs.add_argument('--file', metavar='NAME', help='per-image csvs to read (default: results_test.csv, else results_val.csv)')
    content = parser.add_argument_group('content')
    content.add_argument('--baseline', metavar='METHOD', help='of several methods: show the paired difference of each to this one')
    content.add_argument('--ordered', action=argparse.BooleanOptionalAction,
                         help='the classes are grades: kappa has a meaning (default: when they are called DR0, DR1, ... or grade 0, ..., '
                              'or a run chose its epoch by kappa)')
    content.add_argument('--stratified', action='store_true', help=STRATIFIED)
    content.add_argument('--draws', type=int, default=1000, metavar='N', help='bootstrap draws, 100 or more')
    content.add_argument('--with_images', action='store_true',
                         help='show the most confident mistakes, with image names: the file then holds data of patients')
    content.add_argument('--data_path', metavar='FOLDER', help='folder of the images, for --with_images')
    output = parser.add_argument_group('output')
    output.add_argument('--out', metavar='FILE', help='file to write (default: report.html in the folder of the results)')
    add_private_flag(output)
    return parser


def run_sections(run, ordered, level=2, prefix='', data_path=None, draws=1000, stratified=False):
    """-> list of (anchor, title, section) of one `Run`; what it has no files for is left out. `ordered`: the classes are grades."""
    def svg(name, drawn, alt):
        return to_svg(drawn, f'{prefix}{name}', alt)

    count, untested = run.config and run.config['class_count'], 'There are no labelled predictions of this run: test it first.'
    parts = [('scores', 'Scores', [tag('p', untested, class_='note')]), ('run', 'What was run', training.what_was_run(run)),
             ('data', 'Images of each class', training.images_of_classes(run, svg)),
             ('training', 'Training', training.training(run, svg))]
    if run.table:
        result = bootstrap_metrics(run.table, draws, ordered=ordered, class_count=count, levels=[LEVEL], referable=REFERABLE,
                                   stratified=stratified)
        parts[0] = ('scores', 'Scores', scores.scores(run.table, result, run.seen_as))
        parts += [('confusion', 'Right and wrong answers', scores.confusion(run.table, svg)),
                  ('classes', 'Each class', scores.each_class(run.table, result, svg, count)),
                  ('thresholds', 'Ranking and thresholds', scores.thresholds(run.table, result, svg)),
                  ('trust', 'Can the probabilities be trusted?', scores.trust(run.table, result, svg)),
                  ('mistakes', 'Most confident mistakes', mistakes(run.table, data_path))]
    parts = [(f'{prefix}{anchor}', title, content) for anchor, title, content in parts if content]
    return [(anchor, title, section(level, anchor, title, *content)) for anchor, title, content in parts]


def class_names_of(run):
    return run.config['class_names'] if run.config else run.table.class_names


def lead(runs):
    """What the page is about, in one sentence."""
    classes = class_names_of(runs[0])
    networks = sorted({run.config['model_name'] for run in runs if run.config})
    tested = sorted({len(run.table.labels) for run in runs if run.table})
    what = f"How well {'a network tells' if len(runs) == 1 else f'{len(runs)} networks tell'} {len(classes)} classes of images apart"
    by = f" ({', '.join(networks)})" if networks else ''
    return tag('p', what + by + (f", measured on {' or '.join(f'{n:,}' for n in tested)} images." if tested else ', not tested yet.'))


def report(runs, data_path=None, draws=1000, baseline=None, ordered=None, folder=os.curdir, stratified=False):
    """-> the text of report.html for one or several `Run`. `ordered`: the classes are grades; None: by their names and the --metric of
    the runs. `folder`: where the page will lie."""
    ordered = any(is_ordered(class_names_of(run), run.config and run.config['metric'], ordered) for run in runs)
    if len(runs) == 1:
        title, parts = runs[0].name, run_sections(runs[0], ordered, data_path=data_path, draws=draws, stratified=stratified)
    else:
        title, parts = f'Comparison of {len(runs)} runs', comparison_sections(runs, draws, baseline, ordered, stratified)
        shown = runs if len(runs) <= MOST_DETAILS else []
        with progress(len(shown), 'runs one by one', unit='run') as bar:
            for i, run in enumerate(shown):
                inner = run_sections(run, ordered, 3, f'run{i}-', data_path, draws, stratified)
                parts.append((f'run{i}', run.name, section(2, f'run{i}', f'Run {run.name}', *(part for _, _, part in inner))))
                bar.update()
        if len(runs) > MOST_DETAILS:
            text = f'More than {MOST_DETAILS} runs are not shown one by one: write the report of a single run for its figures.'
            parts.append(('one', 'Each run', section(2, 'one', 'Each run', tag('p', text))))
    footer = tag('p', f'Written on {date.today():%d %B %Y} from the files of the runs. Research software: not a medical device, not for '
                      'decisions about patients.')
    csvs = [run.table.path for run in runs if run.table]
    if csvs:
        footer = join([footer, tag('details', tag('summary', 'Predictions on this page (SHA-256)'),
                                   tag('pre', source_lines(csvs, folder), class_='sources'))])
    return page(title, lead(runs), [(anchor, name) for anchor, name, _ in parts], *(part for _, _, part in parts), footer=footer)


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.draws < 100:
        raise InputError('--draws must be 100 or more')
    if args.with_images != (args.data_path is not None):
        raise InputError('--with_images and --data_path FOLDER belong together: images are shown only when both are given')
    if args.data_path is not None and not os.path.isdir(args.data_path):
        raise InputError(f'--data_path {args.data_path} is no folder')
    runs = find_runs(args.runs, args.file)
    warn(parser, argv, args, WITHOUT_EFFECT, is_tested=any(run.table for run in runs), n_runs=len(runs))
    if args.file and not any(run.table for run in runs):
        raise InputError(f'--file {args.file}: none of the runs has it, with labels')
    if args.baseline and len(runs) == 1:
        raise InputError('--baseline compares several runs: name more of them, or their common folder')
    folders = [os.path.abspath(run.results or run.folder) for run in runs]
    name = PAGES[args.with_images]  # the one to send does not become the one not to
    out = args.out or os.path.join(os.path.relpath(os.path.commonpath(folders)), name)
    keep_private(args.private, beside=os.path.dirname(out))
    check_writable(os.path.dirname(out))
    write_text(out, report(runs, args.data_path, args.draws, args.baseline, args.ordered, os.path.dirname(out) or os.curdir,
                           args.stratified))
    print(f"* Wrote {out}{', which holds images of patients' if args.with_images else ''}")
    say_next('open it in a browser', 'python', '-m', 'webbrowser', Path(out).resolve().as_uri())


if __name__ == '__main__':
    run_script(main)
