"""File formats: check files as they are read, and upgrade those of older versions."""
import json
import math
import os
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

from utils.common import CONTROL, MAX_PIXELS, InputError, check_name, printable, read_text
from utils.evaluation import METRICS

# Format of run folders (stored in config.cfg) and checkpoints. Files of version 0.1 have no number, which counts as 0. Before format 2,
# the alpha of Balanced-MixUp was in 'do_mixup', and often in 'mix_alpha' as well.
FORMAT = 2
# Flags added after format 0, each with the value that corresponds to the behaviour of older versions
ADDED_FLAGS = {'data_device': 'host', 'grow_from': 1., 'label_column': None, 'layer_decay': 1., 'private': False}
PUBLISHED_ALPHAS = {'balanced_mixup': .2, 'mixup': 1., 'cutmix': 1., 'remix': 1.}  # used if an older configuration has no alpha
MAX_CLASSES, MAX_NAME, MAX_STRING = 10**6, 1000, 10**5  # length of a list; characters of a class name, and of any other string
HEADS = ('linear', 'cosine', 'scaled')  # the keys of models.heads.HEADS, copied because importing it needs torch
MAX_MEMBERS = 100  # networks of an ensemble
MAX_DEPTH, MAX_VALUES = 10, 5 * 10**6  # nesting of lists and dictionaries; number of all values in them


class Kind(NamedTuple):
    """The type that the value of a key must have."""
    what: str  # description for error messages
    fits: Callable[[Any], bool]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # False for NaN and infinity


def _is_score(value):
    return value is None or isinstance(value, float) or _is_number(value)  # null and NaN mean undefined


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_text(value):
    return isinstance(value, str)


def _is_name(value):
    return _is_text(value) and len(value) <= MAX_NAME and not re.search('[\ud800-\udfff]', value)  # surrogates cannot be written as UTF-8


def _is_dictionary_of(fits, value):
    return isinstance(value, dict) and all(map(fits, value.values()))


def _is_size(value):
    return are(_is_count, 2)(value) and min(value) > 0 and value[0] * value[1] <= MAX_PIXELS


def are(fits: Callable[[Any], bool], n: int | None = None) -> Callable[[Any], bool]:
    """Return a check for lists and tuples of `n` (default: 1 to MAX_CLASSES) values that all pass `fits`."""
    def all_fit(value):
        fits_length = isinstance(value, (list, tuple)) and (0 < len(value) <= MAX_CLASSES if n is None else len(value) == n)
        return fits_length and all(map(fits, value))
    return all_fit


def _are_scores(value):
    return isinstance(value, dict) and all(_is_score(score) or (name not in METRICS and are(_is_score)(score))
                                           for name, score in value.items())


def _is_parent(value):
    return isinstance(value, dict) and 'path' in value and 'epoch' in value and all(
        kind.fits(value[name]) for name, kind in PARENT.items() if name in value)


def _are_members(value):
    return are(lambda member: isinstance(member, dict) and all(name in member and kind.fits(member[name]) for name, kind in MEMBER.items())
               )(value) and 2 <= len(value) <= MAX_MEMBERS


def or_null(kind: Kind) -> Kind:
    return Kind(f'{kind.what} or null', lambda value: value is None or kind.fits(value))


TEXT, FLAG = Kind('text', _is_text), Kind('true or false', lambda value: isinstance(value, bool))
NUMBER, SCORE = Kind('a number', _is_number), Kind('a number or null', _is_score)
COUNT = Kind('a whole number, 0 or more', _is_count)
SCORES = Kind('a dictionary of scores', _are_scores)
SIZE = Kind(f'[height, width] with at most {MAX_PIXELS:,} pixels', _is_size)
HEAD = Kind(f"one of {', '.join(HEADS)}", lambda value: value in HEADS)
METRIC = Kind(f"one of {', '.join(METRICS)}", lambda value: value in METRICS)
NAMES = Kind(f'1 to {MAX_CLASSES:,} names of at most {MAX_NAME:,} characters', are(_is_name))
PARTS = Kind('a whole number, 1 or more', lambda value: _is_count(value) and value > 0)
COUNTS = Kind('a list of whole numbers', are(_is_count))
CHANNELS = Kind('three numbers', are(_is_number, 3))
PARENT = {'path': TEXT, 'epoch': COUNT, 'metric': METRIC, 'score': SCORE, 'im_size': SIZE}

MEMBER = {'path': TEXT, 'epoch': COUNT, 'seed': COUNT, 'score': SCORE}
MEMBERS = Kind(f'a list of 2 to {MAX_MEMBERS} dictionaries with path, epoch, seed and score', _are_members)

