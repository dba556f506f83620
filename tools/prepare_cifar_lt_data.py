"""Prepare CIFAR-10-LT or CIFAR-100-LT, whose class counts decrease exponentially, to compare with papers that use them.

Class c has n_c = n_max / IMBALANCE^(c / (K - 1)) training images (Cui et al., CVPR 2019; Cao et al., NeurIPS 2019). The validation images,
the same number for each class, are taken from the training images first. This leaves n_max = 5000 (CIFAR-100: 500) minus that number. The
test set is the official one.

Example (downloads 170 MB; bash run_lt_experiments.sh cifar then trains six methods on it):

  python -m tools.prepare_cifar_lt_data --classes 10 --imbalance 100
"""
import gzip
import io
import os
import tarfile

import numpy as np

from tools.download_file import fetch
from utils.cli import say_next, script_parser, to_train, warn_without_effect
from utils.common import InputError, file_digest, run_script
from utils.datasets.archives import one_line
from utils.datasets.cifar_pickle import PickledImages, read_cifar_pickle
from utils.datasets.image_sets import write_image_set

URL = 'https://www.cs.toronto.edu/~kriz/cifar-{}-python.tar.gz'
# Number of classes -> MD5 of the archive, as published beside it; folder in the archive; its training files, test file and file of class
# names; keys of labels and class names.
SETS = {
    10: ('c58f30108f718f92721af3b95e74349a', 'cifar-10-batches-py', [f'data_batch_{i}' for i in range(1, 6)], 'test_batch', 'batches.meta',
         'labels', 'label_names'),
    100: ('eb9058c3a382ffc7106e4002c42a8d85', 'cifar-100-python', ['train'], 'test', 'meta', 'fine_labels', 'fine_label_names'),
}
MOST_BYTES = 256 << 20  # limit for an unpacked archive; the published ones have 186 MB
WITHOUT_EFFECT = (('any_archive', 'without --archive', lambda a: not a.archive),)


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('--classes', type=int, default=10, choices=SETS, help='10: CIFAR-10, 100: CIFAR-100')
    data.add_argument('--archive', metavar='FILE',
                      help='local copy of cifar-10-python.tar.gz or cifar-100-python.tar.gz (default: download it)')
    data.add_argument('--any_archive', action='store_true', help='accept an --archive that is not the published one (its MD5 differs)')
    choice = parser.add_argument_group('selection of images')
    choice.add_argument('--imbalance', type=float, default=100, metavar='FACTOR', help='size of the first class relative to the last')
    choice.add_argument('--val_per_class', type=int, metavar='N', help='validation images per class (default: 100, CIFAR-100: 10)')
    choice.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the selection')
    output = parser.add_argument_group('output')
    output.add_argument('--out', metavar='FOLDER', help='folder to write (default: data/cifar10_lt or data/cifar100_lt)')
    return parser


def read_archive(path, classes):
    """-> {'train': (uint8 (N, 32, 32, 3), int64 (N,)), 'test': ...}, class names. Nothing is extracted, and no code from the archive runs.
    Raises `InputError` if the archive has a different structure or unpacks to more than `MOST_BYTES`."""
    _, folder, train, test, meta, labels_key, names_key = SETS[classes]
    splits = {}
    try:
        with gzip.open(path) as f:
            content = f.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f'it has more than {MOST_BYTES >> 20} MB when unpacked')
        with tarfile.open(fileobj=io.BytesIO(content), mode='r:') as tar:  # 'r:' refuses a second compression
            def load(name):
                member = tar.getmember(f'{folder}/{name}')
                if not member.isreg() or member.issparse():  # holes of sparse files are small in the archive but not in memory
                    raise ValueError(f'{member.name} is not a regular file')
                return read_cifar_pickle(tar.extractfile(member).read())
            names = read_names(load(meta), names_key, classes)
            for split, files in (('train', train), ('test', [test])):
                parts = [read_part(load(name), name, labels_key, classes) for name in files]
                splits[split] = tuple(map(np.concatenate, zip(*parts, strict=True)))
    except Exception as err:  # tarfile and pickle raise nearly any exception for a damaged or crafted archive
        raise InputError(f'{path} is not a CIFAR-{classes} archive (python version): {one_line(err) or type(err).__name__}') from err
    return splits, names


