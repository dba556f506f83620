"""Peak memory of a training run and of the straightforward loop, and page faults of training steps, each in a new process."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = 'import train_lt_mxp; train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(sys.argv[1:]))'
REFERENCE = '''
from utils.cli import tune_process
tune_process()
import torch
from benchmarks.reference_loop import ReferenceLoop
a = sys.argv[1:]
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
ReferenceLoop(*a[:3], int(a[3]), a[4], (int(a[5]), int(a[6])), int(a[7]), int(a[8]), .2, device).epoch()
'''
# Page faults of five training steps, after five that touch the memory for the first time.
FAULTS = '''
import resource
import torch
layers = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()) for _ in range(8)])
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        layers(torch.ones(20000, 64)).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults()
print(faults())
'''
END = '''
import torch
from benchmarks.memory import peak
print(peak(), torch.cuda.max_memory_allocated() / 2 ** 20 if torch.cuda.is_available() else 0)
'''


def peak():
    """-> peak memory of this process in MB. (`ru_maxrss` would include the parent process.)"""
    status = Path('/proc/self/status').read_text()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024


def run(code, argv, end=END):
    """Run `code` and then `end` in a new process. -> numbers in its last line of output: peak memory of the host and the device in MB"""
    out = subprocess.check_output([sys.executable, '-c', f'import sys\n{code}\n{end}', *map(str, argv)], text=True,
                                  env=os.environ | {'PYTHONPATH': str(ROOT)})
    return map(float, out.splitlines()[-1].split())


def page_faults(first):
    """-> page faults of five training steps in a new process that first runs the code `first`"""
    faults, = run(first, [], end=FAULTS)
    return faults


def rows(ours, args):
    """-> rows (name, value, unit, ratio, note)"""
    workers = min(args.num_workers, os.cpu_count() or 1)
    reference = (args.csv_train, args.csv_val, args.data_path, args.n_classes, args.model_name, *args.im_size, args.batch_size, workers)
    result = []
    for name, code, argv in (('training, Balanced-MixUp', OURS, ours), ('straightforward loop', REFERENCE, reference)):
        host, device = run(code, argv)
        result.append((f'peak memory, {name}', host, 'MB', None, 'of the main process'))
        if device:
            result.append((f'peak memory on the device, {name}', device, 'MB', None, ''))
    ours, plain = page_faults('from utils.cli import tune_process; tune_process()'), page_faults('')
    return result + [('page faults of training steps', ours, '', ours / max(plain, 1), 'of the number with default glibc settings')]
