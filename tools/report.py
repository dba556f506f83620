r"""Write a report on one run, or a comparison of several, as a single HTML file that needs no network.

Examples, after the demonstration (bash run_lt_experiments.sh):

  python -m tools.report experiments/demo/BSCE/seed0
  python -m tools.report results/demo --baseline instance
  python -m tools.report results/demo/BSCE/seed0 --with_images --data_path data/demo/images
  python -m tools.report results/demo --title "Grading of retinopathy" --author "A. Author, B. University" \
      --purpose "Choice of a loss for rare grades" --data "Drawn fundus images, five grades"
"""
from utils.cli import tune_process

tune_process()  # before the imports below

import argparse
import os
from pathlib import Path

from utils.cli import say_next, script_parser, warn_without_effect
from utils.common import InputError, check_writable, run_script, write_text
from utils.data.permissions import add_private_flag, keep_private
from utils.prediction.per_group import HELP as PER_HELP
from utils.prediction.per_group import parse_per
from utils.report.runs import MOST_DETAILS, find_runs
from utils.runs.provenance import PAGES
from utils.statistics.bootstrap import STRATIFIED
from utils.statistics.subgroups import HELP as BY_HELP
from utils.statistics.subgroups import parse_by

WITHOUT_EFFECT = (
    *((flag, 'for runs that have not been tested', lambda a: not a.is_tested)
      for flag in ('draws', 'stratified', 'baseline', 'with_images', 'by', 'per')),
    *((flag, f'for more than {MOST_DETAILS} runs, which have no sections for single runs', lambda a: a.n_runs > MOST_DETAILS)
      for flag in ('by', 'per', 'with_images')),
)


def get_parser():
    parser = script_parser(__doc__)
    runs = parser.add_argument_group('runs')
    runs.add_argument('runs', nargs='+', metavar='RUN_OR_RESULTS',
                      help='run folder below experiments/ or results/, predictions csv, or folder with several of them')
    runs.add_argument('--file', metavar='NAME', help='name of the predictions csvs (default: results_test.csv, else results_val.csv)')
    head = parser.add_argument_group('head of the page')
    head.add_argument('--title', metavar='TEXT', help='title (default: name of the run, or number of runs)')
    head.add_argument('--author', metavar='TEXT', help='who wrote the report')
    head.add_argument('--purpose', metavar='TEXT', help='purpose of the report')
    head.add_argument('--data', metavar='TEXT', help='description of the images and their source')
    content = parser.add_argument_group('content')
    content.add_argument('--baseline', metavar='METHOD', help='method to compare the others with, by paired differences')
    content.add_argument('--ordered', action=argparse.BooleanOptionalAction,
                         help='treat the classes as ordered grades and report kappa (default: if they are called DR0, DR1, ... or '
                              'grade 0, ..., or if a run selected its epoch by kappa)')
    content.add_argument('--stratified', action='store_true', help=STRATIFIED)
    content.add_argument('--by', nargs='+', default=[], metavar='COLUMN[:LIMITS]', help=BY_HELP)
    content.add_argument('--per', metavar='COLUMN[:worst]', help=PER_HELP)
    content.add_argument('--draws', type=int, default=1000, metavar='N', help='bootstrap resamples, 100 or more')
    content.add_argument('--with_images', action='store_true',
                         help='show the most confident mistakes with image names; the file then holds patient data')
    content.add_argument('--data_path', metavar='FOLDER', help='folder of the images for --with_images')
    output = parser.add_argument_group('output')
    output.add_argument('--out', metavar='FILE', help='file to write (default: report.html in the results folder)')
    output.add_argument('--model_card', action='store_true', help='also write model_card.md beside the page, for a single run')
    add_private_flag(output)
    return parser


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.draws < 100:
        raise InputError('--draws must be 100 or more')
    if args.with_images != (args.data_path is not None):
        raise InputError('--with_images and --data_path FOLDER belong together: give both or neither')
    if args.data_path is not None and not os.path.isdir(args.data_path):
        raise InputError(f'--data_path {args.data_path} is not a folder')
    runs = find_runs(args.runs, args.file)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT, is_tested=any(run.table for run in runs), n_runs=len(runs))
    if args.file and not any(run.table for run in runs):
        raise InputError(f'--file {args.file}: no run has a file of this name with labels')
    if args.model_card and len(runs) > 1:
        raise InputError('--model_card needs a single run: give one run folder')
    if args.baseline and len(runs) == 1:
        raise InputError('--baseline needs several runs: give more of them, or a folder that holds several')
    folders = [os.path.abspath(run.results or run.folder) for run in runs]
    name = PAGES[args.with_images]  # a page with images never replaces one without
    out = args.out or os.path.join(os.path.relpath(os.path.commonpath(folders)), name)
    keep_private(args.private, beside=os.path.dirname(out))
    check_writable(os.path.dirname(out))
    from utils.report.build import ReportOptions, build_model_card, build_report  # imported here: matplotlib is needed only from here on
    options = ReportOptions(data_path=args.data_path, draws=args.draws, baseline=args.baseline, ordered=args.ordered,
                            stratified=args.stratified, folder=os.path.dirname(out) or os.curdir, title=args.title,
                            author=args.author, purpose=args.purpose, data=args.data, by=parse_by(args.by), per=parse_per(args.per))
    write_text(out, build_report(runs, options))
    print(f"* Wrote {out}{', which holds images of patients' if args.with_images else ''}")
    if args.model_card:
        card = os.path.join(os.path.dirname(out), 'model_card.md')
        write_text(card, build_model_card(runs[0], options))
        print(f'* Wrote {card}')
    say_next('open it in a browser', 'python', '-m', 'webbrowser', Path(out).resolve().as_uri())


if __name__ == '__main__':
    run_script(main)
