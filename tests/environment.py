"""Environment variables of the tests. Import it first, because some libraries read their variables when they are imported."""
import os

# Variables that a shell, launcher or cluster may set. They change results, messages or the number of processes, so a test would pass on
# one machine and fail on another.
NAMES = ('SEEDS', 'ENDO_URL', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'GROUP_RANK', 'COLUMNS', 'LINES', 'LANG', 'LANGUAGE',
         'NO_COLOR', 'FORCE_COLOR', 'MPLBACKEND', 'MATPLOTLIBRC', 'SOURCE_DATE_EPOCH', 'PYTHONIOENCODING', 'PYTHONUTF8', 'PYTHONWARNINGS',
         'PYTHONOPTIMIZE', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY')
PREFIXES = ('ACCELERATE_', 'MASTER_', 'TORCHELASTIC_', 'TQDM_', 'LC_')
FIXED = {
    'COLUMNS': '80',  # otherwise --help is wrapped to the width of the terminal
    'LC_ALL': 'C.UTF-8',
    'OMP_NUM_THREADS': '1',  # threads cost more than they gain for tiny tensors, even more if other programs use the cores
}

# Device of tests/test_cuda.py: 'cuda', 'cpu' (a rehearsal), or None (skipped). No other test may use a GPU, which rounds differently and
# has other random numbers.
DEVICE = os.environ.get('LT_TEST_DEVICE') or None
if DEVICE not in (None, 'cpu', 'cuda'):
    raise SystemExit(f'LT_TEST_DEVICE must be cuda or cpu, not {DEVICE}')
if DEVICE != 'cuda':
    FIXED |= {'CUDA_VISIBLE_DEVICES': '', 'HIP_VISIBLE_DEVICES': ''}  # for this process and its children

for name in list(os.environ):
    if name.upper() in NAMES or name.startswith(PREFIXES):
        del os.environ[name]
os.environ |= FIXED
