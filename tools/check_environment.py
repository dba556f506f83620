"""Exit status 0 if this Python has every package of the given requirements files, else 1 and their names.

A Python that already has a torch of at least MINIMUM_TORCH is taken as it is, so that nobody has to install 5 GB again.

Example:

  python tools/check_environment.py requirements.txt
"""
import argparse  # and nothing that would have to be installed first: this file imports no other of the project
import importlib.metadata
import re
import sys

MINIMUM_TORCH = (2, 11)


def missing(files):
    for file in files:
        with open(file, encoding='utf-8') as f:
            names = [re.match(r'[A-Za-z0-9_.-]+', line).group() for line in f if re.match(r'[A-Za-z0-9]', line)]
        for name in names:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name
                continue
            if name == 'torch' and tuple(int(part) for part in re.findall(r'\d+', version)[:2]) < MINIMUM_TORCH:
                yield f'{name} >= {MINIMUM_TORCH}'


def get_parser():
    text, _, example = __doc__.partition('\n\nExample')
    parser = argparse.ArgumentParser('python tools/check_environment.py', description=text, epilog=f'Example{example}',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', metavar='FILE', help='requirements files, as pip reads them')
    return parser


if __name__ == '__main__':
    try:
        lacking = ', '.join(missing(get_parser().parse_args().files))
    except OSError as err:
        sys.exit(f'error: {err}')
    if lacking:
        sys.exit(f'{lacking} missing')
    print('* Next, see it work: bash run_lt_experiments.sh', file=sys.stderr)
