"""Check that this Python has every package of the given requirements files; if not, name the missing ones and exit with status 1.

torch must be 2.11 or newer. Other packages may have any version, so that an existing installation can be used.

Example:

  python tools/check_environment.py requirements.txt
"""
import argparse  # standard library only: this script runs before the requirements are installed
import importlib.metadata
import re
import sys

MINIMUM_TORCH = (2, 11)  # also in the docstring


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
                yield f"{name} >= {'.'.join(map(str, MINIMUM_TORCH))}"


def get_parser():
    text, _, example = __doc__.partition('\n\nExample')
    parser = argparse.ArgumentParser('python tools/check_environment.py', description=text, epilog=f'Example{example}',
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='+', metavar='FILE', help='requirements file in the format of pip')
    return parser


if __name__ == '__main__':
    requirements = get_parser().parse_args().files
    try:
        lacking = ', '.join(missing(requirements))
    except OSError as err:
        sys.exit(f'error: {err}')
    if lacking:
        sys.exit(f"error: missing packages: {lacking}: pip install {' '.join(f'-r {file}' for file in requirements)}")
    print('* Next, see it work: bash run_lt_experiments.sh', file=sys.stderr)
