"""Whether images to score, or to choose on, are among those that a checkpoint has seen: compared by content, whatever their names."""
import os
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from utils.common import InputError, counted, file_sha256, preview
from utils.data.dataset import ClassDataset
from utils.data.image_hashes import CHOSE, ROLES, STAGE_ONE_TRAINED, TRAINED, roles_of
from utils.data.read_csv import read_csv

TRAINING_ROLES = TRAINED | STAGE_ONE_TRAINED
CHOOSING = 'on which --tau_norm, --logit_adjust or --calibrate would choose'


def describe_leak(val_set: ClassDataset, seen: torch.Tensor) -> str | None:
    """Describe the validation images that trained the network, of a run with `seen_images` `seen`; None if there are none."""
    leaked = _roles(val_set, seen) & TRAINING_ROLES
    if leaked.any():
        return (f'of {len(val_set)} images of {val_set.csv_path}, {_met(val_set, leaked)}: they have the same content as training '
                'images, and validation scores are too good')
    return None


def check_reported(data: ClassDataset, info: dict, n_threads: int = 1) -> str:
    """Raise `InputError` if the labelled images of `data` are among those that the checkpoint with facts `info` has seen.

    Returns '', or a note for the report: that they are its validation images, or, without labels, which images the network has seen.
    """
    seen, csv = info['image_hashes'], data.csv_path
    same_csv = _same_csv(csv, info['config'])
    roles = np.zeros(len(data), np.int64) if seen is None else _roles(data, seen, n_threads)
    if 'train' in same_csv and data.has_labels and not roles.any():  # its images are unknown, or others
        raise InputError(f'{csv} is the csv that trained the network: test on images that it has not seen')
    chose = roles & CHOSE > 0
    if (len(data) and chose.all()) or ('val' in same_csv and (chose | (roles == 0)).all()):
        what = f'{csv} is the csv that' if 'val' in same_csv else f'the images of {csv}'
        n = int((roles & TRAINING_ROLES > 0).sum())
        too = f', and {n} of its {len(data)} images trained the network' if n else ''
        return f'Note: {what} chose the checkpoint: the result is optimistic{too}\n{_note_other_images(data, roles, seen)}'
    if not roles.any():
        return ''
    met = f'of {len(data)} images of {csv}, {_met(data, roles)}'
    if not data.has_labels:
        return f'Note: {met}: their predictions say nothing about new images\n'
    raise InputError(f'{met}: ' + ('delete these rows, their files are copies' if 2 * np.count_nonzero(roles) < len(data) else
                                   f'test on other images (does --data_path {data.data_path} belong to this csv?)'))


def note_of_patients(data: ClassDataset, config: dict) -> str:
    """Return '', or a line for the report: how many patients of `data` are also in the training csv, if it still exists."""
    path = config['csv_train']
    if not data.has_labels or 'patient_id' not in data.table or not os.path.isfile(path) or 'train' not in _same_csv(path, config):
        return ''
    trained = read_csv(path)[0].get('patient_id', pd.Series(dtype=str)).dropna()
    n = len({*trained} & {*data.table.patient_id.dropna()})
    return f"Note: {counted(n, 'patient')} of {data.csv_path} had other images in {path}, which trained the network\n" if n else ''


def check_tuning(data: ClassDataset, reported: Mapping[str, ClassDataset], info: dict, n_threads: int = 1) -> None:
    """Raise `InputError` if images of `data`, on which corrections are tuned, trained the checkpoint with facts `info` or are reported.

    `reported`: split -> ClassDataset. The validation csv may be both tuned on and reported only if a test set is reported as well.
    """
    same_csv, seen = _same_csv(data.csv_path, info['config']), info['image_hashes']
    if seen is not None:
        roles = _roles(data, seen, n_threads)
        trained = np.where(roles & CHOSE, 0, roles & TRAINING_ROLES)
        if trained.any():
            raise InputError(f'of {len(data)} images of {data.csv_path}, {CHOOSING}, {_met(data, trained)}: name a csv of '
                             'validation images with --csv_tune')
        if 'val' in same_csv and (note := _note_other_images(data, roles, seen)):
            print(f'* {note}', end='')
    if 'train' in same_csv:  # its images are unknown, or others
        raise InputError(f'{data.csv_path}, {CHOOSING}, is the csv that trained the network: name a csv of validation images with '
                         '--csv_tune')
    hashes = data.content_hashes(n_threads)
    for split, other in reported.items():
        shared = np.isin(hashes, other.content_hashes(n_threads)).sum()
        if shared and not (split == 'val' and other.csv_path == data.csv_path and 'test' in reported):
            raise InputError(f'{shared} images of {data.csv_path}, {CHOOSING}, stand in {other.csv_path} too, which is to be reported: '
                             'name another csv with --csv_tune')


def _same_csv(csv, config):
    """{'train'}, {'val'} or set(): which csv of the training `csv` is."""
    return {role for role, digest in config['csv_sha256'].items() if digest == file_sha256(csv)}


def _note_other_images(data, roles, seen):
    """'', or a line that counts the images of the validation csv that have another content than in training."""
    n = 0 if seen is None else int((roles == 0).sum())
    return (f"Note: {counted(n, 'image')} of {data.csv_path} in {data.data_path} had another content in training (does --data_path belong "
            'to this csv?)\n') if n else ''


def _roles(data, seen, n_threads=1):
    return roles_of(data.content_hashes(n_threads), seen)


def _met(data, roles):
    """How many of the images did what, with the names of a few; each image counts for the first of its ROLES."""
    parts, left = [], np.ones(len(roles), bool)
    for role, what in ROLES.items():
        rows = np.flatnonzero(left & (roles & role > 0))
        left[rows] = False
        if len(rows):
            parts.append(f"{len(rows)} {what} ({preview([f'{data.image_ids[i]}, row {data.rows[i]}' for i in rows[:4]], 3)})")
    return '; '.join(parts)
