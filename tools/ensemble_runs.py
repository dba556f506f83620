"""Combine trained networks into one that averages their probabilities. It is tested, used and exported like a run.

The networks must have the same architecture, classes and image size, such as runs that differ only in the seed.

Example, after SEEDS="0 1" bash run_lt_experiments.sh:

  python -m tools.ensemble_runs experiments/demo/BSCE/seed0 experiments/demo/BSCE/seed1 --out experiments/demo_ensemble
"""
from utils.cli import say_next, script_parser, to_test
from utils.common import run_script
from utils.data.permissions import add_private_flag, keep_private
from utils.runs.formats import read_config


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('runs', nargs='+', metavar='RUN', help='run folder (its best epoch), checkpoint folder or file')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='new run folder, usually below experiments/')
    parser.add_argument('--overwrite', action='store_true', help='replace an ensemble in FOLDER')
    add_private_flag(parser)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    from utils.prediction.ensemble import are_folds, save_ensemble  # imported here: it takes seconds

    keep_private(args.private, args.out)
    save_ensemble(args.runs, args.out, args.overwrite)
    print(f'* Wrote {args.out}: {len(args.runs)} networks')
    config = read_config(args.out)
    if are_folds(args.runs):
        say_next('predict images', 'python', '-m', 'tools.predict', '--load_path', args.out, config['data_path'])
    else:
        say_next(*to_test(args.out, config['csv_train'], config['csv_val'], config['data_path']))


if __name__ == '__main__':
    run_script(main)
