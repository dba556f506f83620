"""Everything that can be known to be wrong with the csvs before the first step, in one message."""
import re
from collections import Counter, defaultdict
from itertools import chain

import numpy as np

from utils.common import InputError, counted, some
from utils.data.files import find_alike, find_outside, first_spellings
from utils.data.read_csv import patient_key

PATIENT_COLUMNS = ('patient', 'patientid', 'patientname', 'patientnumber', 'patientno', 'pid', 'subject', 'subjectid',
                   'participant', 'participantid', 'caseid', 'lesionid', 'mrn')  # likely, not read


def _rows(data, indices):
    """The image ids at `indices` with their rows in the csv."""
    return some([f'{data.im_list[i]} (row {data.rows[i]})' for i in indices[:6]])


def outside_rows(data):
    """Indices of the files outside of the data folder, where these are not allowed."""
    return find_outside(data.paths, data.data_path) if data.data_path and not data.allow_outside else []


def outside_problem(data):
    """What is wrong if the csv names files outside of the data folder (else None)."""
    outside = outside_rows(data)
    if outside:
        return (f"{counted(len(outside), 'image', 'lie')} outside of --data_path {data.data_path}, by name or through a link "
                f'(--allow_outside_data_path permits it): {_rows(data, outside)}')


def shared_between(a, b):
    """{'image' | 'patient': sorted names that stand in both datasets}; see `_images`. Patients where both csvs name them."""
    known: dict = {}
    shared = {'image': sorted(set(_images(a, known)) & set(_images(b, known)))}
    if 'patient_id' in a.table and 'patient_id' in b.table:
        shared['patient'] = sorted(set(a.table.patient_id.dropna()) & set(b.table.patient_id.dropna()))
    return shared


def _images(data, known):
    """What identifies each image: its file, since `a`, `./a` and `a.jpg` may be the same one; the id where there is no file.
    `known`: see `first_spellings`."""
    files = first_spellings(data.paths, data.file_stats, known)
    return [file or image_id for image_id, file in zip(data.im_list, files, strict=True)]


def _near(data, missing):
    """What the missing ids at these indices may have meant, '' where nothing is like them."""
    ids = [data.im_list[i] for i in missing]
    if any('\\' in image_id for image_id in ids):
        return "; write '/' between folders and names, not '\\'"
    alike = {image_id: find_alike(image_id, data.data_path) for image_id in ids}
    hints = [f"{' and '.join(names)} for {image_id}" for image_id, names in alike.items() if names]
    return f'; there is {some(hints)}: write ids exactly as the files are named, or without the extension' if hints else ''


def _problems_of_one(data, n_classes):
    if not len(data):
        yield 'no rows'
    missing = [i for i, path in enumerate(data.paths) if path is None]
    if missing:
        yield (f"{len(missing)} of {len(data)} images not found in {data.data_path or 'their folders'} "
               f'(check --data_path): {_rows(data, missing)}{_near(data, missing[:5])}')
    if outside := outside_problem(data):
        yield outside
        return
    empty = [data.paths[i] for i in np.flatnonzero(data.stats[:, 0] == 0)]
    if empty:
        yield f"{counted(len(empty), 'empty image file')}: {some(empty)}"
    images = _images(data, {})
    twice = [image for image, n in Counter(images).items() if n > 1]
    if twice:
        rows = {image: [] for image in twice[:6]}
        for row, image in zip(data.rows.tolist(), images, strict=True):
            if image in rows:
                rows[image].append(str(row))
        named = some([f"{image} (rows {' and '.join(of)})" for image, of in rows.items()])
        yield f"{counted(len(twice), 'image', 'stand')} in more than one row (delete the repeated rows): {named}"
    bad = np.flatnonzero((data.dr < 0) | (data.dr >= n_classes)) if data.has_labels else []
    values = some([f'{data.table[data.label_column].iloc[i]} (row {data.rows[i]})' for i in bad[:6]])
    if len(bad) and (data.dr < 0).all():
        yield (f"no value of column '{data.label_column}' is a class: number the classes from 0, or name another column by --label_column; "
               f'it has {values}')
    elif len(bad):
        hint = _hint(np.unique(data.dr), n_classes)
        none = 'is no integer' if len(bad) == 1 else 'are no integers'
        yield (f"{counted(len(bad), 'label')} in column '{data.label_column}' {none} of 0..{n_classes - 1} ({hint}, or name another column "
               f'by --label_column): {values}')
    else:
        yield from _problems_of_names(data.named_classes(), data.label_column)


def _hint(classes, n_classes):
    if classes[0] == 1 and classes[-1] == n_classes:
        return 'classes start at 0'
    return f'--n_classes {len(classes)}?' if (classes == np.arange(len(classes))).all() else 'check --n_classes'


