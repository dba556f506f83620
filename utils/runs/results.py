"""The results file of a test, NAME.json beside the predictions NAME.csv, and the sentences about it in reports."""
import contextlib
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from utils.common import InputError, read_text, write_text
from utils.runs.formats import (
    COUNT,
    FLAG,
    NAMES,
    NUMBER,
    SCORE,
    SCORES,
    TEXT,
    Kind,
    are,
    check_format,
    check_keys,
    nan_to_null,
    null_to_nan,
    or_null,
    parse_json,
)

FORMAT = 1
CALIBRATED = {'ECE': 'ece', 'classwise ECE': 'classwise_ece', 'macro AUC': 'auc'}  # shown in percent, before and after temperature scaling
TITLES = {'tau_norm': 'Tau-normalisation', 'logit_adjust': 'Logit adjustment', 'target_prior': 'Class prior changed'}
WORDS = {'tau_norm': 'tau-normalisation', 'logit_adjust': 'logit adjustment', 'target_prior': 'changed prior'}


@dataclass(frozen=True)
class Checkpoint:
    folder: str
    epoch: int


@dataclass(frozen=True)
class SourceCsv:
    """The csv of the tested images."""
    path: str
    sha256: str


@dataclass(frozen=True)
class PredictionsFile:
    """The predictions csv."""
    file: str  # file name without the folder
    sha256: str


@dataclass(frozen=True)
class Views:
    """Test-time augmentation (TTA): `dihedral` rotations (0: none), each with and without a flip, at each magnification in `zoom`."""
    dihedral: int = 0
    zoom: tuple[float, ...] = (1.,)

    @property
    def n_views(self) -> int:
        return len(self.zoom) * (2 * self.dihedral or 1)

    @property
    def words(self) -> str:
        """Description such as '24 views at zoom 1 1.2 1.4'; empty without TTA."""
        if self == Views():
            return ''
        zooms = '' if self.zoom == (1,) else f" at zoom {' '.join(f'{zoom:g}' for zoom in self.zoom)}"
        return f"{self.n_views} view{'s' if self.n_views > 1 else ''}{zooms}"


@dataclass(frozen=True)
class Choice:
    """The csv on which a strength was chosen, and the balanced accuracy on it without and with the correction."""
    csv: str
    bacc_before: float
    bacc_after: float


