"""Test a trained network on a validation csv, by default fold 1 of Hyper-Kvasir.

Writes a text report and a csv with the predictions for each image to results/<run>/.

Example, after the demonstration (bash run_lt_experiments.sh):

  python test_with_labels_endo.py --load_path experiments/demo/BSCE/seed0 --csv_val data/demo/val_demo.csv
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

from utils.common import run_script
from utils.testing import scoring

DEFAULTS = {'splits': {'val': 'data/val_endo1.csv'}, 'dihedral_tta': 0}


def get_parser():
    return scoring.get_parser(__doc__, **DEFAULTS)


if __name__ == '__main__':
    run_script(lambda: scoring.main(__doc__, **DEFAULTS), 'use a smaller --batch_size')
