"""Test a checkpoint on a test csv (EyePACS by default), and on a validation csv where --csv_val names one."""
from utils.common import run_script
from utils.run_test import main

if __name__ == '__main__':
    run_script(lambda: main(__doc__, {'val': None, 'test': 'data/test_eyepacs.csv'}, data_path='data/eyepacs_all_ims/',
                            dihedral_tta=1))
