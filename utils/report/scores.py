"""Labelled predictions and their statistics -> scores, confusion, classes, thresholds, reliability, as parts of the report.

`table` is a PredictionTable, `result` what `bootstrap_metrics` returns for it, `draw` makes SVG of a figure.
"""
import numpy as np
from markupsafe import Markup

from utils.evaluation import MOST_CLASSES, MOST_CONFUSIONS, frequent_confusions
from utils.prediction.predictions import PredictionTable
from utils.report import html
from utils.report.html import Cell, Draw
from utils.statistics import curves, plots
from utils.statistics.bootstrap import INTERVALS
from utils.statistics.many_classes import MOST_CURVES, choose, extremes, smallest_first
from utils.statistics.ranking import OPERATING_POINTS
from utils.statistics.text import HEADINGS, NOT_PERCENT, covers_text, interval_kinds, notes, show
from utils.statistics.weighted_metrics import CLASS_METRICS, LEVEL, METRIC_NAMES, labels_of

CARDS = {'bacc': ('balanced accuracy', '%'), 'acc': ('accuracy', '%'), 'kappa': ('agreement (quadratic kappa)', ''),
         'mcc': ('agreement (MCC)', ''), 'auc': ('AUC, mean of the classes', '%'), 'ece': ('gap of confidence (ECE)', '%')}
MEANING = {
    'bacc': 'The share of its images that is recognised, as the mean over the classes: a rare class counts as much as a frequent one.',
    'acc': 'The share of all images that is recognised: it hides a rare class that is never found.',
    'mcc': 'Agreement of answers and truth over all classes: 100 is perfect, 0 is chance.',
    'kappa': 'Agreement of the grades: a miss by two grades weighs four times a miss by one. 100 is perfect, 0 is chance.',
    'f1': 'Mean over the classes of F1, which is high only where recall and precision both are.',
    'auc': 'How often an image of a class gets a higher probability of it than an image of another class: 50 is chance.',
    'ap': 'Mean precision over all thresholds, as the mean over the classes: chance is the share of the class.',
    'nll': 'Penalty for the probability of the true class: 0 is perfect, no upper end.',
    'brier': 'Squared error of the probabilities, summed over the classes: 0 is perfect, 2 the worst.',
    'ece': 'Gap between the stated confidence and the share of right answers: 0 is perfect.',
    'classwise_ece': 'The same gap, for the probability of every class.'}
NUMBERED = 12  # letters of a class name, above which a table numbers its columns
SEEN_AS = {'val': 'chose the epoch of this network', 'train': 'trained this network'}


def stacked(cell: dict, digits: int = 1, scale: float = 100) -> Cell:
    """The value, in percent by default, with the interval below it; sorted by the value."""
    value, _, interval = show(cell, digits, scale).partition(' ')
    return Cell(Markup('{} <small>{}</small>').format(value, interval) if interval else value, cell['value'])


def percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'


def count(n: int) -> Cell:
    """A number of images, sorted as a number."""
    return Cell(f'{n:,}', n)


def folded_kinds(heading: str, kinds: dict[str, list[str]]) -> Markup:
    """A folded list of the `kinds` of interval, as `kinds_of` returns them."""
    return html.folded_list(heading, (f"{', '.join(names)}: {INTERVALS[kind]}" for kind, names in kinds.items()))


def _in_words(table: PredictionTable, classes: dict) -> Markup:
    """The two sentences that a reader in a hurry needs."""
    right, n = int((table.preds == labels_of(table)).sum()), len(table.preds)
    tested = {name: cells['recall'] for name, cells in classes.items() if cells['recall']['value'] is not None}
    # Of equals the one with more images, which tells more.
    best, worst = (max(tested, key=lambda name: (sign * tested[name]['value'], tested[name]['n'])) for sign in (1, -1))
    found = [f"{name} ({round(tested[name]['value'] * tested[name]['n']):,} of {tested[name]['n']:,})" for name in (best, worst)]
    return html.paragraph(f'The network names the right class for {right:,} of {n:,} images ({100 * right / n:.1f} %). '
                          f'It finds {found[0]} best and {found[1]} least.')


def _card(name: str, cell: dict, chance: dict[str, float]) -> dict[str, str]:
    title, unit = CARDS[name]
    text = ('no interval' if cell['low'] is None else f"95 % interval {percent(cell['low'])} to {percent(cell['high'])}")
    if name in chance:
        text += f'; chance {percent(chance[name])}'
    return {'title': title, 'value': f"{percent(cell['value'])} {unit}", 'text': text}


