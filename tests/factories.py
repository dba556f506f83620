"""Shared test data: small image sets, tables of predictions, checkpoints, batches."""
from tests import environment  # noqa: F401  first, because it sets variables that the imports below read

# isort: split
import contextlib
import io
import os
import shlex
import signal
import subprocess
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from models.get_model import get_arch
from utils.data.image_cache import use_cache
from utils.get_loaders import ClassDataset
from utils.prediction.predictions import PredictionTable
from utils.training.batches import BatchTransform

ROOT = Path(__file__).parent.parent  # the repository root
COUNTS = {'train': (12, 6, 4), 'val': (4, 3, 2), 'test': (3, 3, 2)}  # images per class of the tiny set
GRADES = [f'DR{c}' for c in range(5)]
CACHE_SIZE = (12, 20)
MEAN, STD = (.5, .4, .3), (.2, .25, .3)
IMAGES_PER_FINDING, N_FINDINGS = 10, 23


def write_images(folder, counts=None, size=28, seed=0):
    """Write a data set of noisy images with one colour per class: train/val/test csvs and images/."""
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


def write_distinct_images(root, *paths, size=8):
    """Write an image to each of the `paths` below `root`. No two of them are equal: the colour depends on the path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(zlib.crc32(str(path).encode()).to_bytes(4, 'little')[:3])
        Image.new('RGB', (size, size), colour).save(root / path, 'PNG')  # whatever its extension: JPEG would make colours equal


def train_flags(tiny, flags=''):
    """Flags of a short run with the tiny network on the tiny set. `flags` override them."""
    return (f'--csv_train {tiny}/train.csv --data_path {tiny}/images --n_classes 3 --im_size 32 --model_name tiny_test --init none '
            f'--batch_size 4 --n_epochs 1 --num_workers 0 --metric mcc --save_path run --cache_dir {tiny}/cache {flags}').split()


@contextlib.contextmanager
def new_accelerator():
    """Let a block train with another device or precision. `accelerate` otherwise keeps the first ones of the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def experiment_lines(scripts, *arguments):
    done = subprocess.run(['bash', 'run_lt_experiments.sh', *arguments, '--dry_run'], cwd=scripts, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def signal_in_batch(monkeypatch, n):
    """Send SIGTERM to this process in the `n`-th batch that a training prepares. -> list with an item for each batch so far"""
    prepare, calls = BatchTransform.__call__, []

    def strike(*args):
        calls.append(1)
        if len(calls) == n:
            signal.raise_signal(signal.SIGTERM)
        return prepare(*args)
    monkeypatch.setattr(BatchTransform, '__call__', strike)
    return calls


def picture(seed, size=(120, 160)):
    """An image of smooth random colours, similar to a photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def image_batch(n, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 20, 26), dtype=torch.uint8, generator=g), torch.randint(0, 4, (n,), generator=g), ['id'] * n


def random_table(seed, n=80, absent=(), ties=False, names=GRADES):
    rng, k = np.random.default_rng(seed), len(names)
    y = rng.choice([c for c in range(k) if c not in absent], n)
    probs = rng.dirichlet(np.ones(k), n) + .5 * np.eye(k)[y] * rng.random((n, 1))
    probs /= probs.sum(1, keepdims=True)
    if ties:
        probs = np.round(probs * 4) + .001
        probs /= probs.sum(1, keepdims=True)
    return PredictionTable([str(i) for i in range(n)], y, probs.argmax(1), probs, list(names), None, 'x.csv')


def checkpoint_config(metric='mcc'):
    return {'model_name': 'tiny_test', 'im_size': (32, 40), 'init': 'none', 'trainable': 'all', 'loss_fn': 'CE', 'sampling': 'instance',
            'do_mixup': 0., 'optimizer': 'sgd', 'lr': .01, 'batch_size': 4, 'n_epochs': 3, 'seed': 0, 'metric': metric,
            'csv_train': 'train.csv', 'csv_val': 'val.csv', 'data_path': 'images', 'class_names': ['a', 'b'], 'class_count': [3, 1],
            'torch': '2', 'mixed_precision': 'no', 'parent': None, 'csv_sha256': {}}


def checkpoint(mcc=.5, epoch=1, **changes):
    torch.manual_seed(epoch)
    return {'model_name': 'tiny_test', 'class_names': ['a', 'b'], 'class_count': [3, 1], 'im_size': (32, 40), 'mean': (.5,) * 3,
            'std': (.2,) * 3, 'epoch': epoch, 'metrics': {'mcc': mcc}, 'config': checkpoint_config(),
            'state_dict': get_arch('tiny_test', 2).model.state_dict()} | changes


def cache_datasets(folder, *names):
    return [ClassDataset(folder / f'{name}.csv', str(folder / 'images'), CACHE_SIZE) for name in names or ('train', 'val')]


def cached(folder, *names, to=None):
    sets = cache_datasets(folder, *names)
    use_cache(sets, str(to or folder / 'cache'))
    return sets


def arrays(folder):
    return sorted((folder / 'cache').glob('*.npy'))


def same_pixels(cached_sets, plain_sets):
    return all(torch.equal(a.__getitems__(range(len(a)))[0], b.__getitems__(range(len(b)))[0])
               for a, b in zip(cached_sets, plain_sets, strict=True))


def write_endo_zip(path, damage=None, labels=lambda text: text, method=zipfile.ZIP_STORED, more=()):
    """Write an archive like that of the endoscopic images: labeled-images/<tract>/<class>/<finding>/*.jpg and image-labels.csv.

    The column 'Video file' has names without extension. labels: function that changes the text of the csv; it returns text, bytes, or
    None for no csv. more: (name, content) of further files.
    """
    rng, rows = np.random.default_rng(0), []
    with zipfile.ZipFile(path, 'w', method) as archive:
        for f in range(N_FINDINGS):
            for i in range(IMAGES_PER_FINDING):
                buffer, name = io.BytesIO(), f'{f:02d}-{i:02d}-abc'
                Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(buffer, 'JPEG')
                archive.writestr(f'labeled-images/lower-gi-tract/x/finding-{f:02d}/{name}.jpg', buffer.getvalue())
                rows.append((name, 'Lower GI', f'finding-{f:02d}', 'x'))
        rows = [rows[i] for i in rng.permutation(len(rows))]
        table = pd.DataFrame(rows, columns=['Video file', 'Organ', 'Finding', 'Classification'])
        csv = labels(table.to_csv(index=False))
        for name, content in [('labeled-images/image-labels.csv', csv)] * (csv is not None) + list(more):
            archive.writestr(name, content)
    if damage:
        content = bytearray(path.read_bytes())
        content[damage:damage + 40] = b'\0' * 40
        path.write_bytes(content)
    return path


class Waits(TorchDispatchMode):
    """Records the copies between devices for which the CPU waits. (Reading a value of the device 'meta' is an error anyway.)"""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        devices = {value.device for value in (*args, result) if isinstance(value, torch.Tensor)}
        if is_copy and len(devices) > 1 and not (kwargs or {}).get('non_blocking') and args[-1] is not True:
            self.found.append(str(func))
        return result
