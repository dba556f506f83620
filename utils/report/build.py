"""Runs -> the text of report.html: the parts of one run, or the comparison of several and then each of them."""
import os
from dataclasses import dataclass
from datetime import date

from matplotlib.figure import Figure

from utils.common import progress
from utils.report import scores, training
from utils.report.comparison import comparison_sections
from utils.report.html import Section, note, page, paragraph, section
from utils.report.runs import Run
from utils.report.thumbnails import mistakes
from utils.runs.provenance import source_lines
from utils.statistics.bootstrap import bootstrap_metrics
from utils.statistics.plots import to_svg
from utils.statistics.weighted_metrics import LEVEL, REFERABLE, is_ordered

MOST_DETAILS = 6  # runs of a comparison that are also shown one by one


@dataclass(frozen=True)
class ReportOptions:
    data_path: str | None = None  # folder of the images, to show the most confident mistakes
    draws: int = 1000  # of the bootstrap
    baseline: str | None = None  # method of a comparison that the others are compared with
    ordered: bool | None = None  # the classes are grades; None: by their names and the --metric of the runs
    stratified: bool = False  # bootstrap within each class
    folder: str = os.curdir  # where the page will lie
    title: str | None = None  # None: the name of the run, or how many are compared
    author: str | None = None
    purpose: str | None = None
    data: str | None = None  # what the images are, in words

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the author says about the page: name and text."""
        return [(name.capitalize(), text) for name in ('author', 'purpose', 'data') if (text := (getattr(self, name) or '').strip())]


def lead(runs: list[Run]) -> str:
    """What the page is about, in one sentence."""
    classes = training.class_names_of(runs[0])
    networks = sorted({run.config['model_name'] for run in runs if run.config})
    tested = sorted({len(run.table.preds) for run in runs if run.table})
    what = f"How well {'a network tells' if len(runs) == 1 else f'{len(runs)} networks tell'} {len(classes)} classes of images apart"
    by = f" ({', '.join(networks)})" if networks else ''
    return what + by + (f", measured on {' or '.join(f'{n:,}' for n in tested)} images." if tested else ', not tested yet.')


def run_sections(run: Run, options: ReportOptions, ordered: bool, within: str | None = None) -> list[Section]:
    """The parts of one run, without those that it has no files for. `within`: anchor of the section that holds them, if one does."""
    prefix = f'{within}-' if within else ''

    def draw(name: str, drawn: Figure, alt: str) -> str:
        return to_svg(drawn, f'{prefix}{name}', alt)

    count = run.config['class_count'] if run.config else None
    described = [('run', 'What was run', training.what_was_run(run)),
                 ('data', 'Images of each class', training.images_of_classes(run, draw)),
                 ('training', 'Training', training.training(run, draw))]
    if run.table:
        result = bootstrap_metrics(run.table, options.draws, ordered=ordered, class_count=count, levels=[LEVEL], referable=REFERABLE,
                                   stratified=options.stratified)
        parts = [('scores', 'Scores', scores.scores(run.table, result, run.seen_as)),
                 *described,
                 ('confusion', 'Right and wrong answers', scores.confusion(run.table, draw)),
                 ('classes', 'Each class', scores.each_class(run.table, result, draw, count)),
                 ('thresholds', 'Ranking and thresholds', scores.thresholds(run.table, result, draw)),
                 ('trust', 'Can the probabilities be trusted?', scores.trust(run.table, result, draw)),
                 ('mistakes', 'Most confident mistakes', mistakes(run.table, options.data_path))]
    else:
        parts = [('scores', 'Scores', [note('There are no labelled predictions of this run: test it first.')]), *described]
    return [section(f'{prefix}{anchor}', title, content, within=within) for anchor, title, content in parts if content]


def _several(runs: list[Run], options: ReportOptions, ordered: bool) -> list[Section]:
    """The comparison, then each run of up to MOST_DETAILS."""
    parts = comparison_sections(runs, options.draws, options.baseline, options.ordered, stratified=options.stratified)
    if len(runs) > MOST_DETAILS:
        text = f'More than {MOST_DETAILS} runs are not shown one by one: write the report of a single run for its figures.'
        return [*parts, section('one', 'Each run', [paragraph(text)])]
    with progress(len(runs), 'runs one by one', unit='run') as bar:
        for i, run in enumerate(runs):
            inner = run_sections(run, options, ordered, within=f'run{i}')
            parts.append(section(f'run{i}', run.name, [part.html for part in inner], heading=f'Run {run.name}'))
            bar.update()
    return parts


def build_report(runs: list[Run], options: ReportOptions | None = None) -> str:
    """The text of report.html for one run or several."""
    options = options or ReportOptions()
    ordered = any(is_ordered(training.class_names_of(run), run.config['metric'] if run.config else None, options.ordered) for run in runs)
    if len(runs) == 1:
        title, parts = runs[0].name, run_sections(runs[0], options, ordered)
    else:
        title, parts = f'Comparison of {len(runs)} runs', _several(runs, options, ordered)
    sources = source_lines([run.table.path for run in runs if run.table], options.folder)
    return page((options.title or '').strip() or title, lead(runs), parts, f'{date.today():%d %B %Y}', sources=sources, facts=options.facts)
