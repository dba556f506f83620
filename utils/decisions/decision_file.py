"""decision.json in a run folder: what turns the outputs of one checkpoint into decisions, written by tools.calibrate."""
import dataclasses
import json
import os
from dataclasses import dataclass

import numpy as np

from utils.common import InputError, file_sha256, read_text, write_text
from utils.decisions.abstention import Abstention
from utils.decisions.prevalence import Source
from utils.decisions.rules import ABSTENTION, SHARES, Rules, rules_as_json, rules_from_json
from utils.runs.formats import COUNT, MAX_CLASSES, NAMES, NUMBER, Kind, are, check_format, check_keys, nan_to_null, or_null, parse_json
from utils.runs.paths import without_checkpoint
from utils.runs.results import (
    CHECKPOINT,
    CSV,
    DIGEST,
    NUMBERS,
    PART,
    POSITIVE,
    VIEWS,
    Checkpoint,
    Correction,
    SourceCsv,
    Temperature,
    Views,
    read_correction,
    read_part,
    read_temperature,
)
from utils.statistics.calibration import RANGE

NAME, FORMAT = 'decision.json', 1
TABLE = Kind('a table of numbers', are(are(NUMBER.fits)))
MOST_CLASSES = 1000  # so that the table of K x K counts fits into the file
MOST_VIEWS, STRONGEST, LARGEST_BIAS = 1000, 100, 1e6
SOURCE = {'temperature': POSITIVE, 'bias': NUMBERS, 'frequencies': SHARES, 'refits': TABLE,
          'confusion': Kind('a table of whole numbers', are(are(COUNT.fits)))}
HASH = Kind('a whole number of 64 bits', lambda value: isinstance(value, int) and not isinstance(value, bool) and -2**63 <= value < 2**63)
KEYS = {'format': Kind(str(FORMAT), lambda value: value == FORMAT), 'checkpoint': PART, 'weights_sha256': DIGEST, 'csv': PART,
        'n_images': COUNT, 'class_names': NAMES, 'tta': PART, 'correction': or_null(PART), 'temperature': PART, 'source': PART,
        'rules': PART, 'prior_abstention': or_null(PART), 'image_hashes': Kind('a list of whole numbers of 64 bits', are(HASH.fits))}


@dataclass(frozen=True)
class Decision:
    """Everything that was fitted on the calibration images of `csv` for one checkpoint.

    `weights_sha256`: checksum of the checkpoint. `tta`, `correction`: with which the rules were fitted. `temperature`: for probabilities
    with this correction. `source`: calibration for a change of the class frequencies (--target_prior). `rules`: for probabilities with
    correction and temperature. `prior_abstention`: for probabilities of the `source`, after any change of the frequencies. `image_hashes`:
    of the calibration images, int64 (N,).
    """
    checkpoint: Checkpoint
    weights_sha256: str
    csv: SourceCsv
    n_images: int
    class_names: list[str]
    tta: Views
    correction: Correction | None
    temperature: Temperature
    source: Source
    rules: Rules
    prior_abstention: Abstention | None
    image_hashes: tuple[int, ...]
    path: str = ''

    @property
    def line(self) -> str:
        """Where the decisions come from, in one line."""
        views = f' with {self.tta.words}' if self.tta.words else ''
        return f'Decisions by {self.path}, SHA-256 {file_sha256(self.path)}, fitted on the {self.n_images} images of {self.csv.path}{views}'


def decision_path(checkpoint_folder: str) -> str:
    """experiments/a/b/epoch_07_... -> experiments/a/b/decision.json"""
    return os.path.join(without_checkpoint(checkpoint_folder), NAME)


def write_decision(decision: Decision) -> None:
    """Write `decision` to its path, atomically. Raises `InputError` if it has more classes or images than a file can hold."""
    if len(decision.class_names) > MOST_CLASSES or decision.n_images > MAX_CLASSES:
        raise InputError(f'{decision.path} is not written: it can hold at most {MOST_CLASSES:,} classes and {MAX_CLASSES:,} images')
    names = [field.name for field in dataclasses.fields(decision) if field.name != 'path']
    saved = {'format': FORMAT} | {name: getattr(decision, name) for name in names}
    for name, value in saved.items():
        if dataclasses.is_dataclass(value):
            saved[name] = dataclasses.asdict(value)  # type: ignore[arg-type]
    saved |= {'rules': rules_as_json(decision.rules), 'source': decision.source._asdict(),
              'prior_abstention': decision.prior_abstention and decision.prior_abstention._asdict()}
    write_text(decision.path, json.dumps(nan_to_null(saved)) + '\n')


