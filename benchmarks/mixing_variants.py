"""Train with a variant of Balanced-MixUp that differs from the paper in one point. All other flags are those of train_lt_mxp.py.

--variant per_image draws a weight for each image instead of one for each batch. --variant symmetric draws the weight from Beta(alpha,
alpha) instead of Beta(alpha, 1), so that on average half of the mixture is from the class-balanced batch.

Example (after python -m tools.prepare_demo_data):

  python -m benchmarks.mixing_variants --csv_train data/demo/train_demo.csv --data_path data/demo/images --n_classes 5 --im_size 64 \\
      --model_name regnetx_002 --init none --variant per_image --do_mixup 0.2 --save_path demo_per_image
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import sys
from unittest.mock import patch

import torch

from train_lt_mxp import main
from utils.cli import script_parser
from utils.common import InputError, run_script
from utils.data.sampling import get_sampling_probabilities
from utils.training.flags import add_flags
from utils.training.memory import LESS
from utils.training.mixing import MIXING, BalancedMixUp, Mixing
from utils.training.recipes import RecipeParser


class PerImage(BalancedMixUp):
    """Balanced-MixUp with one weight for each image."""

    def __call__(self, batch):
        """Mix each pair of images as a batch of one."""
        pairs = zip(*(zip(images.split(1), labels.split(1), ids, strict=True) for images, labels, ids in batch), strict=True)
        return tuple(map(torch.cat, zip(*(super(PerImage, self).__call__(pair) for pair in pairs), strict=True)))


class Symmetric(BalancedMixUp):
    """Balanced-MixUp with a weight from Beta(alpha, alpha), whose mean is 1/2."""
    draw_weight = Mixing.draw_weight

    @classmethod
    def label_shares(cls, seen, class_count, alpha, batch_size):
        return (seen + class_count * get_sampling_probabilities(class_count, 'class')) / 2


VARIANTS = {'per_image': PerImage, 'symmetric': Symmetric}


def get_parser():
    parser = add_flags(script_parser(__doc__, RecipeParser))
    parser.add_argument('--variant', required=True, choices=VARIANTS, help='the variant that replaces Balanced-MixUp')
    return parser


def train(argv):
    """Train with the command line `argv`, which begins with the script. A variant takes the place of Balanced-MixUp meanwhile."""
    args = get_parser().parse_args(argv[1:])
    if args.mixing != 'balanced_mixup':
        raise InputError(f'--variant {args.variant} is a kind of Balanced-MixUp: add --do_mixup ALPHA')
    with patch.dict(MIXING, balanced_mixup=VARIANTS[args.variant]):
        main(args, ['-m', 'benchmarks.mixing_variants', *argv[1:]])  # as the command to resume has it


if __name__ == '__main__':
    run_script(lambda: train(sys.argv), LESS)
