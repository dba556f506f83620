"""Exit with 0 if this Python has every package of the given requirements files; standard library only.

A Python that already has a torch of at least MINIMUM_TORCH is taken as it is, so that nobody has to install 5 GB again.
"""
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


if __name__ == '__main__':
    sys.exit(', '.join(missing(sys.argv[1:])) or 0)
