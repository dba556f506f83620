"""Provenance of predictions: which test wrote a csv, and whether reports on it are outdated."""
import contextlib
import glob
import html
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from utils.common import file_sha256, write_text
from utils.runs.paths import counterpart, is_run
from utils.runs.results import Results, read_results_file, remove_outdated
from utils.runs.text_reports import text_reports, upgrade_text

PAGES = ('report.html', 'report_with_images.html')
SOURCES = re.compile(r'<pre class="sources">(.*?)</pre>', re.S)  # part of a page with the format of sha256sum


def source_lines(csvs: Sequence[str], folder: str) -> str:
    """Return the content of SOURCES for a page in `folder` that was made from the predictions `csvs`."""
    return '\n'.join(f'{file_sha256(csv)}  {Path(os.path.relpath(csv, folder)).as_posix()}' for csv in csvs)


def results_of(csv: str) -> Results | None:
    """Return the results of the test that wrote the predictions `csv`, from its results file or the text report of an older version.

    None if neither exists, or if both are about other predictions. Raises `InputError` for an invalid results file.
    """
    digest, results = file_sha256(csv), read_results_file(csv)
    if results and results.predictions and results.predictions.sha256 == digest:
        return results
    return next((upgrade_text(report.text) for report in text_reports(csv) if report.sha256 in (None, digest)), None)


def replaced_network(csv: str) -> str | None:
    """Return a warning if the predictions `csv` come from a checkpoint that its run no longer has, as after training with --overwrite.

    None otherwise. Also None if this cannot be checked, because the test is unknown or the checkpoints of the run are not here.
    """
    results = results_of(csv)
    if not results or not results.checkpoint:
        return None
    place, checkpoint = os.path.split(results.checkpoint.folder)
    folder = counterpart(os.path.dirname(csv) or os.curdir, 'results', 'experiments') or place
    kept = glob.glob(os.path.join(glob.escape(folder), 'epoch_*', ''))
    if not is_run(folder) or not kept or os.path.isdir(os.path.join(folder, checkpoint)):
        return None
    return f'{csv} was predicted by {checkpoint}, which is no longer in {folder}: if you trained the run again, test it again'


def mark_outdated(csv: str | os.PathLike) -> None:
    """Remove or mark reports on earlier predictions in `csv`. Call this after writing `csv`.

    Removes its results file and text report if they are about other predictions. Marks such pages of tools.report as outdated, in the
    folder of `csv` and in all parent folders.
    """
    csv = os.path.abspath(csv)
    digest = file_sha256(csv)
    remove_outdated(csv, digest)
    for path, _, before in list(text_reports(csv)):
        if before != digest:
            os.remove(path)
    for folder in Path(csv).parents:
        for page in (folder / name for name in PAGES):
            with contextlib.suppress(OSError):  # the page does not exist or cannot be changed
                _mark(page, Path(csv).relative_to(folder).as_posix(), digest)


def _mark(page, name, digest):
    """Put a note on `page` if it was made from the csv `name` (relative to its folder) when the csv had another SHA-256 than `digest`."""
    if not page.is_file():
        return
    text = page.read_text(encoding='utf-8', errors='replace')
    found = SOURCES.search(text)
    made_from = dict(line.split('  ', 1)[::-1] for line in html.unescape(found.group(1)).splitlines()) if found else {}
    if made_from.get(name, digest) == digest:
        return
    folder = os.path.relpath(page.parent)
    print(f'* Note: {os.path.join(folder, page.name)} does not show the current predictions in {name}: '
          f'update it with python -m tools.report {shlex.quote(folder)}')
    if 'class="note outdated"' not in text:
        note = (f'<p class="note outdated">This page is outdated: the predictions in {html.escape(name)} have changed. '
                'Update the page with <code>python -m tools.report</code>.</p>')
        write_text(page, text.replace('</header>', f'</header>{note}', 1))
