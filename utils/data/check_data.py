"""Checks of training and test csvs that need no image decoding."""
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.common import InputError, counted, preview
from utils.data.files import find_alike, find_outside, first_spellings
from utils.data.read_csv import patient_key

if TYPE_CHECKING:  # this module imports torch, which tools for predictions csvs do not need
    from utils.data.dataset import ClassDataset

PATIENT_COLUMNS = ('patient', 'patientid', 'patientname', 'patientnumber', 'patientno', 'pid', 'subject', 'subjectid',
                   'participant', 'participantid', 'mrn', 'caseid', 'lesionid')  # probably patient ids, but ignored


class Problem(NamedTuple):
    csv_path: str
    text: str

    def __str__(self) -> str:
        return f'{self.csv_path}: {self.text}'


def check_data(datasets: Mapping[str, 'ClassDataset'], n_classes: int, known_names: Sequence[str] | None = None) -> list[Problem]:
    """Return all problems of `datasets` (name -> ClassDataset); `refuse_problems` turns them into an error.

    In each csv: no rows, missing images, images outside the data folder, repeated images, and labels other than 0..n_classes-1.
    Class names that differ from `known_names`, those of a trained network, are also a problem.
    The datasets 'train' and 'val' need labels. 'train' needs an image of every class. It must share no image with 'val', and no patient
    if both have a `patient_id`.
    """
    problems = []
    for name, data in datasets.items():
        texts = list(_find_dataset_problems(data, n_classes))
        if name in ('train', 'val') and not data.has_labels:
            texts.append('no labels: put the class in the last column, or select its column with --label_column (columns: '
                         f"{', '.join(data.table)})")
        if known_names:
            texts += find_unknown_names(data.named_classes(), known_names)
        problems += [Problem(data.csv_path, text) for text in texts]
    if 'train' in datasets:
        train = datasets['train']
        texts = list(_find_class_problems(train, n_classes))
        if 'val' in datasets:
            texts += _find_overlap(train, datasets['val'])
        problems += [Problem(train.csv_path, text) for text in texts]
    return problems


def refuse_problems(problems: Sequence[Problem], notes: Iterable[str] = ()) -> None:
    """Print each of `notes` as a warning, then raise one `InputError` that lists all `problems`, if there are any."""
    for note in notes:
        print(f'* Warning: {note}')
    if problems:
        lines = [str(problem) for problem in problems]
        raise InputError(lines[0] if len(lines) == 1 else '\n  - '.join(['the data cannot be used:', *lines]))


def find_outside_rows(data: 'ClassDataset') -> list[int]:
    """Return the indices of files outside the data folder; [] if `data` allows them."""
    return find_outside(data.paths, data.data_path) if data.data_path and not data.allow_outside else []


def find_outside_problems(data: 'ClassDataset') -> list[Problem]:
    """Return one `Problem` if the csv names files outside the data folder, else []."""
    outside = find_outside_rows(data)
    if not outside:
        return []
    return [Problem(data.csv_path, f"{counted(len(outside), 'image', 'lie')} outside of --data_path {data.data_path}, directly or through "
                                   f'a link (--allow_outside_data_path allows it): {_name_rows(data, outside)}')]


def find_shared(a: 'ClassDataset', b: 'ClassDataset') -> dict[str, list[str]]:
    """Return what two datasets share: {'image': sorted files or ids, 'patient': sorted ids}, without 'patient' unless both have ids."""
    known: dict = {}
    shared = {'image': sorted(set(_identify_images(a, known)) & set(_identify_images(b, known)))}
    if 'patient_id' in a.table and 'patient_id' in b.table:
        shared['patient'] = sorted(set(a.table.patient_id.dropna()) & set(b.table.patient_id.dropna()))
    return shared


def find_name_conflicts(a: 'ClassDataset', b: 'ClassDataset') -> list[str]:
    """Describe classes that two datasets name differently; [] if one of them is ambiguous itself, which `check_data` reports."""
    if any(list(_find_ambiguous_names(data.named_classes(), data.label_column)) for data in (a, b)):
        return []
    return list(_find_ambiguous_names(sorted({*a.named_classes(), *b.named_classes()}), a.label_column))