# The keys of config.cfg that are read. Runs of all versions have the keys in REQUIRED.
REQUIRED = {
    'model_name': TEXT, 'im_size': SIZE, 'init': TEXT, 'trainable': TEXT, 'loss_fn': TEXT, 'sampling': TEXT, 'mixing': TEXT,
    'optimizer': TEXT, 'lr': NUMBER, 'batch_size': COUNT, 'n_epochs': COUNT, 'seed': COUNT, 'metric': METRIC, 'csv_train': TEXT,
    'csv_val': TEXT, 'data_path': TEXT, 'class_names': NAMES, 'class_count': COUNTS, 'torch': TEXT, 'device_type': TEXT,
    'mixed_precision': TEXT,
    'parent': or_null(Kind("a dictionary with 'path' and 'epoch' of the run that stage two started from", _is_parent)),
    'csv_sha256': Kind('a dictionary of strings', lambda value: _is_dictionary_of(_is_text, value)),
}
OPTIONAL = {
    'n_classes': COUNT, 'accumulate': PARTS, 'label_column': or_null(TEXT), 'class_column': or_null(TEXT), 'head': HEAD,
    'initial_weights': TEXT, 'members': MEMBERS,
    'pretrained_weights': or_null(TEXT), 'recipe': or_null(TEXT), 'mix_alpha': SCORE, 'mixup_off_epochs': COUNT,
    'augment': TEXT, 'defer': NUMBER, 'schedule': TEXT, 'warmup': NUMBER, 'min_lr': NUMBER, 'patience': COUNT, 'ema': NUMBER,
    'momentum': NUMBER, 'wd': NUMBER, 'grow_from': NUMBER, 'layer_decay': NUMBER,
    'loss_params': or_null(Kind('a dictionary of numbers', lambda value: _is_dictionary_of(_is_number, value))),
}
RECORD = {'epoch': COUNT, 'lr': SCORE, 'train': SCORES, 'val': SCORES}  # keys of log.jsonl
TIMES = {'seconds': NUMBER, 'images_per_second': NUMBER, 'training_loss': SCORE}  # optional keys of log.jsonl


def check_values(saved: dict, source: str, is_leaf: Callable[[str, Any], bool] = lambda key, value: False) -> None:
    """Raise `InputError` naming `source` and the key unless `saved` contains only plain values.

    Plain values are numbers, strings without control characters, and lists and dictionaries of them, nested at most MAX_DEPTH deep.
    `is_leaf(key, value)`: whether a value of another type is allowed.
    """
    stack, n_values = [('', saved, 0)], 0

    def refuse(key, problem):
        raise InputError(f"{source}: '{printable(key)}' contains {problem}")
    while stack:
        key, value, depth = stack.pop()
        n_values += 1
        if n_values > MAX_VALUES:
            raise InputError(f'{source} contains more than {MAX_VALUES:,} values')
        if isinstance(value, (dict, list, tuple)):
            if depth == MAX_DEPTH:
                refuse(key, f'more than {MAX_DEPTH} levels of nested lists')
            if isinstance(value, dict):
                stack += [(key or str(name)[:60], part, depth + 1) for pair in value.items() for name in pair[:1] for part in pair]
            else:
                stack += [(key, item, depth + 1) for item in value]
        elif isinstance(value, str):
            if len(value) > MAX_STRING or CONTROL.search(value):
                problem = f'{len(value):,}' if len(value) > MAX_STRING else 'control'
                refuse(key, f'a string with {problem} characters: {printable(value[:60])}')
        elif isinstance(value, int):
            if value.bit_length() > 1024:
                refuse(key, 'a number of more than 1,024 bits')
        elif not (value is None or isinstance(value, float) or is_leaf(key, value)):
            refuse(key, f'a {type(value).__name__}, which is not a plain value')


def check_keys(saved: dict, source: str, required: dict, optional: dict | None = None) -> None:
    """Raise `InputError` naming `source` if a key is missing, or if a value is not of its `Kind`."""
    for key, kind in (required | (optional or {})).items():
        if key in saved and not kind.fits(saved[key]):
            raise InputError(f"{source}: '{key}' must be {kind.what}, not {printable(reprlib.repr(saved[key]))}")
    if missing := [key for key in required if key not in saved]:
        raise InputError(f"{source} is incomplete: it lacks {', '.join(missing)}")


def check_classes_agree(saved: dict, source: str) -> None:
    """Raise `InputError` unless the numbers of classes in `saved`, a configuration or a checkpoint, agree."""
    n_names, n_counts = len(saved['class_names']), len(saved['class_count'])
    if n_counts != n_names or saved.get('n_classes', n_names) != n_names:
        raise InputError(f"{source}: 'class_names' has {n_names} classes, " + (
            f"'class_count' has {n_counts}" if n_counts != n_names else f"'n_classes' is {saved['n_classes']}"))


