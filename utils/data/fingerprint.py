"""Fingerprint of a data set: what a training plan depends on, as plain values."""
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from utils.common import InputError, file_sha256
from utils.data.check_data import find_shared
from utils.data.dataset import ClassDataset
from utils.data.files import equal_files
from utils.data.images import FORMATS

SAMPLE = 500  # images whose size is read


def read_sets(csvs: Mapping[str, str], data_path: str, label_column: str | None = None) -> dict[str, ClassDataset]:
    """Read the csvs {split: path}, the first of them that of training. Raises `InputError` for a csv without labels or with bad ones."""
    sets: dict[str, ClassDataset] = {}
    for split, csv in csvs.items():
        column = label_column or next((data.label_column for data in sets.values()), None)
        data = sets[split] = ClassDataset(csv, data_path, label_column=column)
        if not data.has_labels or not len(data):
            raise InputError(f"{csv} has no {'labels' if len(data) else 'rows'}: {split} images need them")
        if (data.labels < 0).any():
            row = int(np.argmax(data.labels < 0))
            label = data.table[data.label_column][row]
            raise InputError(f"{csv}, row {data.rows[row]}: '{label}' in column '{data.label_column}' is not a class number "
                             '(tools.prepare_csv_data numbers the labels)')
    return sets


def fingerprint(sets: Mapping[str, ClassDataset]) -> dict[str, Any]:
    """Describe the csvs {split: data}, the first of them that of training.

    `imbalance`: training images of the most frequent class per image of the rarest one. `sides`: shorter and longer side in pixels of up
    to SAMPLE images, as [smallest, median, largest]. `share`: of the classes in each split. `copies`: files that equal another file.
    `shared`: images and patients in two splits.
    """
    first = next(iter(sets.values()))
    n_classes = 1 + max(int(data.labels.max()) for data in sets.values())
    counts = {split: np.bincount(data.labels, minlength=n_classes) for split, data in sets.items()}
    train = counts[next(iter(counts))]
    splits = {split: {'csv': data.csv_path, 'sha256': file_sha256(data.csv_path), 'images': len(data), 'patients': _n_patients(data),
                      'class_count': counts[split].tolist(), 'share': (counts[split] / len(data)).round(4).tolist()}
              for split, data in sets.items()}
    shared = {f'{a} and {b}': {what: len(both) for what, both in find_shared(sets[a], sets[b]).items()} for a, b in combinations(sets, 2)}
    paths = list(dict.fromkeys(path for data in sets.values() for path in data.paths if path))
    return {'classes': first.class_names(n_classes), 'splits': splits, 'imbalance': float(train.max() / max(1, train.min())),
            'sides': image_sides(paths), 'copies': sum(len(group) - 1 for group in equal_files(paths)), 'shared': shared}


def _n_patients(data):
    """-> number of patients, and images without one counted singly; None without a column patient_id"""
    return int(data.table.patient_id.nunique() + data.table.patient_id.isna().sum()) if 'patient_id' in data.table else None


def image_sides(paths: Sequence[str]) -> dict[str, Any]:
    """-> number of images read, and [smallest, median, largest] shorter and longer side in pixels; unreadable images are skipped"""
    sides = []
    for i in np.unique(np.linspace(0, len(paths) - 1, SAMPLE).astype(int)) if paths else ():
        if not os.path.isfile(paths[i]):
            continue
        try:
            with Image.open(paths[i], formats=FORMATS) as image:
                sides.append(sorted(image.size))
        except Exception:  # Pillow raises nearly any exception for a damaged header; tools.check_data reports it
            continue
    if not sides:
        raise InputError('no image can be read: check --data_path with python -m tools.check_data')
    of = np.array(sides)
    return {'read': len(of)} | {name: [int(f(of[:, i])) for f in (np.min, np.median, np.max)]
                                for i, name in enumerate(('shorter', 'longer'))}
