"""Write the synthetic long-tailed fundus set: images and train/val/test csvs (see utils/demo_data.py)."""
import argparse
import os

from utils.common import run_script
from utils.demo_data import write_demo_data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='data/demo', help='folder to write; nothing happens where it exists')
    parser.add_argument('--seed', type=int, default=0, help='random seed of the images')
    args = parser.parse_args()
    if not os.path.exists(args.out):
        write_demo_data(args.out, args.seed)
    print(f'* Demo set in {args.out}: images/, train_demo.csv, val_demo.csv, test_demo.csv')


if __name__ == '__main__':
    run_script(main)
