"""Measure decision rules on labelled predictions that did not fit them: coverage, set size, operating points, abstention, costs."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.common import counted, preview
from utils.decisions.abstention import Abstention, risk_at_coverage
from utils.decisions.costs import PER, least_cost
from utils.decisions.operating_points import OperatingPoint
from utils.decisions.prediction_sets import KINDS, SetRule, apply_sets, least_coverage
from utils.decisions.rules import Rules, few_images_note
from utils.evaluation import MOST_CLASSES
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult
from utils.statistics.ratios import Ratio, bootstrap_ratios
from utils.statistics.tables import to_text
from utils.statistics.text import show
from utils.statistics.weighted_metrics import labels_of

OF_SETS = {'coverage': 'coverage', 'macro_coverage': 'mean coverage of classes', 'set_size': 'classes per set',
           'single': 'sets of one class'}
OF_ABSTENTION = {'undecided': 'left undecided', 'acc': 'accuracy of the others', 'bacc': 'balanced accuracy of the others',
                 'acc_all': 'accuracy of all', 'bacc_all': 'balanced accuracy of all'}


def of_sets(table: PredictionTable, rule: SetRule) -> tuple[dict[tuple, Ratio], dict[tuple, list[tuple]]]:
    """-> ratios and means (see `bootstrap_ratios`) of prediction sets: ('sets', kind, name of OF_SETS), and for each class
    ('set_classes', class, 'coverage' or 'set_size', kind)"""
    inside, labels = apply_sets(table.probs, rule), labels_of(table)
    covered, size, every = inside[np.arange(len(labels)), labels], inside.sum(axis=1).astype(float), np.ones(len(labels), bool)
    ratios: dict[tuple, Ratio] = {
        ('sets', rule.kind, 'coverage'): Ratio(covered, every), ('sets', rule.kind, 'set_size'): Ratio(size, every, is_share=False),
        ('sets', rule.kind, 'single'): Ratio(size == 1, every)}
    for c, name in enumerate(table.class_names):
        ratios['set_classes', name, 'coverage', rule.kind] = Ratio(covered, labels == c)
        ratios['set_classes', name, 'set_size', rule.kind] = Ratio(size, labels == c, is_share=False)
    return ratios, {('sets', rule.kind, 'macro_coverage'): [('set_classes', name, 'coverage', rule.kind) for name in table.class_names]}


def of_point(table: PredictionTable, point: OperatingPoint, number: int) -> dict[tuple, Ratio]:
    """-> ratios ('points', number, 'sensitivity' or 'specificity')"""
    called, positive = point.score(table.probs) >= point.threshold, point.is_positive(labels_of(table))
    return {('points', str(number), 'sensitivity'): Ratio(called, positive),
            ('points', str(number), 'specificity'): Ratio(~called, ~positive)}


def of_abstention(table: PredictionTable, rule: Abstention) -> tuple[dict[tuple, Ratio], dict[tuple, list[tuple]]]:
    """-> ratios and means: ('abstention', 'all', name of OF_ABSTENTION), ('undecided_classes', class, 'undecided', 'recall' or
    'recall_all')"""
    unsure, labels = rule.is_unsure(table.probs), labels_of(table)
    right, every = table.preds == labels, np.ones(len(labels), bool)
    ratios = {('abstention', 'all', 'undecided'): Ratio(unsure, every), ('abstention', 'all', 'acc'): Ratio(right, ~unsure),
              ('abstention', 'all', 'acc_all'): Ratio(right, every)}
    for c, name in enumerate(table.class_names):
        ratios['undecided_classes', name, 'undecided'] = Ratio(unsure, labels == c)
        ratios['undecided_classes', name, 'recall'] = Ratio(right, (labels == c) & ~unsure)
        ratios['undecided_classes', name, 'recall_all'] = Ratio(right, labels == c)
    return ratios, {('abstention', 'all', of): [('undecided_classes', name, recall) for name in table.class_names]
                    for of, recall in (('bacc', 'recall'), ('bacc_all', 'recall_all'))}


def of_costs(table: PredictionTable, costs: np.ndarray, decisions: Mapping[str, np.ndarray]) -> dict[tuple, Ratio]:
    """-> ratios ('costs', decision, 'cost'), cost per PER images of each of the `decisions`, name -> classes int (N,), and ('costs',
    decision, 'saved'), that of the first minus its own, for the others"""
    labels, every = labels_of(table), np.ones(len(table.preds), bool)
    paid = {name: PER * costs[labels, chosen] for name, chosen in decisions.items()}
    first = next(iter(paid.values()))
    ratios = {('costs', name, 'cost'): Ratio(each, every, is_share=False) for name, each in paid.items()}
    return ratios | {('costs', name, 'saved'): Ratio(first - each, every, is_share=False) for name, each in list(paid.items())[1:]}


def rule_figures(table: PredictionTable, rules: Rules, draws: int = 1000, *, seed: int = 0, stratified: bool = False) -> BootstrapResult:
    """The figures of all `rules` on the labelled `table`, with bootstrap draws; keys as in `of_sets`, `of_point`, `of_abstention`."""
    ratios, means = {}, {}
    for part in [of_sets(table, rule) for rule in rules.sets] + ([of_abstention(table, rules.abstention)] if rules.abstention else []):
        ratios |= part[0]
        means |= part[1]
    for i, point in enumerate(rules.points):
        ratios |= of_point(table, point, i)
    return bootstrap_ratios(table, ratios, means, draws, seed=seed, stratified=stratified)


def cost_figures(table: PredictionTable, costs: np.ndarray, decisions: Mapping[str, np.ndarray], draws: int = 1000, *, seed: int = 0,
                 stratified: bool = False) -> BootstrapResult:
    """The figures of `of_costs` with bootstrap draws."""
    return bootstrap_ratios(table, of_costs(table, costs, decisions), None, draws, seed=seed, stratified=stratified)


def cost_decisions(table: PredictionTable, costs: np.ndarray, calibrated: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Decisions to compare by their costs: the predicted class, the least expected cost, the same with `calibrated` probabilities (N, K),
    and always the one class that is cheapest at the mean probabilities."""
    by_cost = {'predicted class': table.preds, 'least expected cost': least_cost(table.probs, costs)}
    if calibrated is not None:
        by_cost['least expected cost, calibrated'] = least_cost(calibrated, costs)
    probs = table.probs if calibrated is None else calibrated
    always = int((probs.mean(axis=0) @ costs).argmin())
    return by_cost | {f'always {table.class_names[always]} (best constant)': np.full(len(table.preds), always)}


