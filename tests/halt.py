"""Run a script and pause it in the middle of a phase, so that a test can kill it there.

In a phase of FILES, it pauses after half of the N-th write to such a file; in `evaluation`, after the N-th batch. With N 0 it does not
pause. When it pauses or ends, the last line on stderr is a JSON object with the number of times each phase was reached.

Example:

  python -m tests.halt checkpoint 3 train_lt_mxp.py --save_path halted
"""
import argparse
import builtins
import contextlib
import io
import json
import runpy
import signal
import sys
from collections import Counter

from tests import tiny_network
from tests.writes import watched_open
from utils.cli import script_parser
from utils.prediction import inference

FILES = {'cache': '*.npy.*.tmp', 'checkpoint': '*/model_checkpoint.pth.*.tmp', 'results': '*/results_*.csv.*.tmp',
         'report': '*/report.html.*.tmp'}


class Halt:
    def __init__(self, phase, n):
        self.phase, self.n, self.passed = phase, n, Counter()
        for name, pattern in FILES.items():
            builtins.open = watched_open(pattern, lambda raw, data, name=name: self.write(name, raw, data))
        self.plain, inference.progress = inference.progress, self.progress

    def arrive(self, phase):
        """-> whether to pause here"""
        self.passed[phase] += 1
        return phase == self.phase and self.passed[phase] == self.n

    def hold(self):
        self.tell()
        signal.pause()

    def tell(self):
        print(json.dumps(self.passed), file=sys.stderr, flush=True)

    def write(self, phase, raw, data):
        if self.arrive(phase):
            io.FileIO.write(raw, data[:len(data) // 2])
            self.hold()

    @contextlib.contextmanager
    def progress(self, *args):
        with self.plain(*args) as bar:
            update = bar.update

            def counted(n):
                update(n)
                if self.arrive('evaluation'):
                    self.hold()
            bar.update = counted
            yield bar


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('phase', metavar='PHASE', help=f"{', '.join(FILES)}, evaluation, or any other word for no phase")
    parser.add_argument('n', type=int, metavar='N', help='pause at the N-th time')
    parser.add_argument('script', metavar='SCRIPT', help='script to run')
    parser.add_argument('flags', nargs=argparse.REMAINDER, metavar='...', help='its flags')
    return parser


def run(phase, n, script, flags):
    tiny_network.register()
    halt = Halt(phase, n)
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name='__main__')
    halt.tell()


def main():
    args = get_parser().parse_args()
    run(args.phase, args.n, args.script, args.flags)


if __name__ == '__main__':
    main()
