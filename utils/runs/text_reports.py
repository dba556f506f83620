"""Text reports of tests, performance_*.txt: find those of a predictions csv, and convert them to `Results`.

Older versions wrote no other file about a test. Current versions also write a results file (`utils.runs.results`).
"""
import glob
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from utils.common import printable, read_text
from utils.runs.results import CALIBRATED, TITLES, Checkpoint, Choice, Correction, PredictionsFile, Results, SourceCsv, Temperature, Views

PREDICTIONS = re.compile(r'^Predictions (.+), SHA-256 ([0-9a-f]{64})$', re.M)
CHECKPOINT = re.compile(r'^Checkpoint (.+), epoch (\d+); csv (.+), SHA-256 (\w+)'
                        r'(?:, mean over (\d+) views?(?: at zoom ([\d.e+ -]+))?)?$', re.M)
STRENGTH = re.compile(r'^(Tau-normalisation|Logit adjustment) with tau ([\d.e+-]+)'
                      r'(?:, chosen on (.+) \(balanced accuracy ([\d.]+) -> ([\d.]+)\))?$', re.M)
PRIOR = re.compile(r'^Class prior changed to: (.+)$', re.M)
TEMPERATURE = re.compile(r'^Calibrated with temperature ([\d.]+)(?:, fitted on the (\d+) images of (.+?)'
                         r'(?:( and applied before the correction)|; the predicted classes are the same)?: (.*))?', re.M)
CHANGE = re.compile(r'([A-Za-z ]+) ([\d.]+|nan) -> ([\d.]+|nan)')


class TextReport(NamedTuple):
    path: str
    text: str
    sha256: str | None  # of the predictions that the report is about; version 0.1 did not store it


def text_report_path(csv: str) -> str:
    """results_test.csv -> performance_test.txt in the same folder, the text report of version 0.1."""
    folder, name = os.path.split(csv)
    return os.path.join(folder, name.replace('results_', 'performance_', 1).removesuffix('.csv') + '.txt')


def text_reports(csv: str) -> Iterator[TextReport]:
    """Yield the text reports that name the predictions `csv`, also those about its previous content."""
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(csv)), 'performance_*.txt'))):
        text = '\n'.join(map(printable, read_text(path).split('\n')))
        named = PREDICTIONS.search(text)
        if named.group(1) == os.path.basename(csv) if named else path == text_report_path(csv):
            yield TextReport(path, text, named and named.group(2))


def upgrade_text(text: str) -> Results:
    """Convert the text report of a test to `Results`. What the text lacks is None."""
    checkpoint, csv, views = None, None, Views()
    if found := CHECKPOINT.search(text):
        folder, epoch, path, sha256, n_views, zooms = found.groups()
        zoom = tuple(map(float, (zooms or '1').split()))
        turns = int(n_views or 1) // len(zoom)
        checkpoint, csv, views = Checkpoint(folder, int(epoch)), SourceCsv(path, sha256), Views(turns // 2, zoom)
    named = PREDICTIONS.search(text)
    return Results(checkpoint, csv, named and PredictionsFile(*named.groups()), views, correction=_correction(text),
                   temperature=_temperature(text))


def _correction(text):
    if found := PRIOR.search(text):
        return Correction('target_prior', prior=found.group(1))
    if not (found := STRENGTH.search(text)):
        return None
    title, tau, csv, before, after = found.groups()
    name = next(name for name, known in TITLES.items() if known == title)
    return Correction(name, float(tau), Choice(csv, float(before) / 100, float(after) / 100) if csv else None)


def _temperature(text):
    found = TEMPERATURE.search(text)
    if not found:
        return None
    value, n_images, csv, comes_first, changes = found.groups()
    if csv is None:
        return Temperature(float(value))
    keys = CALIBRATED | {'NLL': 'nll'}
    figures = {keys[name.strip()]: [float(end) / (1 if name.strip() == 'NLL' else 100) for end in ends]
               for name, *ends in CHANGE.findall(changes) if name.strip() in keys}
    before, after = ({key: ends[i] for key, ends in figures.items()} if len(figures) == len(keys) else None for i in (0, 1))
    return Temperature(float(value), int(n_images), csv, comes_first is not None, before=before, after=after)
