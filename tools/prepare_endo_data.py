"""Hyper-Kvasir's zip of labelled images -> resized images and the csvs of five folds.

Images are read from the zip one by one, which checks their CRCs; nothing is unpacked, and the output folder gets its
images and csvs only when all of them are good.

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

SIZE = (640, 512)  # width, height, as the original prepared them
MOST_BYTES = 64 << 20  # of one unpacked file: the largest image has 2 MB
MOST_PIXELS = 64 << 20  # of an image: the largest has 2 million
MOST_IN_TOTAL = 16 << 30  # of all: the images have 4 GB
_archive = None  # of a worker process


def _open_archive(path):
    global _archive
    _archive = zipfile.ZipFile(path)


def _resize(member, target):
    """Read (and check) one member of the archive and save it resized. -> a problem or None"""
    try:
        with Image.open(io.BytesIO(_archive.read(member)), formats=['JPEG']) as image:  # no others, of which some start programs
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f'it has {image.width} x {image.height} pixels')
            image.convert('RGB').resize(SIZE, Image.Resampling.BILINEAR).save(target, quality=95)
    except Exception as err:  # of damaged images Pillow raises nearly every kind of error
        return one_line(f'{member}: {err}')


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--zip', required=True, metavar='FILE', help='hyper-kvasir-labeled-images.zip')
    data.add_argument('--n_images', type=int, default=10662, metavar='N', help='images that a complete zip has')
    data.add_argument('--num_workers', type=int, default=os.cpu_count(), metavar='N', help='processes that resize')
    folds = parser.add_argument_group('folds')
    folds.add_argument('--splits', nargs='+', default=['original'], metavar=('original|official', 'FILE'),
                       help="'original', or 'official FILE' with the dataset authors' 5_fold_split.csv")
    folds.add_argument('--select_fraction', type=float, default=0., metavar='FRACTION', help='share of each training fold cut out as '
                       'select_endo{i}.csv, to choose the checkpoint on (--csv_val) instead of on the test fold')
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='data', metavar='FOLDER', help='folder that gets images/ and {train,val}_endo{1..5}.csv')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.splits[0] not in ('original', 'official') or len(args.splits) != 1 + (args.splits[0] == 'official'):
        raise InputError("--splits takes 'original', or 'official' and a file")
    if not 0 <= args.select_fraction < 1:
        raise InputError('--select_fraction must be in 0..1')
    with open_zip(args.zip, MOST_BYTES, MOST_IN_TOTAL) as archive:
        table, members = read_labels(archive, args.n_images)
    folds = original_folds(table) if args.splits[0] == 'original' else official_folds(table, args.splits[1])

    images, partial = os.path.join(args.out, 'images'), os.path.join(args.out, f'images.{os.getpid()}.tmp')
    if os.path.exists(images):
        raise InputError(f'{images} exists already: delete it to prepare the images anew')
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
        raise InputError('a process that resizes images was ended, usually because memory is full: try --num_workers 1') from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    counts = np.bincount(table.finding)
    print(f'* {len(table)} images of {N_FINDINGS} findings ({counts.max()} to {counts.min()} each) and five folds in {args.out}')
    if os.path.normpath(args.out) == 'data':
        say_next('train and test every method', 'bash', 'run_lt_experiments.sh', 'endo')
    else:
        csvs = [os.path.join(args.out, f'{split}_endo1.csv') for split in ('train', 'val')]
        say_next('train', *to_train(*csvs, images, N_FINDINGS))


if __name__ == '__main__':
    run_script(main)
