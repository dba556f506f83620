"""A MedMNIST file (.npz, from https://medmnist.com) -> PNG images and train/val/test csvs, in the official split.

  python -m tools.prepare_medmnist_data retinamnist.npz --class_names DR0,DR1,DR2,DR3,DR4
"""
import argparse
import os
import shlex
import zipfile

import numpy as np

from utils.common import InputError, run_script
from utils.image_sets import write_image_set

SPLITS = ('train', 'val', 'test')


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('npz', help='a two-dimensional set with one label per image, of any size')
    parser.add_argument('--class_names', metavar='A,B,...', help='in the order of the classes, which the file does not name')
    parser.add_argument('--out', help='folder to write (default: data/<name of the file>)')
    return parser


def read_npz(path):
    """-> split -> (uint8 (N, H, W[, 3]), int64 (N,)). Nothing that could run code is read; every shape is checked."""
    splits = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for split in SPLITS:
                images, labels = file[f'{split}_images'], file[f'{split}_labels']
                if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or not len(images):
                    raise InputError(f'{path}: {split}_images must be uint8 (N, H, W) or (N, H, W, 3), not {images.dtype} {images.shape} '
                                     '(volumes are not supported)')
                if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in 'iu' or labels.min() < 0:
                    raise InputError(f'{path}: {split}_labels must be one class per image, not {labels.dtype} {labels.shape} '
                                     '(sets with several labels per image are not supported)')
                splits[split] = images, labels.reshape(-1).astype(np.int64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as err:
        if isinstance(err, InputError):
            raise
        raise InputError(f'{path} is no MedMNIST file, with train, val and test _images and _labels: {err}') from err
    return splits


def main(argv=None):
    args = get_parser().parse_args(argv)
    splits = read_npz(args.npz)
    name = os.path.splitext(os.path.basename(args.npz))[0]
    k = 1 + max(int(labels.max()) for _, labels in splits.values())
    names = args.class_names.split(',') if args.class_names else [f'class{c}' for c in range(k)]
    if len(names) != k or len(set(names)) != k:
        raise InputError(f'--class_names: {k} different names expected, not {args.class_names}')
    folder = args.out or os.path.join('data', name)
    write_image_set(folder, name, {split: (images, labels, range(len(labels))) for split, (images, labels) in splits.items()}, names)
    size = max(64, splits['train'][0].shape[1])  # smaller ones leave no height and width after the networks' strides
    print('* Next: ' + shlex.join(['python', 'train_lt_mxp.py', '--csv_train', os.path.join(folder, f'train_{name}.csv'), '--data_path',
                                   os.path.join(folder, 'images'), '--n_classes', str(k), '--im_size', str(size), '--save_path',
                                   f'{name}/instance']))


if __name__ == '__main__':
    run_script(main)
