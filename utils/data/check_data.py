"""All problems of the csvs of a training or test that can be found without decoding an image."""
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.common import InputError, counted, preview
from utils.data.files import find_alike, find_outside, first_spellings
from utils.data.read_csv import patient_key

if TYPE_CHECKING:  # it imports torch, which the tools that read predictions do without
    from utils.data.dataset import ClassDataset

PATIENT_COLUMNS = ('patient', 'patientid', 'patientname', 'patientnumber', 'patientno', 'pid', 'subject', 'subjectid',
                   'participant', 'participantid', 'caseid', 'lesionid', 'mrn')  # probably patients, but not read


class Problem(NamedTuple):
    csv_path: str
    text: str

    def __str__(self) -> str:
        return f'{self.csv_path}: {self.text}'


def check_data(datasets: Mapping[str, 'ClassDataset'], n_classes: int, known_names: Sequence[str] | None = None) -> list[Problem]:
    """Find all problems of `datasets` (name -> ClassDataset), [] if there are none. `refuse_problems` turns them into an error.

    Each csv: no rows, missing images, images outside the data folder, repeated images, labels other than the integers 0..n_classes-1.
    Class names that differ from `known_names`, those of a trained network, are a problem, too.
    The datasets 'train' and 'val' need labels. 'train' needs an image of every class, and shares no image with 'val', nor a patient
    where both have a `patient_id`.
    """
    problems = []
    for name, data in datasets.items():
        texts = list(_find_dataset_problems(data, n_classes))
        if name in ('train', 'val') and not data.has_labels:
            texts.append('no labels: the class must stand in the last column or in the one that --label_column names '
                         f"(columns: {', '.join(data.table)})")
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
    """Return the indices of the files outside the data folder; [] where these are allowed."""
    return find_outside(data.paths, data.data_path) if data.data_path and not data.allow_outside else []


def find_outside_problems(data: 'ClassDataset') -> list[Problem]:
    """The problem that a csv names files outside the data folder; [] if it names none."""
    outside = find_outside_rows(data)
    if not outside:
        return []
    return [Problem(data.csv_path, f"{counted(len(outside), 'image', 'lie')} outside of --data_path {data.data_path}, by name or through "
                                   f'a link (--allow_outside_data_path permits it): {_name_rows(data, outside)}')]


def find_shared(a: 'ClassDataset', b: 'ClassDataset') -> dict[str, list[str]]:
    """Find what stands in both datasets: {'image' | 'patient': sorted names}. 'patient' is absent unless both csvs name patients."""
    known: dict = {}
    shared = {'image': sorted(set(_identify_images(a, known)) & set(_identify_images(b, known)))}
    if 'patient_id' in a.table and 'patient_id' in b.table:
        shared['patient'] = sorted(set(a.table.patient_id.dropna()) & set(b.table.patient_id.dropna()))
    return shared


def find_name_conflicts(a: 'ClassDataset', b: 'ClassDataset') -> list[str]:
    """Describe the classes that two datasets name differently; [] where one of them contradicts itself, which `check_data` reports."""
    if any(list(_find_ambiguous_names(data.named_classes(), data.label_column)) for data in (a, b)):
        return []
    return list(_find_ambiguous_names(sorted({*a.named_classes(), *b.named_classes()}), a.label_column))


def find_unknown_names(pairs: Iterable[tuple[int, str]], known_names: Sequence[str]) -> list[str]:
    """Describe the (class, name) pairs of a csv that differ from the class names that a network was trained with; [] if none does.

    Default names (C0, DR0) say nothing about a class. If the network knows only such names, they can only contradict themselves, in
    another order.
    """
    only_defaults = all(name in (f'C{c}', f'DR{c}') for c, name in enumerate(known_names))
    wrong = [f"class {c} is '{name}' here and '{known_names[c]}' in the network" for c, name in pairs
             if c < len(known_names) and name != known_names[c] and (name in known_names or not only_defaults)]
    return [f'the names of the classes are not those that the network was trained with: {preview(wrong)}'] if wrong else []


