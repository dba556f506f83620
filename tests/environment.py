"""The environment of the tests. Imported before anything else, because some libraries read their variables when they are imported."""
import os

# A shell, a launcher or a cluster may have set these. They change results, messages or the number of processes, so a test would pass
# on one machine and fail on another.
NAMES = ('SEEDS', 'ENDO_URL', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'GROUP_RANK', 'COLUMNS', 'LINES', 'LANG', 'LANGUAGE',
         'NO_COLOR', 'FORCE_COLOR', 'MPLBACKEND', 'MATPLOTLIBRC', 'SOURCE_DATE_EPOCH', 'PYTHONIOENCODING', 'PYTHONUTF8', 'PYTHONWARNINGS',
         'PYTHONOPTIMIZE', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY')
PREFIXES = ('ACCELERATE_', 'MASTER_', 'TORCHELASTIC_', 'TQDM_', 'LC_')
FIXED = {
    'COLUMNS': '80',  # else the width of the terminal wraps --help
    'LC_ALL': 'C.UTF-8',
    'OMP_NUM_THREADS': '1',  # tiny tensors: threads cost more than they gain, and far more where other programs want the cores
}

# What tests/test_cuda.py runs on: 'cuda'; 'cpu', a rehearsal; or None, where it is left out. No other test may depend on a GPU: a GPU
# rounds otherwise and has random numbers of its own.
DEVICE = os.environ.get('LT_TEST_DEVICE') or None
if DEVICE not in (None, 'cpu', 'cuda'):
    raise SystemExit(f'LT_TEST_DEVICE must be cuda or cpu, not {DEVICE}')
if DEVICE != 'cuda':
    FIXED |= {'CUDA_VISIBLE_DEVICES': '', 'HIP_VISIBLE_DEVICES': ''}  # for this process and those that it starts

for name in list(os.environ):
    if name.upper() in NAMES or name.startswith(PREFIXES):
        del os.environ[name]
os.environ |= FIXED