def _shown(figures, key):
    return show(figures.cell(key), *((2, 1) if key[2] == 'set_size' else ()))


def set_rows(figures: BootstrapResult, rules: Rules) -> list[list[str]]:
    """-> table of the kinds of sets; the first row is the header"""
    rows = [['prediction sets', *OF_SETS.values()]]
    for rule in rules.sets:
        rows.append([rule.kind, *(_shown(figures, ('sets', rule.kind, name)) for name in OF_SETS)])
    return rows


def set_class_rows(figures: BootstrapResult, rules: Rules, class_names: list[str], what: str = 'coverage') -> list[list[str]]:
    """-> table of the coverage or the set size of each class: calibration images, tested images, then a column for each kind"""
    rows = [[f'{OF_SETS[what]} by true class', 'calibration images', 'n', *(f"sets '{rule.kind}'" for rule in rules.sets)]]
    for c, name in enumerate(class_names):
        keys = [('set_classes', name, what, rule.kind) for rule in rules.sets]
        rows.append([name, f'{rules.sets[0].counts[c]:,}', f'{figures.counts[keys[0]]:,}', *(_shown(figures, key) for key in keys)])
    return rows


def set_notes(rules: Rules, class_names: list[str]) -> list[str]:
    """-> sentences on the calibration images of the sets"""
    notes: list[str | None] = []
    for rule in rules.sets:
        own = [c for c in range(len(class_names)) if c not in rule.too_few]
        if rule.kind == 'class' and not own:
            notes.append(few_images_note(rule, class_names))
            continue
        n = min(rule.counts[c] for c in own) if rule.kind == 'class' else sum(rule.counts)
        low = least_coverage(n, rule.coverage)
        if rule.kind != 'between' and low < 1:  # 'between' has another guarantee
            smallest = preview([class_names[c] for c in own if rule.counts[c] == n])
            notes.append(f'with {counted(n, "calibration image")}{f" of {smallest}" if rule.kind == "class" else ""}, the coverage on new '
                         f'images is at least {100 * low:.1f} % in 97.5 % of all calibrations, if each image is of another patient')
        notes.append(few_images_note(rule, class_names))
    return list(dict.fromkeys(filter(None, notes)))


def point_rows(figures: BootstrapResult, rules: Rules) -> list[list[str]]:
    """-> table of the operating points"""
    rows = [['positive', 'chosen for', 'threshold', 'n', 'sensitivity', 'specificity']]
    for i, point in enumerate(rules.points):
        cells = [figures.cell(('points', str(i), name)) for name in ('sensitivity', 'specificity')]
        rows.append([point.name, f'{point.aim} {100 * point.level:g} %', f'{point.threshold:.3f}', f"{cells[0]['n']:,}", *map(show, cells)])
    return rows