def scores(table: PredictionTable, result: dict, seen_as: str | None) -> list[Markup]:
    """`seen_as`: 'val' or 'train' where the network saw these images as that."""
    metrics = result['metrics']
    shown = [name for name in METRIC_NAMES if metrics[name]['value'] is not None]
    cards = [_card(name, metrics[name], result['chance']) for name in CARDS
             if name in shown and not (name == 'mcc' and 'kappa' in shown)]
    values = [stacked(metrics[name], *((3, 1) if name in NOT_PERCENT else (1, 100))).shown for name in shown]
    chance = {name: percent(value) for name, value in result['chance'].items()}
    rows = [[METRIC_NAMES[name], Markup('<span class="value">{}</span>').format(value), chance.get(name, '-'), MEANING[name]]
            for name, value in zip(shown, values, strict=True)]
    parts = [_in_words(table, result['classes']), html.render('cards', cards=cards)]
    if seen_as:
        parts.append(html.note(f'These images {SEEN_AS[seen_as]}: on new images the scores are likely to be lower.'))
    of_patients = f' of {len(set(table.patient_ids)):,} patients' if table.patient_ids else ''
    parts.append(html.table(f'Scores on {len(table.preds):,} images{of_patients}, in percent (NLL and Brier as they are)',
                            ['score', 'value [95 % interval]', 'chance', 'meaning'], rows, numbers=False))
    parts.append(folded_kinds(f"{covers_text(result['drawn'])}.", interval_kinds(result)))
    groups = [[name, f"{cells['recall']['n']:,}", show(cells['recall']), show(cells['f1'])]
              for name, cells in result['groups'].items() if cells['recall']['value'] is not None]
    if groups:
        parts.append(html.table('Classes by their training images (many: more than 100, few: less than 20; thirds: by rank): means over '
                                'the classes in percent', ['classes', 'tested images', 'recall', 'F1'], groups))
    return parts + [html.note(line) for line in notes(result).splitlines()]


def confusion(table: PredictionTable, draw: Draw) -> list[Markup]:
    names = table.class_names
    counts = curves.confusion_counts(labels_of(table), table.preds, len(names))
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()  # images of the class or called it
    choice = choose(len(names), 'those with the most wrong answers; answers of other classes are left out',
                    smallest_first(-wrong, counts.sum(axis=1)))
    labels, shares = [names[c] for c in choice.classes], curves.row_shares(counts)[np.ix_(choice.classes, choice.classes)]
    drawn = plots.heat_map(shares, labels, labels, 'answer of the network', ylabel='truth', above=.005)
    return [html.figures(
        html.figure(draw('confusion', drawn, f'Confusion matrix of {len(labels)} classes; the counts stand in the table after it.'),
                    'Confusion matrix, percent of each row',
                    'Of the images of a class (row), how many percent got each answer (column); right answers lie on the diagonal: '
                    f'{counts.trace():,} of {counts.sum():,} images. Less than half a percent is left blank.{choice.note}'),
        _matrix_table(counts, names) if len(names) <= MOST_CLASSES else _frequent_table(counts, names))]


def _matrix_table(counts: np.ndarray, names: list[str]) -> Markup:
    numbered = max(map(len, names)) > NUMBERED
    heads = [Markup('<span title="{}">{}</span>').format(name, c) if numbered else name for c, name in enumerate(names)]
    right, none = Markup('<span class="hit">{}</span>'), Markup('<span class="none">0</span>')
    rows = [[f'{c} {name}' if numbered else name, *(right.format(n) if i == c else n or none for i, n in enumerate(row)), f'{row.sum():,}']
            for c, (name, row) in enumerate(zip(names, counts, strict=True))]
    of_number = ', columns by the number of the class' if numbered else ''
    matrix = html.table(f'Confusion matrix, images: truth in rows, answers in columns{of_number}', ['truth', *heads, 'all'], rows)
    return Markup('<div class="confusion">{}</div>').format(matrix)


def _frequent_table(counts: np.ndarray, names: list[str]) -> Markup:
    """The most frequent confusions, in place of a matrix that nobody can read."""
    found, of_class = frequent_confusions(counts), counts.sum(axis=1)
    rows = [[names[i], names[j], count(n), Cell(percent(n / of_class[i]), n / of_class[i])] for i, j, n in found[:MOST_CONFUSIONS]]
    shown = sum(n for _, _, n in found[:MOST_CONFUSIONS])
    return html.table(f'The most frequent confusions: {len(rows):,} of {len(found):,} pairs of classes, with {shown:,} of '
                      f'{counts.sum() - counts.trace():,} wrong answers. Share: percent of the images of the true class; press a heading '
                      'to sort', ['true class', 'predicted class', 'images', 'share'], rows, sortable=True, numbers=False)