def read_decision(path: str) -> Decision | None:
    """Read `path`; None if there is no such file. Raises `InputError` naming file and key if it is invalid."""
    if not os.path.exists(path):
        return None
    saved = parse_json(read_text(path), path)
    check_format(saved, path, FORMAT)
    check_keys(saved, path, KEYS)
    part, k = read_part(saved, 'source', SOURCE, path), len(saved['class_names'])
    temperature = read_temperature(saved, path)
    assert temperature is not None  # KEYS requires it
    decision = Decision(
        checkpoint=Checkpoint(**read_part(saved, 'checkpoint', CHECKPOINT, path)), weights_sha256=saved['weights_sha256'],
        csv=SourceCsv(**read_part(saved, 'csv', CSV, path)), n_images=saved['n_images'], class_names=saved['class_names'],
        tta=Views(**read_part(saved, 'tta', VIEWS, path)), correction=read_correction(saved, path), temperature=temperature,
        source=Source(**part | {name: tuple(map(tuple, part[name])) for name in ('refits', 'confusion')}),
        rules=rules_from_json(saved['rules'], k, f"{path}, 'rules'"),
        prior_abstention=saved['prior_abstention'] and Abstention(**read_part(saved, 'prior_abstention', ABSTENTION, path)),
        image_hashes=tuple(saved['image_hashes']), path=path)
    for key, fits, what in _requirements(decision, k):
        if not fits:
            raise InputError(f"{path}: '{key}' must have {what}")
    return decision


def _requirements(decision, k):
    """Yield key, whether its values can be used together, and what they must have."""
    source, tta, correction = decision.source, decision.tta, decision.correction
    temperatures = [source.temperature, *(refit[0] for refit in source.refits)]
    shapes = {len(source.bias), len(source.frequencies), len(source.confusion), *map(len, source.confusion),
              *(len(refit) - 1 for refit in source.refits)}
    yield 'temperature', RANGE[0] <= decision.temperature.value <= RANGE[1], f'a value from {RANGE[0]:g} to {RANGE[1]:g}'
    yield 'correction', correction is None or (correction.strength is not None and abs(correction.strength) <= STRONGEST), (
        f'a strength, of at most {STRONGEST}')
    yield 'tta', tta.n_views <= MOST_VIEWS and tta.zoom and all(1 <= zoom <= MOST_VIEWS for zoom in tta.zoom), (
        f'at most {MOST_VIEWS} views, with magnifications of 1 or more')
    yield 'image_hashes', len(decision.image_hashes) == decision.n_images, f'one entry for each of the {decision.n_images} images'
    yield 'source', shapes == {k}, f'{k} classes'
    yield 'source', RANGE[0] <= min(temperatures) <= max(temperatures) <= RANGE[1], f'temperatures from {RANGE[0]:g} to {RANGE[1]:g}'
    yield 'source', max(map(abs, source.bias)) <= LARGEST_BIAS, f'biases of at most {LARGEST_BIAS:g}'
    yield 'source', abs(sum(source.frequencies) - 1) < 1e-6, 'frequencies that add up to 1'


def decision_of(info: dict) -> Decision | None:
    """The decision file of a loaded checkpoint with facts `info` (see `read_checkpoint`); None if its run has none.

    Raises `InputError` if it belongs to another checkpoint or other classes.
    """
    decision = read_decision(decision_path(info['folder']))
    if decision is None:
        return None
    advice = 'run python -m tools.calibrate again, or ignore it with --no_decision'
    if decision.weights_sha256 != info['checksum']:
        own = decision.checkpoint
        raise InputError(f"{decision.path} belongs to another checkpoint ({own.folder}, epoch {own.epoch}) than {info['folder']}: {advice}")
    if decision.class_names != info['class_names']:
        raise InputError(f'{decision.path} has other classes than the checkpoint: {advice}')
    return decision


def shared_images(decision: Decision, hashes: np.ndarray) -> int:
    """Number of images with these content hashes, int64 (N,), that `decision` was fitted on."""
    return int(np.isin(hashes, np.array(decision.image_hashes, np.int64)).sum())
