"""Test a checkpoint on a validation csv (Hyper-Kvasir's folds by default)."""
from utils.common import run_script
from utils.run_test import main

if __name__ == '__main__':
    run_script(lambda: main(__doc__, {'val': 'data/val_endo1.csv'}, data_path='data/images/', dihedral_tta=0))
