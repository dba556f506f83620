"""Five folds of Hyper-Kvasir: the original's, or those of the dataset's authors."""
import os

import pandas as pd
from sklearn.model_selection import train_test_split

from utils.common import InputError, write_text
from utils.read_csv import csv_text

N_FOLDS = 5


def original_folds(table):
    """The original's five validation sets: a fifth of all images cut off four times from seed 0, stratified."""
    rest, folds = table, []
    for _ in range(N_FOLDS - 1):
        rest, fold = train_test_split(rest, test_size=len(table) // N_FOLDS, random_state=0, stratify=rest.finding)
        folds.append(fold)
    # The original numbers the remainder as fold 5 and the last cut as fold 4.
    return [*folds, rest]


def official_folds(table, path):
    """The dataset authors' folds, from their 5_fold_split.csv (file-name;class-name;split-index)."""
    try:
        official = pd.read_csv(path, sep=';', dtype={'file-name': str})
    except (OSError, pd.errors.ParserError, UnicodeDecodeError) as err:
        raise InputError(f'--splits official: {path} cannot be read: {err}') from err
    if not {'file-name', 'split-index'} <= set(official.columns):
        raise InputError(f'--splits official: {path} has no columns file-name and split-index')
    index = table.image_id.map(dict(zip(official['file-name'].str.removesuffix('.jpg'), official['split-index'], strict=True)))
    if index.isna().any() or sorted(index.unique()) != list(range(N_FOLDS)):
        raise InputError(f'--splits official: {path} does not give each image one of {N_FOLDS} folds ({index.isna().sum()} have none)')
    return [table[index == i] for i in range(N_FOLDS)]


def write_folds(folds, out, select_fraction, seed=0):
    for i, val in enumerate(folds, start=1):
        train = pd.concat([fold for j, fold in enumerate(folds, start=1) if j != i])
        if select_fraction:
            train, select = train_test_split(train, test_size=select_fraction, random_state=seed, stratify=train.finding)
            write_text(os.path.join(out, f'select_endo{i}.csv'), csv_text(select))
        write_text(os.path.join(out, f'train_endo{i}.csv'), csv_text(train))
        write_text(os.path.join(out, f'val_endo{i}.csv'), csv_text(val))