def check_config(config: dict, source: str) -> dict:
    """Return `config`, a config.cfg in the current format. Raises `InputError` naming `source` and the key that is missing or invalid."""
    check_keys(config, source, REQUIRED, OPTIONAL)
    if config['mixing'] != 'none':
        check_keys(config, source, {'mix_alpha': NUMBER})
    check_classes_agree(config, source)
    return config


def check_format(saved: dict, source: str, latest: int = FORMAT) -> int:
    """Return the format number of `saved`, or 0 if it has none.

    Raises `InputError` naming the file `source` if the number is invalid, or larger than `latest`, as in a file of a newer version.
    """
    number = saved.get('format', 0)
    if not _is_count(number):
        raise InputError(f"{source}: 'format' must be {COUNT.what}, not {printable(reprlib.repr(number))}")
    if number > latest:
        raise InputError(f'{source} was written by a newer version of this project (format {number}, this version reads up to {latest}): '
                         'update the code')
    return number


def upgrade(saved: dict, source: str) -> dict:
    """Convert `saved`, the content of a config.cfg or a checkpoint, to the current format.

    Raises `InputError` naming the file `source` if a newer version of this project wrote it.
    """
    number = check_format(saved, source)
    if 'config' in saved:  # a checkpoint, which contains the configuration of its run
        return {'image_hashes': None} | saved | {'format': FORMAT, 'config': upgrade(saved['config'], source)}
    if number == 0:  # `device` was the device of the training, not a flag
        saved = saved | {'device': 'auto', 'device_type': saved.get('device', 'cpu')}
    return ADDED_FLAGS | _without_do_mixup(saved, source) | {'format': FORMAT}


def _without_do_mixup(config, source):
    """Return `config` with --do_mixup ALPHA replaced by its equivalent, --mixing balanced_mixup --mix_alpha ALPHA."""
    if 'do_mixup' not in config:
        return config
    check_keys(config, source, {'do_mixup': NUMBER})
    alpha, mixing = config['do_mixup'], config.get('mixing', 'none')
    if alpha > 0 and mixing == 'none':
        mixing = 'balanced_mixup'
    if alpha > 0 and mixing == 'balanced_mixup':
        config = config | {'mix_alpha': alpha}
    if mixing in PUBLISHED_ALPHAS and config.get('mix_alpha') is None:
        config = config | {'mix_alpha': PUBLISHED_ALPHAS[mixing]}
    return {key: value for key, value in config.items() if key != 'do_mixup'} | {'mixing': mixing}


def nan_to_null(value: Any) -> Any:
    """Return `value`, nested dictionaries and lists, with None for each NaN, which JSON lacks. Tuples become lists."""
    if isinstance(value, dict):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def null_to_nan(value: Any) -> Any:
    """Return `value`, scores in dictionaries and lists read from JSON, with NaN for each None. Reverses `nan_to_null`."""
    if isinstance(value, dict):
        return {key: null_to_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [null_to_nan(item) for item in value]
    return math.nan if value is None else value


def parse_json(text: str, source: str) -> dict:
    """Parse `text`, a JSON dictionary of plain values. Raises `InputError` naming `source`."""
    try:
        saved = json.loads(text)
    except RecursionError as err:
        raise InputError(f'{source} cannot be read as JSON: lists are nested too deeply') from err
    except ValueError as err:  # also raised for a number with thousands of digits
        raise InputError(f'{source} cannot be read as JSON: {err}') from err
    if not isinstance(saved, dict):
        raise InputError(f'{source} does not contain a dictionary')
    check_values(saved, source)
    return saved


def read_config(folder: str) -> dict:
    """Read and check `folder`/config.cfg and convert it to the current format (`upgrade`).

    Raises `InputError` if `folder` is not a run folder, or if a value in the file is invalid.
    """
    check_name(folder)
    path = os.path.join(folder, 'config.cfg')
    try:
        text = read_text(path)
    except FileNotFoundError as err:
        raise InputError(f'{folder} is not a run folder: it has no config.cfg') from err
    return check_config(upgrade(parse_json(text, path), path), path)


def read_log(folder: str) -> list:
    """Return the records of `folder`/log.jsonl, one per epoch; empty if the file does not exist.

    Raises `InputError` naming file, line and key.
    """
    path = os.path.join(folder, 'log.jsonl')
    try:
        lines = read_text(path).split('\n')
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            source = f'{path}, line {number}'
            records.append(parse_json(line, source))
            check_keys(records[-1], source, RECORD, TIMES)
            if records[-1]['epoch'] != len(records):
                raise InputError(f"{source}: 'epoch' is {records[-1]['epoch']}, not {len(records)}")
    return records