def find_unknown_names(pairs: Iterable[tuple[int, str]], known_names: Sequence[str]) -> list[str]:
    """Describe the (class, name) pairs of a csv that differ from the class names of a trained network; [] if none does.

    Default names (C0, DR0) say nothing about a class. If the network has only such names, only a different order of them is a problem.
    """
    only_defaults = all(name in (f'C{c}', f'DR{c}') for c, name in enumerate(known_names))
    wrong = [f"class {c} is '{name}' here and '{known_names[c]}' in the network" for c, name in pairs
             if c < len(known_names) and name != known_names[c] and (name in known_names or not only_defaults)]
    return [f'class names differ from those that the network was trained with: {preview(wrong)}'] if wrong else []


def patient_notes(datasets: Sequence['ClassDataset']) -> list[str]:
    """Describe what may hide that `datasets` share patients.

    - Ids that differ only in case, spaces, leading zeros or Unicode form: only the user knows whether they are one patient.
    - A column that probably holds patient ids under another name.
    - A csv without `patient_id` when another one has it.
    """
    notes = []
    spellings: dict = defaultdict(dict)  # key -> id -> csvs
    known = [data for data in datasets if 'patient_id' in data.table]
    for data in known:
        for patient in data.table.patient_id.dropna().unique():
            spellings[patient_key(patient)].setdefault(patient, []).append(str(data.csv_path))
    several = [ids for ids in spellings.values() if len(ids) > 1]
    several.sort(key=lambda ids: len(set(chain.from_iterable(ids.values()))) == 1)  # groups across csvs first
    if several:
        named = [' and '.join(f"{patient} ({', '.join(csvs)})" for patient, csvs in ids.items()) for ids in several]
        notes.append('patient ids that differ only in case, spaces or leading zeros count as different patients '
                     f"({counted(len(several), 'group')}); use one spelling if they are the same patient: {preview(named)}")
    for data in datasets:
        likely = [column for column in data.table if re.sub('[^a-z]', '', column.lower()) in PATIENT_COLUMNS]
        if data not in known and likely:
            notes.append(f"{data.csv_path}: column '{likely[0]}' is ignored: if it holds patient ids, rename it to patient_id")
        elif data not in known and known:
            notes.append(f'{data.csv_path} has no column patient_id, but {known[0].csv_path} has: shared patients cannot be found')
    return notes


def _find_dataset_problems(data: 'ClassDataset', n_classes: int) -> Iterator[str]:
    if not len(data):
        yield 'no rows'
    missing = [i for i, path in enumerate(data.paths) if path is None]
    if missing:
        yield (f"{len(missing)} of {len(data)} images not found in {data.data_path or 'their folders'} "
               f'(check --data_path): {_name_rows(data, missing)}{_suggest_ids(data, missing[:5])}')
    if outside := find_outside_problems(data):
        yield outside[0].text
        return  # do not touch such files
    empty = [data.paths[i] for i in np.flatnonzero(data.stats[:, 0] == 0)]
    if empty:
        yield f"{counted(len(empty), 'empty image file')}: {preview(empty)}"
    yield from _find_repeated_images(data)
    yield from _find_label_problems(data, n_classes)


def _find_repeated_images(data: 'ClassDataset') -> Iterator[str]:
    images = _identify_images(data, {})
    repeated = [image for image, n in Counter(images).items() if n > 1]
    if repeated:
        rows: dict = {image: [] for image in repeated[:6]}
        for row, image in zip(data.rows.tolist(), images, strict=True):
            if image in rows:
                rows[image].append(str(row))
        named = preview([f"{image} (rows {' and '.join(of)})" for image, of in rows.items()])
        yield f"{counted(len(repeated), 'image', 'appear')} in more than one row (delete the repeated rows): {named}"


