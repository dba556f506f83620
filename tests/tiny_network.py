"""A network with about 1,500 weights for tests that are not about networks: `--model_name tiny_test`.

Run a script with it in a separate process:

  python -m tests.tiny_network train_lt_mxp.py --model_name tiny_test --init none ...
"""
import runpy
import sys

from torch import nn

from models.get_model import ARCHS, as_arch
from utils.common import InputError

NAME = 'tiny_test'


class TinyNetwork(nn.Module):
    """(B, 3, H, W) -> logits (B, K): two convolutions with BatchNorm, global mean, dropout and a linear layer.

    It has all types of state that a run must save. Its modules have the names of MobileNetV2's.
    """

    def __init__(self, n_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                                      nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(.2), nn.Linear(16, n_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def _build(n_classes, pretrained, im_size):
    if pretrained:
        raise InputError(f'{NAME} has no ImageNet weights: use --init none')
    return as_arch(TinyNetwork(n_classes), n_classes, 'classifier.1')


def register():
    """Add the network to the table of this process."""
    ARCHS[NAME] = _build


if __name__ == '__main__':
    register()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
