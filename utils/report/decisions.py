"""The decisions of a network on the tested images, by the decision file of its run, as parts of the report."""
import numpy as np
from markupsafe import Markup

from utils.decisions.abstention import risk_at_coverage, risk_curve
from utils.decisions.of_predictions import saved_rules
from utils.decisions.prediction_sets import KINDS
from utils.decisions.rules import Rules
from utils.decisions.scores import rule_figures, set_notes
from utils.prediction.predictions import PredictionTable
from utils.report import html
from utils.report.html import Cell, Draw
from utils.report.scores import count, percent, stacked
from utils.runs.provenance import results_of
from utils.runs.results import Correction
from utils.statistics import plots
from utils.statistics.bootstrap import BootstrapResult
from utils.statistics.weighted_metrics import labels_of

GUARANTEES = {
    'marginal': 'on average over all images, but perhaps not for rare classes',
    'class': 'for each class',
    'adjusted': 'on average over all images, with more weight on rare classes',
    'between': 'at most twice the errors are guaranteed, on average over all images',
}


def decision_parts(table: PredictionTable, draw: Draw, draws: int, stratified: bool = False) -> list[Markup]:
    """The figures of the decision file on the labelled `table`; none if the test used no decision file."""
    rules, results = saved_rules(table), results_of(table.path)
    if rules is None or results is None or results.decision is None:
        return []
    figures = rule_figures(table, rules, draws, stratified=stratified)
    parts = [html.paragraph('The rules below were fitted on other images than these, and then applied to these without a change.')]
    if results.decision['note']:
        parts.append(html.note(f"{results.decision['note']}."))
    if rules.sets:
        parts += set_parts(table, rules, figures)
    if rules.points:
        parts.append(point_part(rules, figures))
    if rules.abstention:
        parts += abstention_parts(table, rules, figures, draw)
    if results.correction and results.correction.learnt and results.correction.expected:
        parts.append(frequency_part(table.class_names, results.correction))
    return [*parts, html.paragraph(f"{results.decision['line']}.")]


def set_parts(table: PredictionTable, rules: Rules, figures: BootstrapResult) -> list[Markup]:
    """Coverage and size of the prediction sets, overall and for each class."""
    rule = rules.sets[0]
    cells = {name: figures.cell(('sets', rule.kind, name)) for name in ('coverage', 'set_size', 'single')}
    of_class = {name: value for name in table.class_names
                if (value := figures.cell(('set_classes', name, 'coverage', rule.kind))['value']) is not None}
    worst = min(of_class, key=lambda name: of_class[name])
    parts = [html.paragraph(
        f'A prediction set lists the classes that an image may have. It should contain the true class in {100 * rule.coverage:g} % of the '
        f"cases, {GUARANTEES[rule.kind]}. Here, {percent(cells['coverage']['value'])} % of the sets contain it; the lowest "
        f"coverage is that of {worst}, {percent(of_class[worst])} %. Sets hold {cells['set_size']['value']:.2f} classes on average; "
        f"{percent(cells['single']['value'])} % hold a single one. A set can leave out a class that is more probable than one that it "
        'holds, since each class may have its own threshold.')]
    rows = [[name, count(rule.counts[c]), count(figures.counts['set_classes', name, 'coverage', rule.kind]),
             stacked(figures.cell(('set_classes', name, 'coverage', rule.kind))),
             stacked(figures.cell(('set_classes', name, 'set_size', rule.kind)), 2, 1)] for c, name in enumerate(table.class_names)]
    parts.append(html.table(f'Prediction sets ({KINDS[rule.kind]}): coverage in percent and classes per set [95 % interval]',
                            ['true class', 'calibration images', 'tested images', 'coverage', 'classes per set'], rows, sortable=True))
    return parts + [html.note(f'{text[:1].upper()}{text[1:]}.') for text in set_notes(rules, table.class_names)]


def point_part(rules: Rules, figures: BootstrapResult) -> Markup:
    """The saved thresholds, and the sensitivity and specificity that they reach."""
    rows = []
    for i, point in enumerate(rules.points):
        cells = [figures.cell(('points', str(i), name)) for name in ('sensitivity', 'specificity')]
        rows.append([point.name, f'{point.aim} {100 * point.level:g} %', Cell(f'{point.threshold:.3f}', point.threshold),
                     count(cells[0]['n']), *map(stacked, cells)])
    return html.table('Saved thresholds in percent [95 % interval]. An image is positive if the probability of the class is at least the '
                      'threshold (for "or worse", the summed probability of that grade and all higher ones). The thresholds were chosen on '
                      'other images, so they reach the wanted value only approximately.',
                      ['positive', 'chosen for', 'threshold', 'images', 'sensitivity', 'specificity'], rows, sortable=True)


def abstention_parts(table: PredictionTable, rules: Rules, figures: BootstrapResult, draw: Draw) -> list[Markup]:
    """What is left undecided, and the errors against the share of images that are decided."""
    rule = rules.abstention
    assert rule is not None
    cells = {name: figures.cell(('abstention', 'all', name)) for name in ('undecided', 'acc', 'acc_all', 'bacc', 'bacc_all')}
    confidence, errors = table.probs.max(axis=1), (table.preds != labels_of(table)).astype(float)
    risk, area = risk_curve(confidence, errors), risk_at_coverage(confidence, errors)[1]
    shares = 100 * np.arange(1, len(risk) + 1) / len(risk)
    decided, accuracy = 1 - cells['undecided']['value'], cells['acc']['value']
    marks = [] if accuracy is None else [(100 * decided, 100 * (1 - accuracy), 'saved rule')]
    drawn = plots.lines({'errors': (shares, 100 * risk, plots.line_style(0))}, 'images decided, most confident first (%)',
                        'errors among them (%)', marks)
    rows = [[name, count(figures.counts['undecided_classes', name, 'undecided']),
             *(stacked(figures.cell(('undecided_classes', name, of))) for of in ('undecided', 'recall', 'recall_all'))]
            for name in table.class_names]
    return [
        html.paragraph(f'If the highest probability is below {rule.threshold:.3f}, the answer is "not sure": '
                       f"{percent(cells['undecided']['value'])} % of these images. Of the others, {percent(cells['acc']['value'])} % are "
                       f"classified correctly, of all images {percent(cells['acc_all']['value'])} %. Balanced accuracy of the others is "
                       f"{percent(cells['bacc']['value'])} %, of all images {percent(cells['bacc_all']['value'])} %."),
        html.figure(draw('risk', drawn, f'Errors against the share of decided images. All images: {100 * risk[-1]:.1f} %.'),
                    'Errors against the share of decided images',
                    'The curve falls to the left if the network is unsure about the images that it gets wrong. Mean over all shares '
                    f'(AURC): {100 * area:.1f} %.'),
        html.table('Images left undecided and recall in percent [95 % interval]. A rare class may be left undecided more often.',
                   ['true class', 'tested images', 'left undecided', 'recall of the others', 'recall of all'], rows, sortable=True)]


def frequency_part(class_names: list[str], correction: Correction) -> Markup:
    """The class frequencies before and after a change."""
    assert correction.learnt is not None and correction.expected is not None
    rows = [[name, Cell(percent(old), old), Cell(percent(new), new)]
            for name, old, new in zip(class_names, correction.learnt, correction.expected, strict=True)]
    return html.table(f'Class frequencies in percent, which the probabilities assume. They were changed to: {correction.prior}.',
                      ['class', 'before', 'after'], rows, sortable=True)
