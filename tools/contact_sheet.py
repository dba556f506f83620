"""Draw the images of a csv in one picture, one row per class, to look at your data before training on it.

Example, with the demo set (created by python -m tools.prepare_demo_data):

  python -m tools.contact_sheet data/demo/train_demo.csv --data_path data/demo/images
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import os

import numpy as np
from PIL import Image, ImageDraw

from utils.cli import label_flag, say_next, script_parser, sibling_csv
from utils.common import InputError, run_script, whole_file
from utils.data.check_data import check_data, refuse_problems
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.label_column import describe_label_column
from utils.data.permissions import add_private_flag, keep_private
from utils.data.read_csv import check_csv_exists


def contact_sheet(data, n_classes, columns=8, border=4):
    """Return an RGB Pillow image with one row per class, which shows the first `columns` images of the class."""
    height, width = data.im_size
    names = data.class_names(n_classes)
    label_width = 12 + 7 * max(len(name) for name in names)
    sheet = Image.new('RGB', (label_width + columns * (width + border), n_classes * (height + border)), 'white')
    for c in range(n_classes):
        top = c * (height + border)
        ImageDraw.Draw(sheet).text((6, top + height // 2), names[c], fill='black')
        for i, row in enumerate(np.flatnonzero(data.labels == c)[:columns]):
            sheet.paste(Image.fromarray(data[row][0].permute(1, 2, 0).numpy()), (label_width + i * (width + border), top))
    return sheet


def get_parser():
    parser = script_parser(__doc__)
    data = parser.add_argument_group('data')
    data.add_argument('csv', help='csv with image_id and the class')
    data.add_argument('--label_column', metavar='COLUMN', help=LABEL_HELP)
    data.add_argument('--data_path', default='data/images', metavar='FOLDER', help='folder of the images')
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='contact_sheet.png', metavar='FILE', help='image file to write')
    output.add_argument('--columns', type=int, default=8, metavar='N', help='images per class')
    output.add_argument('--size', type=int, default=96, metavar='PIXELS', help='height and width of each image')
    add_private_flag(output)
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if min(args.columns, args.size) < 1:
        raise InputError('--columns and --size must be positive')
    kind = Image.registered_extensions().get(os.path.splitext(args.out)[1].lower())
    if kind not in Image.SAVE:
        raise InputError(f'--out {args.out} is not the name of an image file such as contact_sheet.png')
    check_csv_exists(args.csv)
    from utils.data.dataset import ClassDataset  # imported here because torch takes seconds

    data = ClassDataset(args.csv, args.data_path, (args.size, args.size), label_column=args.label_column)
    print(describe_label_column(args.csv, data.label_column))
    if not data.has_labels or not len(data):
        raise InputError(f'{args.csv} has no labelled images: put the class in the last column, or select its column with --label_column')
    refuse_problems(check_data({'csv': data}, int(data.labels.max()) + 1))
    keep_private(args.private, beside=os.path.dirname(args.out))
    with whole_file(args.out) as f:
        contact_sheet(data, int(data.labels.max()) + 1, args.columns).save(f, kind)
    print(f'* Wrote {args.out}')
    csvs = [csv for csv in dict.fromkeys([args.csv, sibling_csv(args.csv, 'val'), sibling_csv(args.csv, 'test')]) if os.path.isfile(csv)]
    say_next('check the files', 'python', '-m', 'tools.check_data', *csvs, '--data_path', args.data_path,
             *label_flag(args.label_column))


if __name__ == '__main__':
    run_script(main)
