"""Prepare Hyper-Kvasir: resize the labelled images of its zip, and write the csvs of five folds.

Images are read directly from the zip, which also checks their CRCs. The output folder gets its images and csvs only if all
images are intact.

Example, with the zip that bash get_endo_data.sh downloads:

  python -m tools.prepare_endo_data --zip data/hyper-kvasir-labeled-images.zip --select_fraction 0.1
"""
import io
import os
import shutil
import zipfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.endo_folds import N_FINDINGS, official_folds, original_folds, read_labels, write_folds
from utils.cli import say_next, script_parser, to_train
from utils.common import InputError, counted, run_script
from utils.datasets.archives import one_line, open_zip

SIZE = (640, 512)  # width, height, as in the original
MOST_BYTES = 64 << 20  # limit for one unpacked file; the largest image has 2 MB
MOST_PIXELS = 64 << 20  # limit for one image; the largest has 2 million
MOST_IN_TOTAL = 16 << 30  # limit for all unpacked files; the images have 4 GB
_archive = None  # the zip, opened once in each worker process


def _open_archive(path):
    global _archive
    _archive = zipfile.ZipFile(path)


def _resize(member, target):
    """Read (and check) one member of the archive and save it resized. -> error message or None"""
    try:
        with Image.open(io.BytesIO(_archive.read(member)), formats=['JPEG']) as image:  # some decoders start programs
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f'it has {image.width} x {image.height} pixels')
            image.convert('RGB').resize(SIZE, Image.Resampling.BILINEAR).save(target, quality=95)
    except Exception as err:  # Pillow raises nearly any exception for a damaged image
        return one_line(f'{member}: {err}')


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--zip', required=True, metavar='FILE', help='hyper-kvasir-labeled-images.zip')
    data.add_argument('--n_images', type=int, default=10662, metavar='N', help='number of images in a complete zip')
    data.add_argument('--num_workers', type=int, default=os.cpu_count(), metavar='N', help='processes that resize images')
    folds = parser.add_argument_group('folds')
    folds.add_argument('--splits', nargs='+', default=['original'], metavar=('original|official', 'FILE'),
                       help="folds of the original repository, or 'official FILE' with 5_fold_split.csv of the dataset's authors")
    folds.add_argument('--select_fraction', type=float, default=0., metavar='FRACTION', help='share of each training fold to set aside '
                       'as select_endo{i}.csv, to select the best epoch on it (--csv_val) and not on the test fold')
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='data', metavar='FOLDER', help='folder for images/ and {train,val}_endo{1..5}.csv')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.splits[0] not in ('original', 'official') or len(args.splits) != 1 + (args.splits[0] == 'official'):
        raise InputError("--splits takes 'original', or 'official' and a csv")
    if not 0 <= args.select_fraction < 1:
        raise InputError('--select_fraction must be at least 0 and below 1')
    with open_zip(args.zip, MOST_BYTES, MOST_IN_TOTAL) as archive:
        table, members = read_labels(archive, args.n_images)
    folds = original_folds(table) if args.splits[0] == 'original' else official_folds(table, args.splits[1])

    images, partial = os.path.join(args.out, 'images'), os.path.join(args.out, f'images.{os.getpid()}.tmp')
    if os.path.exists(images):
        raise InputError(f'{images} already exists: delete it to prepare the images again')
    os.makedirs(partial)
    try:
        with ProcessPoolExecutor(args.num_workers, initializer=_open_archive, initargs=(args.zip,)) as pool:
            targets = [os.path.join(partial, f'{image_id}.jpg') for image_id in members]
            results = pool.map(_resize, members.values(), targets, chunksize=16)
            problems = [p for p in tqdm(results, total=len(members), unit='img', desc='resize', disable=None) if p]
        if problems:
            raise InputError(f"{args.zip}: {counted(len(problems), 'damaged image')}: {'; '.join(problems[:5])}")
        write_folds(folds, args.out, args.select_fraction)
        os.rename(partial, images)
    except BrokenProcessPool as err:
        raise InputError('a process that resizes images was killed, usually for lack of memory: try --num_workers 1') from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    counts = np.bincount(table.finding)
    print(f'* {len(table)} images of {N_FINDINGS} findings ({counts.max()} to {counts.min()} each) and five folds in {args.out}')
    if os.path.normpath(args.out) == 'data':
        say_next('train and test every method', 'bash', 'run_lt_experiments.sh', 'endo')
    else:
        csvs = [os.path.join(args.out, f'{split}_endo1.csv') for split in ('train', 'val')]
        say_next('train', *to_train(*csvs, images, N_FINDINGS, '--recipe', 'finetune'))


if __name__ == '__main__':
    run_script(main)