def each_class(table: PredictionTable, result: dict, draw: Draw, class_count: list[int] | None = None) -> list[Markup]:
    """`class_count`: training images (K,)."""
    classes, names = result['classes'], table.class_names
    groups = {HEADINGS[metric]: [np.array([np.nan if classes[name][metric][end] is None else 100 * classes[name][metric][end]
                                           for name in names]) for end in ('value', 'low', 'high')] for metric in ('recall', 'precision')}
    tested = np.array([classes[name]['recall']['n'] for name in names])
    choice = choose(len(names), 'those with the lowest and those with the highest recall', *extremes(groups[HEADINGS['recall']][0], tested))
    groups = {heading: [ends[choice.classes] for ends in of_metric] for heading, of_metric in groups.items()}
    labelled = [f'{plots.short(names[c])} ({tested[c]:,})' for c in choice.classes]
    counts = ({'training images': np.array(class_count)} if class_count else {}) | {'tested images': tested}
    rows = [[name, *(count(n[c]) for n in counts.values()), *(stacked(classes[name][metric]) for metric in CLASS_METRICS)]
            for c, name in enumerate(names)]
    return [html.figure(
                draw('perclass', plots.bars(labelled, groups, 'percent', limit=(0, 103)),
                     'Bars: recall and precision of each class with 95 % intervals; the values stand in the table after it.'),
                'Recall and precision of each class',
                'Recall: of the images of the class, how many are found. Precision: of the answers with this class, how many are right. '
                f'Lines: 95 % intervals; in brackets: tested images, {len(table.preds):,} in all. No bar: 0, or nothing to count.'
                f'{choice.note}'),
            html.table('Each class in percent [95 % interval]; press a heading to sort', ['class', *counts, *HEADINGS.values()], rows,
                       sortable=True)]


def thresholds(table: PredictionTable, result: dict, draw: Draw) -> list[Markup]:
    """ROC and precision-recall curves of each class against the rest."""
    found, names, tested = {'auc': {}, 'ap': {}}, table.class_names, np.bincount(labels_of(table), minlength=len(table.class_names))
    auc = np.array([result['classes'][name]['auc']['value'] for name in names], float)
    choice = choose(len(names), 'those with the lowest AUC and those with the most tested images', smallest_first(auc, tested),
                    smallest_first(-tested, tested), most=MOST_CURVES)
    for c in choice.classes:
        name, positive = names[c], labels_of(table) == c
        for metric, curve in (('auc', curves.roc_curve), ('ap', curves.pr_curve)):
            value = percent(result['classes'][name][metric]['value'])
            found[metric][f'{name}\n{metric.upper()} {value}, n {positive.sum():,}'] = curve(table.probs[:, c], positive)
    defined = {name: cells['auc']['value'] for name, cells in result['classes'].items() if cells['auc']['value'] is not None}
    ends = [f'{word} {name}, AUC {percent(defined[name])}' for word, f in (('best', max), ('worst', min))
            for name in ([f(defined, key=lambda c: defined[c])] if defined else [])]
    n = f'{len(table.preds):,} images'
    roc = plots.one_vs_rest(found['auc'], 'false alarms among the other images (%)', 'images of the class found (%)', diagonal=True)
    pr = plots.one_vs_rest(found['ap'], 'images of the class found (%)', 'alarms that are right (%)', steps=True)
    return [html.figures(
        html.figure(draw('roc', roc, f"ROC curves of the classes; {'; '.join(ends)}."), 'ROC: each class against the rest',
                    'The closer to the upper left corner, the better the class is told from the rest; dotted: chance. n: images of the '
                    f'class, of {n}; AUC: area under the curve, in percent.{choice.note}'),
        html.figure(draw('pr', pr, 'Precision-recall curves; the average precision stands in the table of the classes.'),
                    'Precision and recall: each class against the rest',
                    'How many alarms are right (precision, upwards) when so many images of the class are found (recall, to the right); '
                    f'rare classes are harder here. n: images of the class, of {n}; AP: average precision, in percent.{choice.note}')),
        operating_points(result['operating_points'])]


def operating_points(points: dict) -> Markup:
    """`points` as in `bootstrap.as_cells`, at the one LEVEL: what an alarm finds at a bearable number of false ones, and the reverse."""
    at, rows = f'≥ {100 * LEVEL:g} %', []
    for positives, of_name in points.items():
        cells = [of_name[name][str(LEVEL)] for name in OPERATING_POINTS]
        rows.append([positives, count(cells[0]['n'])])
        for cell in cells:
            value = cell.get('threshold')  # no image of the class: none
            rows[-1] += [stacked(cell), Cell('-' if value is None else f'{value:.3f}', value)]
    return html.table('Operating points in percent [95 % interval]: an image is called positive where its probability is at least the '
                      'threshold (for "or worse", its sum from that grade on). Chosen on these very images, a threshold does worse on '
                      'others: check it on new ones',
                      ['positive', 'images', f'sensitivity at specificity {at}', 'threshold', f'specificity at sensitivity {at}',
                       'threshold'], rows, sortable=True)


def trust(table: PredictionTable, result: dict, draw: Draw) -> list[Markup]:
    ece = result['metrics']['ece']
    drawn = plots.reliability(curves.reliability(table))
    return [html.figure(draw('reliability', drawn, f"Reliability diagram; the mean gap is {percent(ece['value'])} points."),
                        'Reliability of the stated confidence',
                        'On the dotted line, "80 % sure" is right in 80 % of the cases; below it the network is surer than it is right. '
                        f'Large dots stand for many of the {len(table.preds):,} images. Mean gap (ECE): {show(ece)} points.')]