def _problems_of_names(pairs, column):
    """Classes and names must belong together one to one: else `column` is not the class, or a name is mistyped."""
    for of, by in ((0, 1), (1, 0)):
        several = {}
        for pair in pairs:
            several.setdefault(pair[of], set()).add(pair[by])
        wrong = [f"{key}: {' and '.join(map(str, sorted(values)))}" for key, values in several.items() if len(values) > 1]
        if wrong:
            what = ('classes with several names', 'names of several classes')[of]
            yield f"{what} (is '{column}' the class? --label_column names another column): {some(wrong)}"


def differing_names(a, b):
    """Lines about classes that two datasets, each without a contradiction of its own, name differently."""
    if not any(list(_problems_of_names(data.named_classes(), data.label_column)) for data in (a, b)):
        yield from _problems_of_names(sorted({*a.named_classes(), *b.named_classes()}), a.label_column)


def names_unlike_the_network(pairs, known_names):
    """The names of a csv must be those that the network learnt, class by class. Names that stand for nothing but a number (C0, DR0)
    contradict only themselves in another order."""
    only_numbers = all(name in (f'C{c}', f'DR{c}') for c, name in enumerate(known_names))
    wrong = [f"class {c} is '{name}' here and '{known_names[c]}' in the network" for c, name in pairs
             if c < len(known_names) and name != known_names[c] and (name in known_names or not only_numbers)]
    if wrong:
        yield f'the names of the classes are not those that the network was trained with: {some(wrong)}'


def _problems_of_training(train, n_classes):
    valid = train.dr[(train.dr >= 0) & (train.dr < n_classes)]
    if n_classes < 2 or (len(valid) and valid.min() == valid.max()):
        yield 'one class only: there is nothing to tell apart (--n_classes must be at least 2)'
        return
    absent = np.flatnonzero(np.bincount(valid, minlength=n_classes) == 0)
    if len(valid) and len(absent):
        yield f'no training image of class {some(absent.tolist())} (check --n_classes)'


def _problems_of_pair(train, val):
    yield from differing_names(train, val)
    for what, both in shared_between(train, val).items():
        if both:
            yield f'{counted(len(both), what, "stand")} in {val.csv_path} too: {some(both)}'


def patient_notes(datasets):
    """Lines about what keeps patients in `datasets` (a list of ClassDataset) from being told apart: ids that agree but for letter case,
    blanks, leading zeros or the Unicode form (whether they are one patient only the user knows), and csvs without `patient_id`."""
    spellings = defaultdict(dict)  # key -> id -> csvs
    known = [data for data in datasets if 'patient_id' in data.table]
    for data in known:
        for patient in data.table.patient_id.dropna().unique():
            spellings[patient_key(patient)].setdefault(patient, []).append(str(data.csv_path))
    several = [ids for ids in spellings.values() if len(ids) > 1]
    several.sort(key=lambda ids: len(set(chain.from_iterable(ids.values()))) == 1)  # those of two csvs first
    if several:
        named = [' and '.join(f"{patient} ({', '.join(csvs)})" for patient, csvs in ids.items()) for ids in several]
        yield (f'patient ids that differ only in letter case, blanks or leading zeros ({len(several)} in all) count as different patients; '
               f'if they are the same, write each in one way: {some(named)}')
    for data in datasets:
        near = [column for column in data.table if re.sub('[^a-z]', '', column.lower()) in PATIENT_COLUMNS]
        if data not in known and near:
            yield f"{data.csv_path}: column '{near[0]}' is not read: if it names the patients, rename it to patient_id"
        elif data not in known and known:
            yield f'{data.csv_path} has no column patient_id, {known[0].csv_path} has one: patients that they share are not found'


def check_data(datasets, n_classes, known_names=None):
    """Raise one `InputError` that lists all problems found in `datasets` (name -> ClassDataset), or return.

    Each csv: no rows, images that are missing or outside of the data folder, duplicate ids, labels that are no integer of
    0..n_classes-1 (whether images can be decoded: see bad_images).
    Class names other than `known_names`, those of a trained network, are a problem, too.
    Those named 'train' and 'val' need labels; 'train' needs an image of every class and shares no image and (where both
    have a `patient_id`) no patient with 'val'. With 'train', prints warnings (`patient_notes`).
    """
    problems = []
    for name, data in datasets.items():
        problems += [(data, text) for text in _problems_of_one(data, n_classes)]
        if name in ('train', 'val') and not data.has_labels:
            problems.append((data, 'no labels: the class must stand in the last column or in the one that --label_column names '
                                   f"(columns: {', '.join(data.table)})"))
        if known_names:
            problems += [(data, text) for text in names_unlike_the_network(data.named_classes(), known_names)]
    if 'train' in datasets:
        train = datasets['train']
        problems += [(train, text) for text in _problems_of_training(train, n_classes)]
        if 'val' in datasets:
            problems += [(train, text) for text in _problems_of_pair(train, datasets['val'])]
        for note in patient_notes(list(datasets.values())):
            print(f'* Warning: {note}')
    lines = [f'{data.csv_path}: {text}' for data, text in problems]
    if lines:
        raise InputError(lines[0] if len(lines) == 1 else '\n  - '.join(['the data cannot be used:', *lines]))
