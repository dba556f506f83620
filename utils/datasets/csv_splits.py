"""From one table of images and classes to train/val/test csvs: split by patient, leave out copies, check, write all or nothing.

A table has the columns image_id (path below the data path), optional patient_id and further ones, name (of the class), label (int) and
part ('train', 'val' or 'test' if the source decides it, else '').
"""
import argparse
import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import pandas as pd

from utils.common import InputError, counted, preview, whole_file
from utils.data.files import equal_files
from utils.data.read_csv import clean_patients, csv_text, patient_key, read_csv
from utils.datasets.splitting import fold_groups, rarity, split_groups

SPLITS = {'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test', 'testing': 'test'}
BESIDE_SPLIT = {'data', 'dataset', 'image', 'images', 'set', 'split'}  # further words in the folder name of a split
ORDER = ('test', 'val', 'train', '')  # of several copies, the image in the first of these parts is kept


def natural(text: str) -> tuple:
    """-> sort key that puts grade2 before grade10"""
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(re.split(r'([0-9]+)', text))], text


def split_of(folder: str) -> str:
    """-> 'train', 'val' or 'test' if the name of a folder means that split, such as training_set or 'b. Testing Set'; else ''"""
    words = [word for word in re.findall('[a-z]+', folder.lower()) if len(word) > 1]
    splits = [SPLITS.get(word) or SPLITS.get(word.removesuffix('set')) for word in words]
    known = {split for split in splits if split}
    others = {word for word, split in zip(words, splits, strict=True) if not split}
    return known.pop() if len(known) == 1 and others <= BESIDE_SPLIT else ''


def add_split_flags(parser: argparse.ArgumentParser, path_below: str) -> argparse._ArgumentGroup:
    """Add the flags of a random split. `path_below`: the flag of the image folder, as in the help."""
    split = parser.add_argument_group('split')
    split.add_argument('--patient_pattern', metavar='REGEX', help='regular expression with one group (...), which matches the patient in '
                       f'the path below {path_below}; all images of a patient go to the same split (default: each image counts as a '
                       'patient)')
    split.add_argument('--val_fraction', type=float, default=.1, metavar='FRACTION', help='share of patients for validation')
    split.add_argument('--test_fraction', type=float, default=.2, metavar='FRACTION', help='share of patients for testing')
    split.add_argument('--copies', metavar='CSV', help='csv of duplicates, written by tools.check_data --out; they are left out like equal '
                       'files')
    split.add_argument('--seed', type=int, default=0, metavar='N', help='random seed of the split')
    return split


def add_output_flags(parser: argparse.ArgumentParser, default_name: str) -> argparse._ArgumentGroup:
    output = parser.add_argument_group('output')
    output.add_argument('--out', default='data', metavar='FOLDER', help='folder for the csvs')
    output.add_argument('--name', metavar='NAME', help=f'name of the data set, as in train_NAME.csv (default: {default_name})')
    return output


def check_split_flags(args: argparse.Namespace) -> None:
    """Raise `InputError` unless the fractions leave images for training and validation, and --name is a file name."""
    if min(args.val_fraction, args.test_fraction) < 0 or args.val_fraction + args.test_fraction >= 1 or not args.val_fraction:
        raise InputError('--val_fraction must be above 0, --test_fraction 0 or more, and their sum below 1')
    if args.name and os.path.basename(args.name) != args.name:
        raise InputError(f'--name {args.name} must not contain a folder: use --out for that')


def match_patients(image_ids: pd.Series, pattern: str) -> pd.Series:
    """-> what the only group of `pattern` matches in each id. Raises `InputError` naming the first id without a match."""
    try:
        compiled = re.compile(pattern)
    except re.error as err:
        raise InputError(f'--patient_pattern {pattern} is not a valid regular expression: {err}') from err
    if compiled.groups != 1:
        raise InputError(f'--patient_pattern {pattern} must have one group (...), not {compiled.groups}')
    found = [compiled.search(image_id) for image_id in image_ids]
    missing = [image_id for image_id, match in zip(image_ids, found, strict=True) if not (match and match.group(1))]
    if missing:
        raise InputError(f'--patient_pattern {pattern} finds no patient in {len(missing)} of {len(found)} images, such as {missing[0]}')
    return pd.Series([match.group(1) for match in found if match], image_ids.index, dtype=str)