def abstention_rows(figures: BootstrapResult, class_names: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """-> table of the overall figures, and table of the classes"""
    overall = [['abstention', 'value'], *([text, show(figures.cell(('abstention', 'all', name)))] for name, text in OF_ABSTENTION.items())]
    classes = [['true class', 'n', 'left undecided', 'recall of the others', 'recall of all']]
    for name in class_names:
        cells = [figures.cell(('undecided_classes', name, of)) for of in ('undecided', 'recall', 'recall_all')]
        classes.append([name, f"{cells[0]['n']:,}", *map(show, cells)])
    return overall, classes


def risk_text(table: PredictionTable) -> str:
    """Line of the error rate among the most confident images, for several shares of images. Nothing is chosen here."""
    found, area = risk_at_coverage(table.probs.max(axis=1), (table.preds != labels_of(table)).astype(float))
    shown = ', '.join(f'{100 * share:g} %: {100 * risk:.1f}' for share, risk in found)
    return f'Errors in percent among the most confident images, by their share: {shown}. Area under the curve (AURC): {100 * area:.1f}'


def rules_text(table: PredictionTable, rules: Rules, figures: BootstrapResult) -> str:
    """Tables and notes on the figures of `rule_figures` for the console."""
    names, parts = table.class_names, []
    if rules.sets:
        parts.append(f'Prediction sets for a coverage of {100 * rules.sets[0].coverage:g} %\n' + to_text(set_rows(figures, rules))
                     + ''.join(f'\n{rule.kind}: {KINDS[rule.kind]}' for rule in rules.sets))
        if len(names) <= MOST_CLASSES:
            parts += [to_text(set_class_rows(figures, rules, names, what)) for what in ('coverage', 'set_size')]
        parts.append('\n'.join(f'Note: {note}.' for note in set_notes(rules, names)))
    if rules.points:
        parts.append('Operating points, thresholds from the calibration images\n' + to_text(point_rows(figures, rules)))
    if rules.abstention:
        overall, classes = abstention_rows(figures, names)
        parts.append(f'Undecided below a probability of {rules.abstention.threshold:.3f}, which leaves out '
                     f'{100 * rules.abstention.share:g} % of the calibration images\n' + to_text(overall))
        parts += [to_text(classes)] if len(names) <= MOST_CLASSES else []
        parts.append(risk_text(table))
    return '\n\n'.join(parts)


def _balanced(right, labels, of):
    return np.mean([right[of & (labels == c)].mean() for c in np.unique(labels[of])])


def summary_lines(table: PredictionTable, rules: Rules) -> list[str]:
    """One line for each rule on how it did on the labelled `table`, in percent without intervals."""
    lines, labels = [], labels_of(table)
    if rules.sets:
        rule = rules.sets[0]
        inside = apply_sets(table.probs, rule)
        covered = inside[np.arange(len(labels)), labels]
        of_class = {name: covered[labels == c].mean() for c, name in enumerate(table.class_names) if (labels == c).any()}
        worst = min(of_class, key=lambda name: of_class[name])
        lines.append(f'Prediction sets ({rule.kind}, {100 * rule.coverage:g} %): {100 * covered.mean():.1f} % contain the true class '
                     f'(lowest: {worst}, {100 * of_class[worst]:.1f} %), {inside.sum(axis=1).mean():.2f} classes per set')
    if rules.abstention:
        unsure, right = rules.abstention.is_unsure(table.probs), table.preds == labels
        lines.append(f'Left undecided: {100 * unsure.mean():.1f} %')
        if not unsure.all():
            shown = [f'{name} {100 * before:.1f} % (of all {100 * after:.1f} %)' for name, before, after in (
                ('accuracy', right[~unsure].mean(), right.mean()),
                ('balanced accuracy', _balanced(right, labels, ~unsure), _balanced(right, labels, np.ones(len(labels), bool))))]
            lines[-1] += f"; of the others, {', '.join(shown)}"
    return lines


def cost_rows(figures: BootstrapResult) -> list[list[str]]:
    """-> table of the costs of each decision, and what it saves"""
    rows = [['decision', f'cost per {PER:,}', 'saved by it']]
    for key in figures.values:
        if key[2] == 'cost':
            saved = ('costs', key[1], 'saved')
            rows.append([key[1], show(figures.cell(key), scale=1), show(figures.cell(saved), scale=1, sign='+') if saved in figures.values
                         else '-'])
    return rows


def recall_rows(table: PredictionTable, decisions: Mapping[str, np.ndarray]) -> list[list[str]]:
    """-> table of the recall of each class with each of the decisions, in percent"""
    labels = labels_of(table)
    rows = [['recall', 'n', *decisions]]
    for c, name in enumerate(table.class_names):
        of = labels == c
        recalls = [f'{100 * np.mean(chosen[of] == c):.1f}' if of.any() else '-' for chosen in decisions.values()]
        rows.append([name, f'{of.sum():,}', *recalls])
    return rows


def costs_text(table: PredictionTable, figures: BootstrapResult, decisions: Mapping[str, np.ndarray], *, source: str, unit: str) -> str:
    """Tables of costs for the console. `source`: of the costs; `unit`: what the rows of the table are, such as image."""
    head = (f'Costs ({source}) per {PER:,} {unit}s, from {counted(len(table.preds), unit)}. Saved: cost of the predicted class minus that '
            'of the decision')
    parts = [f'{head}\n{to_text(cost_rows(figures))}']
    shown = {name: chosen for name, chosen in decisions.items() if np.ptp(chosen)}
    return '\n\n'.join(parts + ([to_text(recall_rows(table, shown))] if len(table.class_names) <= MOST_CLASSES else []))


def figures_as_json(figures: BootstrapResult) -> dict[str, Any]:
    """-> nested plain values {first part of the key: {second: ... cell}}"""
    result: dict[str, Any] = {}
    for key in figures.values:
        place = result
        for part in key[:-1]:
            place = place.setdefault(str(part), {})
        place[str(key[-1])] = figures.cell(key)
    return result
