r"""Run one stage of the GPU check. benchmarks/gpu_check.sh runs all stages, each with a time limit.

Examples (the second one needs no GPU):

  python -m benchmarks.gpu.run decode --out results/gpu_check
  python -m benchmarks.gpu.run decode --out results/gpu_check --cpu
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import importlib
import os
import signal
import sys

import torch

from utils.cli import script_parser
from utils.common import InputError, Interrupted, run_script
from utils.prediction.accelerator import gpu_problem

from .checks import Stage

STAGES = ('device', 'data', 'correct', 'fast', 'decode', 'study')  # each is a file of the same name
A_CHECK_FAILED = 3  # exit status; a stage that crashes exits with 1


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('stage', choices=STAGES, metavar='STAGE', help=f"stage to run: {', '.join(STAGES)}")
    parser.add_argument('--out', required=True, metavar='FOLDER', help='output folder for <stage>.json and <stage>.log')
    parser.add_argument('--data', metavar='FOLDER', help='folder of the synthetic images (default: data in --out)')
    parser.add_argument('--seconds', type=float, default=180, metavar='S', help='time limit; checks that need more are skipped')
    parser.add_argument('--cpu', action='store_true', help='use small sizes, for a machine without a GPU')
    return parser


def all_output_to(path):
    """Redirect the output of this process and its children to the file `path`. -> the original console"""
    console = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
    return console


def stop(number, frame):
    """Turn the signal into an exception, so that temporary folders are removed."""
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(number)


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not args.cpu and not torch.cuda.is_available():
        raise InputError(f"PyTorch {torch.__version__} finds no CUDA GPU ({gpu_problem() or 'this machine seems to have none'}): use --cpu "
                         'to run the checks at small sizes on the CPU')
    out = os.path.abspath(args.out)
    os.makedirs(out, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)  # sent by `timeout`
    console = all_output_to(os.path.join(out, f'{args.stage}.log'))
    stage = Stage(args.stage, out, args.cpu, args.seconds, os.path.abspath(args.data or os.path.join(out, 'data')), console)
    importlib.import_module(f'benchmarks.gpu.{args.stage}').run(stage)
    sys.exit(A_CHECK_FAILED if stage.failed else 0)


if __name__ == '__main__':
    run_script(main)
