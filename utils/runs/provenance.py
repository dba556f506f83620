"""Reports say by SHA-256 which predictions they were made from, so that one of other predictions is not taken for one of these."""
import contextlib
import glob
import html
import os
import re
import shlex
from pathlib import Path

from utils.common import file_sha256, printable, read_text, write_text
from utils.runs.paths import counterpart, is_run

PAGES = ('report.html', 'report_with_images.html')
PREDICTIONS = re.compile(r'^Predictions (.+), SHA-256 ([0-9a-f]{64})$', re.M)  # in the text report of a test
CHECKPOINT = re.compile(r'^Checkpoint (.+), epoch \d+; csv ', re.M)  # in the text report of a test
SOURCES = re.compile(r'<pre class="sources">(.*?)</pre>', re.S)  # in a page, lines as of sha256sum


def predictions_line(csv):
    """What the text report of a test says about the per-image `csv`."""
    return f'Predictions {os.path.basename(csv)}, SHA-256 {file_sha256(csv)}\n'


def source_lines(csvs, folder):
    """What a page in `folder` says, within SOURCES, about the per-image `csvs` that it was made from."""
    return '\n'.join(f'{file_sha256(csv)}  {Path(os.path.relpath(csv, folder)).as_posix()}' for csv in csvs)


def text_report_path(csv):
    """results_test.csv -> performance_test.txt beside it, where version 0.1 expects the text report of the test."""
    folder, name = os.path.split(csv)
    return os.path.join(folder, name.replace('results_', 'performance_', 1).removesuffix('.csv') + '.txt')


def _text_reports(csv):
    """Yield (path, text, SHA-256 or None) of the text reports that are about the file name of `csv`, whatever it held then. Those of
    version 0.1 name no csv."""
    for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(csv)), 'performance_*.txt'))):
        text = '\n'.join(map(printable, read_text(path).split('\n')))
        named = PREDICTIONS.search(text)
        if named.group(1) == os.path.basename(csv) if named else path == text_report_path(csv):
            yield path, text, named and named.group(2)


def text_report(csv):
    """The report of the test that wrote the per-image `csv`; None where there is none beside it, or only one of other predictions."""
    return next((text for _, text, digest in _text_reports(csv) if digest in (None, file_sha256(csv))), None)


def replaced_network(csv):
    """A line where the per-image `csv` is of a checkpoint that its run does not hold, as after a training with --overwrite; else None,
    also where that cannot be told, since the text report or the checkpoints of the run are not here."""
    named = CHECKPOINT.search(text_report(csv) or '')
    if not named:
        return None
    place, checkpoint = os.path.split(named.group(1))
    folder = counterpart(os.path.dirname(csv) or os.curdir, 'results', 'experiments') or place
    kept = glob.glob(os.path.join(glob.escape(folder), 'epoch_*', ''))
    if not is_run(folder) or not kept or os.path.isdir(os.path.join(folder, checkpoint)):
        return None
    return f'{csv} was predicted by {checkpoint}, which {folder} no longer holds: if that was trained again, test it again'


def mark_outdated(csv):
    """The per-image `csv` has just been written: remove its text report if that is of other predictions, and mark the pages of
    tools.report beside and above it that are."""
    csv, digest = os.path.abspath(csv), file_sha256(csv)
    for path, _, before in list(_text_reports(csv)):
        if before != digest:
            os.remove(path)
    for folder in Path(csv).parents:
        for page in (folder / name for name in PAGES):
            with contextlib.suppress(OSError):  # a page that is not there, or not ours
                _mark(page, Path(csv).relative_to(folder).as_posix(), digest)


def _mark(page, name, digest):
    """Put a note on the `page` if it was made from the csv `name`, relative to its folder, with another content than `digest` tells."""
    if not page.is_file():
        return
    text = page.read_text(encoding='utf-8', errors='replace')
    found = SOURCES.search(text)
    made_from = dict(line.split('  ', 1)[::-1] for line in html.unescape(found.group(1)).splitlines()) if found else {}
    if made_from.get(name, digest) == digest:
        return
    folder = os.path.relpath(page.parent)
    print(f'* Note: {os.path.join(folder, page.name)} shows other predictions than {name} now holds: '
          f'make it again with python -m tools.report {shlex.quote(folder)}')
    if 'class="note outdated"' not in text:
        note = (f'<p class="note outdated">This page is outdated: {html.escape(name)} holds other predictions now. '
                'Make the page again with <code>python -m tools.report</code>.</p>')
        write_text(page, text.replace('</header>', f'</header>{note}', 1))
