"""Data leakage: find test, tuning and validation images that a checkpoint has already seen, by content, whatever their names."""
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
NOT_FOR_TUNING = 'cannot be used to tune --tau_norm, --logit_adjust or --calibrate'


def describe_leak(val_set: ClassDataset, seen: torch.Tensor) -> str | None:
    """Describe the validation images that trained a network with `image_hashes` `seen`; None if there are none."""
    leaked = _roles(val_set, seen) & TRAINING_ROLES
    if leaked.any():
        return f'{_seen_images(val_set, leaked)}. Validation scores will be too optimistic'
    return None


def check_reported(data: ClassDataset, info: dict, n_threads: int = 1) -> str:
    """Raise `InputError` if the checkpoint described by `info` has seen labelled images of `data`.

    Returns a note for the report if these are its validation images, or if it has seen images without labels; else ''.
    """
    seen, csv = info['image_hashes'], data.csv_path
    same_csv = _same_csv(csv, info['config'])
    roles = np.zeros(len(data), np.int64) if seen is None else _roles(data, seen, n_threads)
    if 'train' in same_csv and data.has_labels and not roles.any():  # its images were not recorded, or have changed
        raise InputError(f'{csv} is the training csv of this network: test on images that it has not seen')
    chose = roles & CHOSE > 0
    if (len(data) and chose.all()) or ('val' in same_csv and (chose | (roles == 0)).all()):
        where = csv if 'val' in same_csv else f'images of {csv}'
        n = int((roles & TRAINING_ROLES > 0).sum())
        also = f', and {n} of these {len(data)} images trained the network' if n else ''
        return f'Note: the checkpoint was selected on {where}: the result is optimistic{also}\n{_note_other_images(data, roles, seen)}'
    if not roles.any():
        return ''
    found = _seen_images(data, roles)
    if not data.has_labels:
        return f'Note: {found}. Their predictions say nothing about new images\n'
    raise InputError(f'{found}. ' + ('Delete these rows, their files are copies' if 2 * np.count_nonzero(roles) < len(data) else
                                     f'Test on other images (does --data_path {data.data_path} belong to this csv?)'))


def note_of_patients(data: ClassDataset, config: dict) -> str:
    """Return a line for the report that counts the patients of `data` that are also in the training csv, if it still exists; else ''."""
    path = config['csv_train']
    if not data.has_labels or 'patient_id' not in data.table or not os.path.isfile(path) or 'train' not in _same_csv(path, config):
        return ''
    trained = read_csv(path)[0].get('patient_id', pd.Series(dtype=str)).dropna()
    n = len({*trained} & {*data.table.patient_id.dropna()})
    return f"Note: {counted(n, 'patient')} of {data.csv_path} also had images in the training csv {path}\n" if n else ''


def check_tuning(data: ClassDataset, reported: Mapping[str, ClassDataset], info: dict, n_threads: int = 1, *,
                 flag: str = '--csv_tune') -> None:
    """Raise `InputError` if images of `data`, used for tuning corrections, trained the checkpoint described by `info` or are reported.

    `reported`: split -> ClassDataset; `flag`: which names the csv of `data`. The validation csv may be used for tuning and reported only if
    a test set is reported as well.
    """
    same_csv, seen = _same_csv(data.csv_path, info['config']), info['image_hashes']
    unfit = NOT_FOR_TUNING if flag == '--csv_tune' else 'cannot be used for the calibration'
    if seen is not None:
        roles = _roles(data, seen, n_threads)
        trained = np.where(roles & CHOSE, 0, roles & TRAINING_ROLES)
        if trained.any():
            raise InputError(f'{data.csv_path} {unfit}: {_seen_images(data, trained)}. Give a csv of validation images with '
                             f'{flag}')
        if 'val' in same_csv and (note := _note_other_images(data, roles, seen)):
            print(f'* {note}', end='')
    if 'train' in same_csv:  # its images were not recorded, or have changed
        raise InputError(f'{data.csv_path} {unfit}: it is the training csv of this network. Give a csv of validation images '
                         f'with {flag}')
    hashes = data.content_hashes(n_threads)
    for split, other in reported.items():
        shared = np.isin(hashes, other.content_hashes(n_threads)).sum()
        if shared and not (split == 'val' and other.csv_path == data.csv_path and 'test' in reported):
            raise InputError(f"{data.csv_path} {unfit}: it shares {counted(shared, 'image')} with {other.csv_path}, which is "
                             'reported. Give another csv with --csv_tune')


def _same_csv(csv, config):
    """-> {'train'} or {'val'} if `csv` is the training or validation csv of the run with this `config`, else set()"""
    return {role for role, digest in config['csv_sha256'].items() if digest == file_sha256(csv)}


def _note_other_images(data, roles, seen):
    """Return a line that counts the images of the validation csv whose content differs from that in training; '' if there are none."""
    n = 0 if seen is None else int((roles == 0).sum())
    return (f"Note: {counted(n, 'image')} of {data.csv_path} in {data.data_path} had different content in training (does --data_path "
            'belong to this csv?)\n') if n else ''


def _roles(data, seen, n_threads=1):
    return roles_of(data.content_hashes(n_threads), seen)


def _seen_images(data, roles):
    """Count the images that the network has seen, and name a few for each of the ROLES; an image counts for its first role only."""
    parts, left = [], np.ones(len(roles), bool)
    for role, what in ROLES.items():
        rows = np.flatnonzero(left & (roles & role > 0))
        left[rows] = False
        if len(rows):
            parts.append(f"{len(rows)} {what} ({preview([f'{data.image_ids[i]}, row {data.rows[i]}' for i in rows[:4]], 3)})")
    return f'the network has seen {np.count_nonzero(roles)} of {len(data)} images of {data.csv_path}: {"; ".join(parts)}'