def read_names(table, key, classes):
    names = table[key]
    if not isinstance(names, list) or len(names) != classes or not all(isinstance(n, str) and n.isprintable() and n for n in names):
        raise ValueError(f'{key} must hold the names of {classes} classes, without control characters')
    return names


def read_part(table, name, key, classes):
    """-> uint8 (N, 32, 32, 3), int64 (N,)"""
    images, labels = table['data'], table[key]
    if not isinstance(images, PickledImages) or not isinstance(labels, list) or len(labels) != len(images.pixels) or not labels \
            or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise ValueError(f'{name} must hold images, uint8 (N, 3072) with N > 0, and a label in 0..{classes - 1} for each of them')
    return images.pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def refuse_another(path, md5, any_archive):
    """Raise `InputError` if the MD5 of the file is not that of the published archive; with `any_archive`, only print a note."""
    if not os.path.isfile(path):
        raise InputError(f'--archive {path}: no such file')
    found = file_digest(path, 'md5')
    if found != md5 and not any_archive:
        raise InputError(f'--archive {path} is not the published archive (MD5 {found}, not {md5}): omit --archive to download that '
                         'one, or add --any_archive to accept this one')
    if found != md5:
        print(f'* Note: {path} is not the published archive (its MD5 differs)')


def long_tailed_counts(n_max, classes, imbalance):
    """-> training images of each class, int64 (K,), rounded down as in the papers"""
    return np.floor(n_max * np.float64(imbalance) ** (-np.arange(classes) / (classes - 1)) + 1e-9).astype(np.int64)


def choose(labels, classes, imbalance, val_per_class, seed):
    """-> rows of the long-tailed training set and of the validation set"""
    rng, train, val = np.random.default_rng(seed), [], []
    counts = np.bincount(labels, minlength=classes)
    n_max = counts.min() - val_per_class
    if n_max < 1:
        raise InputError(f'--val_per_class {val_per_class} leaves no training images: a class has only {counts.min()} images')
    for c, n in enumerate(long_tailed_counts(n_max, classes, imbalance)):
        if not n:
            raise InputError(f'--imbalance {imbalance:g} leaves no training image of class {c}: use a smaller value')
        rows = rng.permutation(np.flatnonzero(labels == c))
        val.append(rows[:val_per_class])
        train.append(rows[val_per_class:val_per_class + n])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


def main(argv=None):
    parser = get_parser()
    args = parser.parse_args(argv)
    warn_without_effect(parser, argv, args, WITHOUT_EFFECT)
    if not args.imbalance >= 1 or (args.val_per_class is not None and args.val_per_class < 1):
        raise InputError('--imbalance and --val_per_class must be 1 or more')
    md5, name = SETS[args.classes][0], f'cifar{args.classes}_lt'
    path = args.archive
    if path is None:
        path = os.path.join('data', f'cifar-{args.classes}-python.tar.gz')
        fetch(URL.format(args.classes), path, md5)
    else:
        refuse_another(path, md5, args.any_archive)
    splits, names = read_archive(path, args.classes)
    images, labels = splits['train']
    val_per_class = args.val_per_class if args.val_per_class is not None else 1000 // args.classes
    train, val = choose(labels, args.classes, args.imbalance, val_per_class, seed=args.seed)
    folder = args.out or os.path.join('data', name)
    write_image_set(folder, name, {'train': (images[train], labels[train], train), 'val': (images[val], labels[val], val),
                                   'test': (*splits['test'], range(len(splits['test'][1])))}, names)
    say_next('train', *to_train(f'{folder}/train_{name}.csv', f'{folder}/val_{name}.csv', f'{folder}/images', args.classes,
                                '--im_size', 32, '--model_name', 'resnet32', '--init', 'none', '--save_path', f'{name}/instance'))


if __name__ == '__main__':
    run_script(main)
