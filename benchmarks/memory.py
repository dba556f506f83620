"""Peak memory of a training run and of the straightforward loop, each in a process of its own."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
REFERENCE = '''
import sys
import utils
import torch
from benchmarks.reference_loop import ReferenceLoop
a = sys.argv[1:]
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
ReferenceLoop(*a[:3], int(a[3]), a[4], (int(a[5]), int(a[6])), int(a[7]), int(a[8]), .2, device).epoch()
print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
'''
OURS = '''
import sys
import train_lt_mxp
import torch
train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(sys.argv[1:]))
print(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
'''


def peak(code, argv):
    """-> MB of the main process and of the device"""
    process = subprocess.Popen([sys.executable, '-c', code, *map(str, argv)], stdout=subprocess.PIPE, text=True,
                               env=os.environ | {'PYTHONPATH': str(ROOT)})
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args[:2])
    return usage.ru_maxrss / 1024, int(out.splitlines()[-1]) / 2 ** 20


def rows(ours, args):
    """-> rows (name, value, unit, ratio, of what)"""
    workers = min(args.num_workers, os.cpu_count() or 1)
    reference = (args.csv_train, args.csv_val, args.data_path, args.n_classes, args.model_name, *args.im_size, args.batch_size, workers)
    result = []
    for name, code, argv in (('training, Balanced-MixUp', OURS, ours), ('straightforward loop', REFERENCE, reference)):
        host, device = peak(code, argv)
        result.append((f'peak memory, {name}', host, 'MB', None, 'of the largest process'))
        if device:
            result.append((f'peak memory on the device, {name}', device, 'MB', None, ''))
    return result
