"""Prepare a MedMNIST set, given by name or as an .npz file: write PNG images and the train/val/test csvs of the official split.

Examples (a set given by name is downloaded to data/):

  python -m tools.prepare_medmnist_data retinamnist_224
  python -m tools.prepare_medmnist_data data/retinamnist_224.npz --out data/retinamnist_again
"""
import os

from tools.download_file import fetch
from utils.cli import say_next, script_parser, to_train
from utils.common import InputError, file_digest, run_script
from utils.datasets.image_sets import write_image_set
from utils.datasets.medmnist import SETS, SIZES, URL
from utils.datasets.npz_images import read_npz


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('source', metavar='NAME_OR_NPZ', help=f"name of a set ({', '.join(SETS)}; with _64, _128 or _224 for larger "
                        'images), or an .npz file with 2D images and one label per image')
    parser.add_argument('--class_names', metavar='A,B,...', help='class names, in the order of the labels (default: those of the set)')
    parser.add_argument('--out', metavar='FOLDER', help='folder to write (default: data/<name of the file>)')
    return parser


def known_set(name):
    """'retinamnist_224' -> (its MedMnistSet, MD5 of the file); (None, None) for an unknown name"""
    files = {base if size == SIZES[0] else f'{base}_{size}': (one, md5)
             for base, one in SETS.items() for size, md5 in zip(SIZES, one.md5, strict=True)}
    return files.get(name, (None, None))


def get_file(source):
    """-> path of the .npz file: `source` itself, or the set of that name, downloaded if it is not there"""
    if source.endswith('.npz'):
        return source
    known, md5 = known_set(source)
    if known is None:
        raise InputError(f"{source} is neither an .npz file nor a known set: {', '.join(SETS)}, or one of these with _64, _128 or _224")
    path = os.path.join('data', f'{source}.npz')
    fetch(URL.format(source), path, md5)
    return path


def main(argv=None):
    args = get_parser().parse_args(argv)
    path = get_file(args.source)
    name = os.path.splitext(os.path.basename(path))[0]
    folder = args.out or os.path.join('data', name)
    splits, (known, md5) = read_npz(path), known_set(name)
    if known and file_digest(path, 'md5') != md5:
        print(f'* Note: {path} is not the published file of this name (its MD5 is not {md5})')
    k = 1 + max(int(labels.max()) for _, labels in splits.values())
    names = args.class_names.split(',') if args.class_names else known.class_names if known else [f'class{c}' for c in range(k)]
    if len(names) != k or len(set(names)) != k:
        raise InputError(f"--class_names: expected {k} different names, not {', '.join(names)}")
    write_image_set(folder, name, {split: (images, labels, range(len(labels))) for split, (images, labels) in splits.items()}, names)
    size = max(64, splits['train'][0].shape[1])  # the strides of the networks would reduce smaller images to nothing
    paths = [os.path.join(folder, file) for file in (f'train_{name}.csv', f'val_{name}.csv', 'images')]
    say_next('train', *to_train(*paths, k, '--im_size', size, '--recipe', 'finetune', '--save_path', f'{name}/finetune'))


if __name__ == '__main__':
    run_script(main)