@dataclass(frozen=True)
class Correction:
    """A post-hoc correction for class frequencies, with a strength (tau_norm, logit_adjust) or a class prior (target_prior)."""
    name: str
    strength: float | None = None  # tau
    chosen: Choice | None = None  # None: the strength was given
    prior: str | None = None  # train, uniform or a csv
    learnt: tuple[float, ...] | None = None  # class prior (K,) that the network learnt, sums to 1
    expected: tuple[float, ...] | None = None  # class prior (K,) described by `prior`

    @property
    def line(self) -> str:
        if self.name == 'target_prior':
            return f'{TITLES[self.name]} to: {self.prior}'
        line = f'{TITLES[self.name]} with tau {self.strength:g}'
        if self.chosen is None:
            return line
        before, after = _percent(self.chosen.bacc_before), _percent(self.chosen.bacc_after)
        return f'{line}, chosen on {self.chosen.csv} (balanced accuracy {before} -> {after})'


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling, fitted on `n_images` of `csv`.

    before, after: scores of the tested images without and with it, namely CALIBRATED and 'nll'; None if these images have no labels.
    """
    value: float
    n_images: int | None = None  # None: unknown, because a text report is incomplete
    csv: str | None = None
    comes_first: bool = False  # applied before the correction for class frequencies, otherwise after it
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None

    @property
    def line(self) -> str:
        line = f'Calibrated with temperature {self.value:.3f}'
        if self.csv is None:
            return line
        place = ' and applied before the correction' if self.comes_first else '; the predicted classes are the same'
        line += f', fitted on the {self.n_images} images of {self.csv}{place}'
        if self.before is None or self.after is None:
            return line
        changes = [f'{name} {_percent(self.before[key])} -> {_percent(self.after[key])}' for name, key in CALIBRATED.items()]
        changes.append(f"NLL {self.before['nll']:.4f} -> {self.after['nll']:.4f}")
        return f"{line}: {', '.join(changes)}"


@dataclass(frozen=True)
class Results:
    """The results of a test. None means unknown, as in files of older versions. `metrics` is also None without labels."""
    checkpoint: Checkpoint | None
    csv: SourceCsv | None
    predictions: PredictionsFile | None
    tta: Views = Views()
    correction: Correction | None = None
    temperature: Temperature | None = None
    class_names: list[str] | None = None
    metrics: dict[str, Any] | None = None  # `Metrics` as fractions, and 'loss'; NaN if undefined
    n_images: int | None = None
    n_left_out: int | None = None  # unreadable images that were skipped (--skip_bad_images)
    decision: dict[str, Any] | None = None  # of the test: 'line' about its file, 'rules' as plain values, 'note' (may be '')

    @property
    def checkpoint_line(self) -> str:
        if self.checkpoint is None or self.csv is None:
            return ''
        views = f', mean over {self.tta.words}' if self.tta.words else ''
        return (f'Checkpoint {self.checkpoint.folder}, epoch {self.checkpoint.epoch}; csv {self.csv.path}, SHA-256 {self.csv.sha256}'
                f'{views}')

    @property
    def predictions_line(self) -> str:
        return f'Predictions {self.predictions.file}, SHA-256 {self.predictions.sha256}' if self.predictions else ''

    @property
    def lines(self) -> list[str]:
        """Sentences on the corrections, the checkpoint and the csv."""
        return [line for line in (self.correction and self.correction.line, self.temperature and self.temperature.line,
                                  self.decision and self.decision.get('line'), self.checkpoint_line) if line]

    @property
    def way(self) -> str:
        """How the test differs from a plain forward pass: '8 views, calibrated', or 'plain forward pass'."""
        found = [self.tta.words, 'calibrated' if self.temperature else '', WORDS[self.correction.name] if self.correction else '']
        return ', '.join(filter(None, found)) or 'plain forward pass'


def _percent(value):
    return f'{100 * value:.2f}'


# The keys of a results file. A part is null if the test did not do it.
DIGEST = Kind('a SHA-256', lambda value: isinstance(value, str) and bool(re.fullmatch('[0-9a-f]{64}', value)))
POSITIVE = Kind('a positive number', lambda value: NUMBER.fits(value) and value > 0)
NUMBERS = Kind('a list of numbers', are(NUMBER.fits))
PART = Kind('a dictionary', lambda value: isinstance(value, dict))
FIGURES = Kind(f"a dictionary with the scores {', '.join([*CALIBRATED.values(), 'nll'])}", lambda value: isinstance(value, dict) and all(
    key in value and SCORE.fits(value[key]) for key in [*CALIBRATED.values(), 'nll']))
NAME = Kind(f"one of {', '.join(TITLES)}", lambda value: isinstance(value, str) and value in TITLES)
REQUIRED = {'checkpoint': PART, 'csv': PART, 'predictions': PART, 'tta': PART, 'correction': or_null(PART), 'temperature': or_null(PART),
            'class_names': NAMES, 'metrics': or_null(SCORES), 'n_images': COUNT, 'n_left_out': COUNT}
OPTIONAL = {'decision': or_null(PART)}  # absent in older files
DECISION = {'line': TEXT, 'rules': PART, 'note': TEXT}
CHECKPOINT = {'folder': TEXT, 'epoch': COUNT}
CSV = {'path': TEXT, 'sha256': DIGEST}
PREDICTIONS = {'file': TEXT, 'sha256': DIGEST}
VIEWS = {'dihedral': COUNT, 'zoom': NUMBERS}
STRENGTH = {'name': NAME, 'strength': NUMBER, 'chosen': or_null(PART)}
CHOICE = {'csv': TEXT, 'bacc_before': NUMBER, 'bacc_after': NUMBER}
PRIOR = {'name': NAME, 'prior': TEXT, 'learnt': NUMBERS, 'expected': NUMBERS}
TEMPERATURE = {'value': POSITIVE, 'n_images': COUNT, 'csv': TEXT, 'comes_first': FLAG, 'before': or_null(FIGURES),
               'after': or_null(FIGURES)}


def results_path(csv: str) -> str:
    """results_test.csv -> results_test.json in the same folder, for any name of the csv."""
    return os.path.splitext(csv)[0] + '.json'


def write_results(results: Results, csv: str) -> None:
    """Write `results` beside the predictions `csv`, atomically."""
    saved = {'format': FORMAT} | nan_to_null(dataclasses.asdict(results))
    saved['tta']['n_views'] = results.tta.n_views
    write_text(results_path(csv), json.dumps(saved, indent=1) + '\n')


def is_results_file(path: str) -> bool:
    """Return whether `path` is a results file; False if it does not exist or cannot be read."""
    with contextlib.suppress(OSError, InputError):
        return 'format' in parse_json(read_text(path), path)
    return False


def check_replaceable(csv: str) -> None:
    """Raise `InputError` if the results file for the predictions `csv` would overwrite a file that no test wrote."""
    path = results_path(csv)
    if os.path.lexists(path) and not is_results_file(path):
        raise InputError(f'{path} would be overwritten, but was not written by a test: move it, or choose another --csv_out_*')


def remove_outdated(csv: str, sha256: str) -> None:
    """Remove the results file beside the predictions `csv` unless it is about the predictions with this SHA-256."""
    path = results_path(csv)
    if is_results_file(path):
        predictions = parse_json(read_text(path), path).get('predictions')
        if not (isinstance(predictions, dict) and predictions.get('sha256') == sha256):
            os.remove(path)


def read_results_file(csv: str) -> Results | None:
    """Read the results file beside the predictions `csv`. It may be about predictions that `csv` contained before.

    None if it does not exist or belongs to another program. Raises `InputError` naming file and key if it is invalid.
    """
    path = results_path(csv)
    if not os.path.exists(path):
        return None
    saved = parse_json(read_text(path), path)
    if 'format' not in saved:
        return None
    check_format(saved, path, FORMAT)
    check_keys(saved, path, REQUIRED, OPTIONAL)
    if saved.get('decision') is not None:
        check_keys(saved['decision'], f"{path}, 'decision'", DECISION)
    correction = read_correction(saved, path)
    k = len(saved['class_names'])
    if correction and any(prior is not None and len(prior) != k for prior in (correction.learnt, correction.expected)):
        raise InputError(f"{path}, 'correction': 'learnt' and 'expected' must have {k} classes")
    return Results(
        checkpoint=Checkpoint(**read_part(saved, 'checkpoint', CHECKPOINT, path)), csv=SourceCsv(**read_part(saved, 'csv', CSV, path)),
        predictions=PredictionsFile(**read_part(saved, 'predictions', PREDICTIONS, path)),
        tta=Views(**read_part(saved, 'tta', VIEWS, path)),
        correction=correction, temperature=read_temperature(saved, path), class_names=saved['class_names'],
        metrics=saved['metrics'] and null_to_nan(saved['metrics']), n_images=saved['n_images'], n_left_out=saved['n_left_out'],
        decision=saved.get('decision'))


def read_part(saved: dict, name: str, kinds: dict[str, Kind], source: str) -> dict[str, Any]:
    """Return the entries `kinds` of the dictionary saved[name], checked, with lists converted to tuples."""
    check_keys(saved[name], f"{source}, '{name}'", kinds)
    return {key: tuple(value) if isinstance(value := saved[name][key], list) else value for key in kinds}


def read_correction(saved: dict, source: str) -> Correction | None:
    """The entry 'correction' of `saved`, a results file or decision file `source`, checked."""
    if saved['correction'] is None:
        return None
    if saved['correction'].get('name') == 'target_prior':
        return Correction(**read_part(saved, 'correction', PRIOR, source))
    part = read_part(saved, 'correction', STRENGTH, source)
    if part['chosen'] is not None:
        part['chosen'] = Choice(**read_part(part, 'chosen', CHOICE, f"{source}, 'correction'"))
    return Correction(**part)


def read_temperature(saved: dict, source: str) -> Temperature | None:
    """The entry 'temperature' of `saved`, a results file or decision file `source`, checked."""
    if saved['temperature'] is None:
        return None
    part = read_part(saved, 'temperature', TEMPERATURE, source)
    return Temperature(**part | {name: part[name] and null_to_nan(part[name]) for name in ('before', 'after')})