def add_patients(table: pd.DataFrame, patients: pd.Series) -> None:
    """Insert the column `patient_id` into `table`, with unknown patients as NaN."""
    table.insert(1, 'patient_id', clean_patients(patients))


def groups_of(table: pd.DataFrame) -> pd.Series:
    """-> (N,) group of each image: its patient, or only the image itself if it has none"""
    images = 'image ' + table.image_id
    if 'patient_id' not in table:
        return images
    return table.patient_id.map(patient_key, na_action='ignore').astype(object).fillna(images)


def draw_parts(table: pd.DataFrame, args: argparse.Namespace, fixed_by: str) -> None:
    """Replace '' in the column `part` of `table` by a random part. Parts that the source decides are kept.

    If the source decides a part, images for it are not drawn. The others are drawn from train and ''. A class with as many groups as
    parts has one in each. `args`: see `add_split_flags`; `fixed_by`: what decides parts, for a warning about patients in several of them.
    """
    groups, part = groups_of(table), table.part.to_numpy(object)
    drawn = table.part.isin(['', 'train']).to_numpy()
    fractions = [0. if (part == name).any() else fraction for name, fraction in (('val', args.val_fraction), ('test', args.test_fraction))]
    index = split_groups(groups[drawn], rarity(table.label[drawn]), fractions, args.seed)
    part[drawn] = np.array(['val', 'test', 'train'])[index]
    table['part'] = part
    spread = table.part.groupby(groups).nunique()
    if (spread > 1).any():
        print(f"* Warning: {counted((spread > 1).sum(), 'patient')} in more than one of {fixed_by}: "
              f'{preview(spread.index[spread > 1].tolist())}')


def fold_paths(folder: str, n_folds: int) -> list[tuple[str, str]]:
    """-> training and validation csv of each fold"""
    return [(os.path.join(folder, f'train_fold{i + 1}.csv'), os.path.join(folder, f'val_fold{i + 1}.csv')) for i in range(n_folds)]


def write_folds(csvs: Sequence[str], label_column: str, paths: Sequence[tuple[str, str]], *, seed: int) -> None:
    """Distribute the images of `csvs` over folds by patient, and write the csvs of each fold to `paths` (see `fold_paths`), all or none.

    Raises `InputError` if the csvs have different columns or a class has fewer patients (or images without one) than 2.
    """
    tables = [read_csv(csv)[0] for csv in csvs]
    for csv, table in zip(csvs, tables, strict=True):
        if list(table) != list(tables[0]):
            raise InputError(f"--folds: {csvs[0]} and {csv} have different columns ({', '.join(tables[0])}; {', '.join(table)})")
    table = pd.concat(tables, ignore_index=True)
    groups = groups_of(table)
    n_groups = groups.groupby(table[label_column]).nunique()
    if (n_groups < 2).any():
        raise InputError(f"--folds: class {', '.join(n_groups.index[n_groups < 2])} has a single patient or image, which cannot be in "
                         'training and validation')
    fold = fold_groups(groups, rarity(table[label_column]), len(paths), seed)
    write_whole({path: csv_text(table[rows]) for i, pair in enumerate(paths)
                 for path, rows in zip(pair, (fold != i, fold == i), strict=True)})


def leave_out_copies(table: pd.DataFrame, folder: str, known: str | None = None) -> pd.DataFrame:
    """Keep one row of each group of images whose files are equal: the first in val, else in train. -> the rows that are kept

    Images that the source puts into test are always kept, and their copies are not, so that published test sets stay complete. Otherwise,
    no image is kept of copies with different classes. `folder`: the data path. `known`: csv of further copies, as written by
    `tools.check_data --out`. Prints what is left out.
    """
    rank, ids = table.part.map(ORDER.index).to_numpy(), table.image_id.tolist()
    left_out: dict[str, dict] = {'': {}, ' with different classes': {}}
    groups = equal_files([os.path.join(folder, image_id) for image_id in ids])
    for group in _merged(groups + (_read_pairs(known, folder, ids) if known else [])):
        first, *others = sorted(group, key=lambda row: rank[row])
        same_class = table.label.iloc[group].nunique() == 1
        out = [row for row in others if table.part.iloc[row] != 'test']
        if not same_class and table.part.iloc[first] != 'test':
            out.append(first)
        left_out['' if same_class else ' with different classes'] |= {
            row: first if row != first else others[0] for row in out}
    for what, rows in left_out.items():
        if rows:
            named = preview([f'{ids[row]} (= {ids[other]})' for row, other in rows.items()])
            print(f"* Left out: {len(rows)} {'copy' if len(rows) == 1 else 'copies'} of other images{what}: {named}")
    out_rows = {row for rows in left_out.values() for row in rows}
    return table[[row not in out_rows for row in range(len(table))]].reset_index(drop=True)


