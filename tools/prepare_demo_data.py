"""Write the demo set: synthetic fundus images in five grades with a long-tailed distribution, and train/val/test csvs.

Example:

  python -m tools.prepare_demo_data
"""
import os

from utils.cli import say_next, script_parser, to_train
from utils.common import run_script
from utils.datasets.demo import write_demo_data


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--out', default='data/demo', metavar='FOLDER', help='folder to write; if it exists, nothing is written')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the images')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not os.path.exists(args.out):
        write_demo_data(args.out, args.seed)
    print(f'* Demo set in {args.out}: images/, train_demo.csv, val_demo.csv, test_demo.csv')
    paths = [os.path.join(args.out, name) for name in ('train_demo.csv', 'val_demo.csv', 'images')]
    say_next('train', *to_train(*paths, 5, '--im_size', 64, '--model_name', 'regnetx_002', '--init', 'none', '--batch_size', 32,
                                '--optimizer', 'adamw', '--lr', .004, '--schedule', 'onecycle', '--n_epochs', 5, '--metric', 'bacc',
                                '--save_path', 'first/plain'))


if __name__ == '__main__':
    run_script(main)
