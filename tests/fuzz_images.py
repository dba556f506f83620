"""Fuzz the JPEG reader: each of thousands of damaged images must be read or raise the one error of the project.

Example (about ten seconds):

  python -m tests.fuzz_images --n 10000
"""
import glob
import io
import os
import tempfile
import time
import traceback
import warnings
from collections import Counter

import numpy as np
from PIL import Image

from utils.cli import say_next, script_parser
from utils.data.images import read_image
from utils.data.near_duplicates import scan_image


def seeds(folder, n=20, seed=0):
    """Return the bytes of `n` images of `folder`, or of generated images."""
    rng = np.random.default_rng(seed)
    files = sorted(glob.glob(os.path.join(glob.escape(folder), '**', '*.jp*g'), recursive=True)) if folder else []
    if files:
        contents = []
        for path in rng.choice(files, min(n, len(files)), replace=False):
            with open(path, 'rb') as f:
                contents.append(f.read())
        return contents
    contents, exif = [], Image.Exif()
    exif[0x0112] = 6
    for i in range(n):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(('RGB', 'L', 'CMYK')[i % 3]).save(buffer, 'JPEG', exif=exif, progressive=i % 2 == 1)
        contents.append(buffer.getvalue())
    return contents


def mutate(content, rng):
    """Make one to eight changes: a byte, a bit, a truncation, or a block deleted, repeated or filled. Half of them hit the headers."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        if not data:
            break
        at = int(rng.integers(min(len(data), 700) if rng.random() < .5 else len(data)))
        size = int(rng.integers(1, 64))
        match rng.integers(6):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[max(at, 1):]
            case 3:
                del data[at:at + size]
            case 4:
                data[at:at] = data[at:at + size]
            case _:
                data[at:at + size] = bytes([int(rng.choice([0, 255]))]) * len(data[at:at + size])
    return bytes(data)


def fuzz(contents, n, folder, seed=0):
    """-> Counter of outcomes, and the tracebacks of unexpected errors"""
    rng, outcomes, crashes = np.random.default_rng(seed), Counter(), []
    path = os.path.join(folder, 'mutant.jpg')
    for i in range(n):
        with open(path, 'wb') as f:
            f.write(mutate(contents[i % len(contents)], rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # Pillow warns of damaged EXIF
                image = read_image(path, (32, 48))
                if image.shape != (3, 32, 48):
                    raise AssertionError(f'shape {image.shape}')
            outcomes['read'] += 1
        except OSError as err:
            if '\n' in str(err) or not str(err):
                crashes.append(f'{i}: not one line: {err!r}')
            outcomes['refused'] += 1
        except Exception:
            crashes.append(f'{i}: {traceback.format_exc()}')
        if i % 10 == 0 and scan_image(path).problem is None:
            outcomes['scanned'] += 1
    return outcomes, crashes


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--n', type=int, default=10_000, metavar='N', help='damaged images to try')
    parser.add_argument('--data', metavar='FOLDER', help='folder with JPEGs to damage (default: $LT_REAL_DATA, else generated images)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='random seed')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        outcomes, crashes = fuzz(seeds(args.data or os.environ.get('LT_REAL_DATA')), args.n, folder, args.seed)
    for crash in crashes[:5]:
        print(crash)
    print(f'{args.n} inputs in {time.perf_counter() - start:.0f} s: {dict(outcomes)}, {len(crashes)} crashes')
    if crashes:
        raise SystemExit(1)
    say_next('run all tests', 'bash', 'tests/run.sh')


if __name__ == '__main__':
    main()