def _find_label_problems(data: 'ClassDataset', n_classes: int) -> Iterator[str]:
    bad = np.flatnonzero((data.labels < 0) | (data.labels >= n_classes)) if data.has_labels else []
    if not len(bad):
        yield from _find_ambiguous_names(data.named_classes(), data.label_column)
        return
    values = preview([f'{data.table[data.label_column].iloc[i]} (row {data.rows[i]})' for i in bad[:6]])
    if (data.labels < 0).all():
        yield (f"column '{data.label_column}' contains {values} instead of class numbers: number the classes from 0, or select another "
               'column with --label_column')
    else:
        hint = _suggest_n_classes(np.unique(data.labels), n_classes)
        wrong = 'is not an integer' if len(bad) == 1 else 'are not integers'
        yield (f"{counted(len(bad), 'label')} in column '{data.label_column}' {wrong} in 0..{n_classes - 1} ({hint}, or select another "
               f'column with --label_column): {values}')


def _find_ambiguous_names(pairs: Iterable[tuple[int, str]], column: str | None) -> Iterator[str]:
    """Yield classes and names that do not match one to one: `column` is not the class, or a name is mistyped."""
    pairs = list(pairs)
    for key, value, what in ((0, 1, 'classes with several names'), (1, 0, 'names used for several classes')):
        several: dict = {}
        for pair in pairs:
            several.setdefault(pair[key], set()).add(pair[value])
        wrong = [f"{one}: {' and '.join(map(str, sorted(values)))}" for one, values in several.items() if len(values) > 1]
        if wrong:
            yield f"{what} (is '{column}' the class? If not, select it with --label_column): {preview(wrong)}"


def _find_class_problems(train: 'ClassDataset', n_classes: int) -> Iterator[str]:
    valid = train.labels[(train.labels >= 0) & (train.labels < n_classes)]
    if n_classes < 2 or (len(valid) and valid.min() == valid.max()):
        yield 'only one class: training needs at least 2, in the csv and in --n_classes'
        return
    absent = np.flatnonzero(np.bincount(valid, minlength=n_classes) == 0)
    if len(valid) and len(absent):
        yield f'no training image of class {preview(absent.tolist())} (check --n_classes)'


def _find_overlap(train: 'ClassDataset', val: 'ClassDataset') -> Iterator[str]:
    yield from find_name_conflicts(train, val)
    for what, both in find_shared(train, val).items():
        if both:
            yield f'{counted(len(both), what, "appear")} in {val.csv_path} too: {preview(both)}'


def _identify_images(data: 'ClassDataset', known: dict) -> list[str]:
    """Return the file of each image, since `a`, `./a` and `a.jpg` may be the same image; without a file, its id.
    `known`: see `first_spellings`."""
    files = first_spellings(data.paths, data.file_stats, known)
    return [file or image_id for image_id, file in zip(data.image_ids, files, strict=True)]


def _name_rows(data: 'ClassDataset', indices: Sequence[int]) -> str:
    """List the image ids at `indices` with their rows in the csv."""
    return preview([f'{data.image_ids[i]} (row {data.rows[i]})' for i in indices[:6]])


def _suggest_ids(data: 'ClassDataset', missing: Sequence[int]) -> str:
    """Return a hint about files with names similar to the missing ids at these indices, '' if there are none."""
    ids = [data.image_ids[i] for i in missing]
    if any('\\' in image_id for image_id in ids):
        return "; use '/' in paths, not '\\'"
    alike = {image_id: find_alike(image_id, data.data_path) for image_id in ids}
    hints = [f"{' and '.join(names)} for {image_id}" for image_id, names in alike.items() if names]
    return f'; similar names: {preview(hints)} (an id must match the file name exactly, with or without extension)' if hints else ''


def _suggest_n_classes(classes: np.ndarray, n_classes: int) -> str:
    if classes[0] == 1 and classes[-1] == n_classes:
        return 'number the classes from 0'
    return f'try --n_classes {len(classes)}' if (classes == np.arange(len(classes))).all() else 'check --n_classes'
