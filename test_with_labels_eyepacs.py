r"""Test a trained network on a test csv (EyePACS by default), and on a validation csv where --csv_val names one: a report, and a csv
with the probabilities of each image, in results/<name of the run>/.

Example, with a run of the demonstration (bash run_lt_experiments.sh):

  python test_with_labels_eyepacs.py --load_path experiments/demo/BSCE/seed0 --csv_test data/demo/test_demo.csv \
      --calibrate
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

from utils.common import run_script
from utils.testing import scoring

DEFAULTS = {'splits': {'val': None, 'test': 'data/test_eyepacs.csv'}, 'dihedral_tta': 1}


def get_parser():
    return scoring.get_parser(__doc__, **DEFAULTS)


if __name__ == '__main__':
    run_script(lambda: scoring.main(__doc__, **DEFAULTS), 'use a smaller --batch_size')
