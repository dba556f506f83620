"""Labels of Hyper-Kvasir, and its five folds: those of the original repository or those of the dataset's authors."""
import os

import numpy as np
import pandas as pd

from utils.common import InputError, write_text
from utils.data.read_csv import csv_text, parse_csv, read_csv
from utils.datasets.archives import one_line

N_FINDINGS, N_FOLDS = 23, 5


def read_labels(archive, n_images):
    """-> (DataFrame image_id, finding_name, finding in the order of image-labels.csv; image id -> archive member)

    Raises `InputError` unless the zip holds one readable image-labels.csv that lists each of its `n_images` images once."""
    names = archive.namelist()
    tables = [name for name in names if os.path.basename(name) == 'image-labels.csv']
    if len(tables) != 1:
        raise InputError(f'{archive.filename} holds {len(tables)} files named image-labels.csv: it is not the zip of labelled images')
    where = f'{archive.filename}, {one_line(tables[0])}'
    try:
        content = archive.read(tables[0])
    except Exception as err:  # zipfile raises nearly any exception for a damaged zip
        raise InputError(f'{where} is damaged: {one_line(err)}') from err
    table, rows = parse_csv(content, where)
    members = {os.path.splitext(os.path.basename(name))[0]: name for name in names if name.lower().endswith('.jpg')}
    if not {'Video file', 'Finding'} <= set(table.columns):
        raise InputError(f"{where} has no columns 'Video file' and 'Finding'")
    ids = table['Video file'].str.removesuffix('.jpg')
    for column, bad, what in (('Video file', ids.isna(), 'is empty'), ('Finding', table.Finding.isna(), 'is empty'),
                              ('Video file', ids.duplicated(), 'repeats an earlier row')):
        if bad.any():
            raise InputError(f"{where}, row {rows[int(np.argmax(bad))]}: the cell '{column}' {what}: the file is not the published one")
    findings = sorted(table.Finding.unique())
    missing = sorted(set(ids) - set(members))
    for what, found, expected in (('images', len(members), n_images), ('labels', len(table), n_images),
                                  ('findings', len(findings), N_FINDINGS), ('labels without an image', len(missing), 0)):
        if found != expected:
            raise InputError(f'{archive.filename} has {found} {what}, expected {expected}: the file is incomplete or a different one')
    classes = table.Finding.map({name: c for c, name in enumerate(findings)})
    return pd.DataFrame({'image_id': ids, 'finding_name': table.Finding, 'finding': classes}), members


def original_folds(table):
    """The five validation sets of the original: four stratified cuts of a fifth of all images each, with seed 0, then the remainder."""
    from sklearn.model_selection import train_test_split  # imported here because it takes a second

    rest, folds = table, []
    for _ in range(N_FOLDS - 1):
        rest, fold = train_test_split(rest, test_size=len(table) // N_FOLDS, random_state=0, stratify=rest.finding)
        folds.append(fold)
    # As in the original, the last cut is fold 4 and the remainder is fold 5.
    return [*folds, rest]


def official_folds(table, path):
    """The dataset authors' folds, from their 5_fold_split.csv (file-name;class-name;split-index)."""
    official, _ = read_csv(path, 'csv of folds (--splits official)')
    if not {'file-name', 'split-index'} <= set(official.columns):
        raise InputError(f'--splits official: {path} has no columns file-name and split-index')
    folds = pd.to_numeric(official['split-index'], errors='coerce')
    index = table.image_id.map(dict(zip(official['file-name'].str.removesuffix('.jpg'), folds, strict=True)))
    if index.isna().any() or sorted(index.unique()) != list(range(N_FOLDS)):
        raise InputError(f'--splits official: {path} does not assign each image to one of {N_FOLDS} folds ({index.isna().sum()} have none)')
    return [table[index == i] for i in range(N_FOLDS)]


def write_folds(folds, out, select_fraction, seed=0):
    for i, val in enumerate(folds, start=1):
        train = pd.concat([fold for j, fold in enumerate(folds, start=1) if j != i])
        if select_fraction:
            from sklearn.model_selection import train_test_split  # imported here because it takes a second

            train, select = train_test_split(train, test_size=select_fraction, random_state=seed, stratify=train.finding)
            write_text(os.path.join(out, f'select_endo{i}.csv'), csv_text(select))
        write_text(os.path.join(out, f'train_endo{i}.csv'), csv_text(train))
        write_text(os.path.join(out, f'val_endo{i}.csv'), csv_text(val))