def patient_notes(datasets: Sequence['ClassDataset']) -> list[str]:
    """Describe what may keep patients of `datasets` from being told apart.

    These are ids that differ only in letter case, blanks, leading zeros or the Unicode form (only the user knows whether they are one
    patient), columns that probably name patients under another name, and a csv without `patient_id` beside one that has it.
    """
    notes = []
    spellings: dict = defaultdict(dict)  # key -> id -> csvs
    known = [data for data in datasets if 'patient_id' in data.table]
    for data in known:
        for patient in data.table.patient_id.dropna().unique():
            spellings[patient_key(patient)].setdefault(patient, []).append(str(data.csv_path))
    several = [ids for ids in spellings.values() if len(ids) > 1]
    several.sort(key=lambda ids: len(set(chain.from_iterable(ids.values()))) == 1)  # those of two csvs first
    if several:
        named = [' and '.join(f"{patient} ({', '.join(csvs)})" for patient, csvs in ids.items()) for ids in several]
        notes.append(f'patient ids that differ only in letter case, blanks or leading zeros ({len(several)} in all) count as different '
                     f'patients; if they are the same, write each in one way: {preview(named)}')
    for data in datasets:
        likely = [column for column in data.table if re.sub('[^a-z]', '', column.lower()) in PATIENT_COLUMNS]
        if data not in known and likely:
            notes.append(f"{data.csv_path}: column '{likely[0]}' is not read: if it names the patients, rename it to patient_id")
        elif data not in known and known:
            notes.append(f'{data.csv_path} has no column patient_id, {known[0].csv_path} has one: patients that they share are not found')
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
        return  # such files are not even opened
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
        yield f"{counted(len(repeated), 'image', 'stand')} in more than one row (delete the repeated rows): {named}"


def _find_label_problems(data: 'ClassDataset', n_classes: int) -> Iterator[str]:
    bad = np.flatnonzero((data.labels < 0) | (data.labels >= n_classes)) if data.has_labels else []
    if not len(bad):
        yield from _find_ambiguous_names(data.named_classes(), data.label_column)
        return
    values = preview([f'{data.table[data.label_column].iloc[i]} (row {data.rows[i]})' for i in bad[:6]])
    if (data.labels < 0).all():
        yield (f"no value of column '{data.label_column}' is a class: number the classes from 0, or name another column by --label_column; "
               f'it has {values}')
    else:
        hint = _suggest_n_classes(np.unique(data.labels), n_classes)
        none = 'is no integer' if len(bad) == 1 else 'are no integers'
        yield (f"{counted(len(bad), 'label')} in column '{data.label_column}' {none} of 0..{n_classes - 1} ({hint}, or name another column "
               f'by --label_column): {values}')


def _find_ambiguous_names(pairs: Iterable[tuple[int, str]], column: str | None) -> Iterator[str]:
    """Classes and names must belong together one to one: otherwise `column` is not the class, or a name is mistyped."""
    pairs = list(pairs)
    for key, value, what in ((0, 1, 'classes with several names'), (1, 0, 'names of several classes')):
        several: dict = {}
        for pair in pairs:
            several.setdefault(pair[key], set()).add(pair[value])
        wrong = [f"{one}: {' and '.join(map(str, sorted(values)))}" for one, values in several.items() if len(values) > 1]
        if wrong:
            yield f"{what} (is '{column}' the class? --label_column names another column): {preview(wrong)}"


def _find_class_problems(train: 'ClassDataset', n_classes: int) -> Iterator[str]:
    valid = train.labels[(train.labels >= 0) & (train.labels < n_classes)]
    if n_classes < 2 or (len(valid) and valid.min() == valid.max()):
        yield 'one class only: there is nothing to tell apart (--n_classes must be at least 2)'
        return
    absent = np.flatnonzero(np.bincount(valid, minlength=n_classes) == 0)
    if len(valid) and len(absent):
        yield f'no training image of class {preview(absent.tolist())} (check --n_classes)'


def _find_overlap(train: 'ClassDataset', val: 'ClassDataset') -> Iterator[str]:
    yield from find_name_conflicts(train, val)
    for what, both in find_shared(train, val).items():
        if both:
            yield f'{counted(len(both), what, "stand")} in {val.csv_path} too: {preview(both)}'


def _identify_images(data: 'ClassDataset', known: dict) -> list[str]:
    """What identifies each image: its file, since `a`, `./a` and `a.jpg` may be the same one; the id where there is no file.
    `known`: see `first_spellings`."""
    files = first_spellings(data.paths, data.file_stats, known)
    return [file or image_id for image_id, file in zip(data.image_ids, files, strict=True)]


def _name_rows(data: 'ClassDataset', indices: Sequence[int]) -> str:
    """The image ids at `indices` with their rows in the csv."""
    return preview([f'{data.image_ids[i]} (row {data.rows[i]})' for i in indices[:6]])


def _suggest_ids(data: 'ClassDataset', missing: Sequence[int]) -> str:
    """Words about files whose names are like the missing ids at these indices; '' if there are none."""
    ids = [data.image_ids[i] for i in missing]
    if any('\\' in image_id for image_id in ids):
        return "; write '/' between folders and names, not '\\'"
    alike = {image_id: find_alike(image_id, data.data_path) for image_id in ids}
    hints = [f"{' and '.join(names)} for {image_id}" for image_id, names in alike.items() if names]
    return f'; there is {preview(hints)}: write ids exactly as the files are named, or without the extension' if hints else ''


def _suggest_n_classes(classes: np.ndarray, n_classes: int) -> str:
    if classes[0] == 1 and classes[-1] == n_classes:
        return 'classes start at 0'
    return f'--n_classes {len(classes)}?' if (classes == np.arange(len(classes))).all() else 'check --n_classes'