def _read_pairs(path, folder, ids):
    """-> groups of rows that a csv of `tools.check_data --out` names as copies; images that are not in `ids` are ignored"""
    table, _ = read_csv(path, 'csv of duplicates (--copies)')
    if missing := [column for column in ('image_a', 'image_b') if column not in table]:
        raise InputError(f"--copies: {path} has no column '{missing[0]}': give a csv that tools.check_data --out has written")
    rows = {os.path.realpath(os.path.join(folder, image_id)): row for row, image_id in enumerate(ids)}
    pairs = [[rows.get(os.path.realpath(image)) for image in pair] for pair in table[['image_a', 'image_b']].itertuples(index=False)]
    return [pair for pair in pairs if None not in pair]


def _merged(groups):
    """Merge `groups` of rows that have a row in common. -> sorted groups of sorted rows"""
    group_of: dict = {}
    for group in groups:
        merged = sorted({row for member in group for row in group_of.get(member, [member])})
        group_of |= dict.fromkeys(merged, merged)
    return sorted(list(group) for group in {tuple(group) for group in group_of.values()})


def keep_one_per_patient(table: pd.DataFrame) -> pd.DataFrame:
    """Keep only the first image of each patient in val and test. Prints how many are left out. -> the rows that are kept"""
    repeated = (table.part + ' ' + groups_of(table)).duplicated() & table.part.isin(['val', 'test'])
    print(f"* Left out: {counted(repeated.sum(), 'further image')} of patients in validation and test (--one_per_group)")
    return table[~repeated].reset_index(drop=True)


def refuse_unfit_parts(table: pd.DataFrame, numbers: Mapping[str, int], folder: str, set_name: str) -> None:
    """Raise `InputError` for a class without training images, a table without validation images, or a stale test csv in `folder`.

    `numbers`: {class name: class}.
    """
    trained = set(table.label[table.part == 'train'])
    if absent := [name for name, c in numbers.items() if c not in trained]:
        raise InputError(f"no training images are left of {', '.join(absent)}: give another --seed, or smaller fractions")
    if not (table.part == 'val').any():
        raise InputError('there are no validation images: give a larger --val_fraction')
    old = os.path.join(folder, f'test_{set_name}.csv')
    if not (table.part == 'test').any() and os.path.exists(old):
        raise InputError(f'{old} belongs to an earlier split, and this one has no test images: delete it, or give another --name')


def write_parts(table: pd.DataFrame, folder: str, set_name: str) -> dict[str, str]:
    """Write <split>_<set_name>.csv to `folder` for each split in the column `part`, all or none. -> {split: path}"""
    parts = {name: table[table.part == name].drop(columns='part') for name in ('train', 'val', 'test')}
    paths = {name: os.path.join(folder, f'{name}_{set_name}.csv') for name, rows in parts.items() if len(rows)}
    write_whole({path: csv_text(parts[name]) for name, path in paths.items()})
    for name, path in paths.items():
        of = f" of {counted(parts[name].patient_id.nunique(), 'patient')}" if 'patient_id' in table else ''
        print(f"* {path}: {counted(len(parts[name]), 'image')}{of}")
    return paths


def write_whole(texts: Mapping[str, str]) -> None:
    """Write all files {path: text}, or none of them if one cannot be written."""
    with contextlib.ExitStack() as files:
        for path, text in texts.items():
            file = files.enter_context(whole_file(path))
            file.write(text.encode())
            file.flush()  # a full disk fails here, before any file gets its name


def print_classes(table: pd.DataFrame, numbers: Mapping[str, int]) -> None:
    """Print the images of each class in each part. `numbers`: {class name: class}."""
    for name, c in sorted(numbers.items(), key=itemgetter(1)):
        counts = [(table.label[table.part == part] == c).sum() for part in ('train', 'val', 'test') if (table.part == part).any()]
        print(f"  class {c} ({name}): {' / '.join(map(str, counts))}")
    validated = set(table.label[table.part == 'val'])
    if validated and (absent := [name for name, c in numbers.items() if c not in validated]):
        print(f"* Warning: no validation images of {', '.join(absent)}")
