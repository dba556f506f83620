from tests import environment  # noqa: F401  first of all: it cleans what the imports below read

# isort: split
import contextlib
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main

from . import tiny_network

torch.set_num_threads(1)
tiny_network.register()
# A suite started in the background ignores Ctrl-C, and so would the scripts that it starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

COUNTS = {'train': (12, 6, 4), 'val': (4, 3, 2), 'test': (3, 3, 2)}


def write_images(folder, counts=None, size=28, seed=0):
    """A set in the contract: one colour per class, with noise; train/val/test csvs and images/."""
    rng = np.random.default_rng(seed)
    os.makedirs(folder / 'images', exist_ok=True)
    for split, per_class in (counts or COUNTS).items():
        rows = []
        for c, n in enumerate(per_class):
            for i in range(n):
                pixels = rng.normal(110, 40, (size, size, 3))
                pixels[..., c % 3] += 60
                name = f'{split}_{c}_{i}'
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / 'images' / f'{name}.jpg')
                rows.append((name, f'class{c}', c))
        pd.DataFrame(rows, columns=['image_id', 'name', 'label']).sample(frac=1, random_state=seed).to_csv(
            folder / f'{split}.csv', index=False)
    return folder


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('tiny'))


def train_flags(tiny, flags=''):
    """Flags of a short run with the tiny network on the tiny set; `flags` win."""
    return (f'--csv_train {tiny}/train.csv --data_path {tiny}/images --n_classes 3 --im_size 32 --model_name tiny_test --init none '
            f'--batch_size 4 --n_epochs 1 --num_workers 0 --metric mcc --save_path run --cache_dir {tiny}/cache {flags}').split()


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Runs the real entry point on the tiny set, in an empty working folder; flags as on the command line."""
    monkeypatch.chdir(tmp_path)

    def run(flags=''):
        train_main(get_parser().parse_args(train_flags(tiny, flags)))
        return tmp_path / 'experiments' / 'run'
    return run


@contextlib.contextmanager
def new_accelerator():
    """For a block that trains on another device or in another precision: `accelerate` keeps the first ones of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope='session')
def real_data():
    folder = os.environ.get('LT_REAL_DATA')
    if not folder:
        pytest.skip('LT_REAL_DATA names no folder with the real images')
    return folder
