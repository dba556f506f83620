"""Runs -> the text of report.html: the sections of one run, or a comparison of several followed by each of them."""
import os
from dataclasses import dataclass, field
from datetime import date

from matplotlib.figure import Figure

from utils.common import progress
from utils.prediction.per_group import Per
from utils.report import scores, training
from utils.report.comparison import comparison_sections
from utils.report.decisions import decision_parts
from utils.report.html import Section, note, page, paragraph, section
from utils.report.model_card import model_card
from utils.report.runs import MOST_DETAILS, Run
from utils.report.subgroups import per_group_parts, subgroup_parts
from utils.report.thumbnails import mistakes
from utils.runs.provenance import source_lines
from utils.statistics.bootstrap import bootstrap_metrics
from utils.statistics.plots import to_svg
from utils.statistics.subgroups import By
from utils.statistics.weighted_metrics import LEVEL, REFERABLE, is_ordered


@dataclass(frozen=True)
class ReportOptions:
    data_path: str | None = None  # folder of the images; shows the most confident mistakes
    draws: int = 1000  # bootstrap resamples
    baseline: str | None = None  # method that the others of a comparison are compared with
    ordered: bool | None = None  # the classes are grades; None: decided by their names and the --metric of the runs
    stratified: bool = False  # resample within each class
    folder: str = os.curdir  # folder of the page
    title: str | None = None  # None: the name of the run, or how many are compared
    author: str | None = None
    purpose: str | None = None
    data: str | None = None  # what the images are, in words
    by: list[By] = field(default_factory=list)  # columns of subgroups
    per: Per | None = None  # column of groups of images with one prediction

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the author says about the page: name and text."""
        return [(name.capitalize(), text) for name in ('author', 'purpose', 'data') if (text := (getattr(self, name) or '').strip())]


def lead(runs: list[Run]) -> str:
    """The subject of the page in one sentence."""
    classes = training.class_names_of(runs[0])
    networks = sorted({run.config['model_name'] for run in runs if run.config})
    tested = sorted({len(run.table.preds) for run in runs if run.table})
    number = 'a network' if len(runs) == 1 else f'{len(runs)} networks'
    by = f" ({', '.join(networks)})" if networks else ''
    measured = f"measured on {' or '.join(f'{n:,}' for n in tested)} images" if tested else 'not tested yet'
    return f"Performance of {number}{by} for {len(classes)} classes of images, {measured}."


def run_sections(run: Run, options: ReportOptions, ordered: bool, within: str | None = None) -> list[Section]:
    """The sections of one run; those without files are left out. `within`: anchor of the section around them, if any."""
    prefix = f'{within}-' if within else ''

    def draw(name: str, drawn: Figure, alt: str) -> str:
        return to_svg(drawn, f'{prefix}{name}', alt)

    count = run.config['class_count'] if run.config else None
    described = [('run', 'Settings', training.what_was_run(run)),
                 ('data', 'Images of each class', training.images_of_classes(run, draw)),
                 ('training', 'Training', training.training(run, draw))]
    if run.table:
        how = {'ordered': ordered, 'stratified': options.stratified}
        result = bootstrap_metrics(run.table, options.draws, class_count=count, levels=[LEVEL], referable=REFERABLE, **how)
        parts = [('scores', 'Scores', scores.scores(run.table, result, run.seen_as)),
                 ('per', f'Scores per {options.per.column}' if options.per else '',
                  per_group_parts(run.table, options.per, options.draws, **how) if options.per else []),
                 ('subgroups', 'Subgroups', subgroup_parts(run.table, options.by, draw, options.draws, **how)),
                 *described,
                 ('confusion', 'Confusion matrix', scores.confusion(run.table, draw)),
                 ('classes', 'Scores by class', scores.each_class(run.table, result, draw, count)),
                 ('thresholds', 'ROC curves and thresholds', scores.thresholds(run.table, result, draw)),
                 ('trust', 'Can the probabilities be trusted?', scores.trust(run.table, result, draw)),
                 ('decisions', 'Decisions', decision_parts(run.table, draw, options.draws, options.stratified)),
                 ('mistakes', 'Most confident mistakes', mistakes(run.table, options.data_path))]
    else:
        parts = [('scores', 'Scores', [note('This run has no labelled predictions yet: test it first.')]), *described]
    return [section(f'{prefix}{anchor}', title, content, within=within) for anchor, title, content in parts if content]


def _several(runs: list[Run], options: ReportOptions, ordered: bool) -> list[Section]:
    """The comparison, followed by a section for each of up to MOST_DETAILS runs."""
    parts = comparison_sections(runs, options.draws, options.baseline, options.ordered, stratified=options.stratified)
    if len(runs) > MOST_DETAILS:
        text = f'A comparison of more than {MOST_DETAILS} runs has no section for each run. The report of a single run shows its figures.'
        return [*parts, section('one', 'Single runs', [paragraph(text)])]
    with progress(len(runs), 'sections of single runs', unit='run') as bar:
        for i, run in enumerate(runs):
            inner = run_sections(run, options, ordered, within=f'run{i}')
            parts.append(section(f'run{i}', run.name, [part.html for part in inner], heading=f'Run {run.name}'))
            bar.update()
    return parts


def _are_ordered(runs: list[Run], options: ReportOptions) -> bool:
    return any(is_ordered(training.class_names_of(run), run.config['metric'] if run.config else None, options.ordered) for run in runs)


def build_model_card(run: Run, options: ReportOptions) -> str:
    """The text of model_card.md for a run."""
    facts = {'author': options.author, 'purpose': options.purpose, 'data': options.data}
    return model_card(run, facts, options.by, options.draws, ordered=_are_ordered([run], options), stratified=options.stratified)


def build_report(runs: list[Run], options: ReportOptions | None = None) -> str:
    """The text of report.html for one run or several."""
    options = options or ReportOptions()
    ordered = _are_ordered(runs, options)
    if len(runs) == 1:
        title, parts = runs[0].name, run_sections(runs[0], options, ordered)
    else:
        title, parts = f'Comparison of {len(runs)} runs', _several(runs, options, ordered)
    sources = source_lines([run.table.path for run in runs if run.table], options.folder)
    return page((options.title or '').strip() or title, lead(runs), parts, f'{date.today():%d %B %Y}', sources=sources, facts=options.facts)
