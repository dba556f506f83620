"""Labelled predictions and their statistics -> scores, confusion, classes, thresholds, reliability, as parts of the report.

`table` is a PredictionTable, `result` is what `bootstrap_metrics` returns for it, and `draw` turns a figure into SVG.
"""
import numpy as np
from markupsafe import Markup

from utils.common import preview
from utils.evaluation import MOST_CLASSES, MOST_CONFUSIONS, confusion_counts, frequent_confusions
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
         'mcc': ('agreement (MCC)', ''), 'auc': ('AUC, mean over classes', '%'), 'ece': ('calibration error (ECE)', '%')}
MEANING = {
    'bacc': 'Share of images classified correctly, as the mean over the classes: a rare class counts as much as a frequent one.',
    'acc': 'Share of all images classified correctly. It can be high although a rare class is never recognised.',
    'mcc': 'Agreement of predicted and true classes (Matthews correlation): 100 is perfect, 0 is chance.',
    'kappa': 'Agreement of the grades: an error of two grades weighs four times as much as an error of one. 100 is perfect, 0 is chance.',
    'f1': 'Mean over the classes of F1, which is high only if both recall and precision are high.',
    'auc': 'How often an image of a class gets a higher probability of this class than an image of another class: 50 is chance.',
    'ap': 'Mean precision over all thresholds, as the mean over the classes. Chance is the share of the class.',
    'nll': 'Penalty for a low probability of the true class (log-loss): 0 is perfect, with no upper limit.',
    'brier': 'Squared error of the probabilities, summed over the classes: 0 is perfect, 2 is worst.',
    'ece': 'Mean gap between the confidence and the share of correct predictions: 0 is perfect.',
    'classwise_ece': 'The same gap, for the probabilities of all classes.'}
NUMBERED = 12  # longest class name in letters; with longer ones the columns are numbered
SEEN_AS = {'val': 'select the epoch of this network', 'train': 'train this network'}


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
    """The result in two sentences."""
    right, n = int((table.preds == labels_of(table)).sum()), len(table.preds)
    tested = {name: cells['recall'] for name, cells in classes.items() if cells['recall']['value'] is not None}
    best_and_worst = []
    for end in (max, min):
        value = end(cell['value'] for cell in tested.values())
        name, *tied = sorted((name for name in tested if tested[name]['value'] == value), key=lambda name: -tested[name]['n'])
        count = f"{round(value * tested[name]['n']):,} of {tested[name]['n']:,}"
        best_and_worst.append(f'{name} ({count}{", tied with " + preview(tied) if tied else ""})')
    return html.paragraph(f'The network classifies {right:,} of {n:,} images correctly ({100 * right / n:.1f} %). The class with the '
                          f'highest recall is {best_and_worst[0]}, the one with the lowest is {best_and_worst[1]}.')


def _card(name: str, cell: dict, chance: dict[str, float]) -> dict[str, str]:
    title, unit = CARDS[name]
    text = ('no interval' if cell['low'] is None else f"95 % interval {percent(cell['low'])} to {percent(cell['high'])}")
    if name in chance:
        text += f'; chance {percent(chance[name])}'
    return {'title': title, 'value': f"{percent(cell['value'])} {unit}", 'text': text}


def scores(table: PredictionTable, result: dict, seen_as: str | None) -> list[Markup]:
    """Cards and table of the scores. `seen_as`: 'val' or 'train' if the tested csv was the validation or training csv of the network."""
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
        parts.append(html.note(f'These images were used to {SEEN_AS[seen_as]}. On new images the scores are likely to be lower.'))
    of_patients = f' of {len(set(table.patient_ids)):,} patients' if table.patient_ids else ''
    parts.append(html.table(f'Scores on {len(table.preds):,} images{of_patients}, in percent except NLL and Brier',
                            ['score', 'value [95 % interval]', 'chance', 'meaning'], rows, numbers=False))
    parts.append(folded_kinds(f"{covers_text(result['drawn'])}.", interval_kinds(result)))
    groups = [[name, f"{cells['recall']['n']:,}", show(cells['recall']), show(cells['f1'])]
              for name, cells in result['groups'].items() if cells['recall']['value'] is not None]
    if groups:
        parts.append(html.table('Classes grouped by their number of training images (many: more than 100, few: fewer than 20), and in '
                                'thirds from the most frequent to the rarest. Means over the classes in percent [95 % interval]',
                                ['classes', 'tested images', 'recall', 'F1'], groups))
    return parts + [html.note(line) for line in notes(result).splitlines()]


def confusion(table: PredictionTable, draw: Draw) -> list[Markup]:
    names = table.class_names
    counts = confusion_counts(labels_of(table), table.preds, len(names))
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()  # errors in the row and in the column of each class
    choice = choose(len(names), 'those with the most errors; predictions of other classes are left out',
                    smallest_first(-wrong, counts.sum(axis=1)))
    labels, shares = [names[c] for c in choice.classes], curves.row_shares(counts)[np.ix_(choice.classes, choice.classes)]
    drawn = plots.heat_map(shares, labels, labels, 'predicted class', ylabel='true class', above=.005)
    return [html.figures(
        html.figure(draw('confusion', drawn, f'Confusion matrix of {len(labels)} classes. The counts are in the table after it.'),
                    'Confusion matrix, percent of each row',
                    'Each row shows how the images of one class were classified. Correct predictions lie on the diagonal: '
                    f'{counts.trace():,} of {counts.sum():,} images. Values below 0.5 % are left blank.{choice.note}'),
        _matrix_table(counts, names) if len(names) <= MOST_CLASSES else _frequent_table(counts, names))]


def _matrix_table(counts: np.ndarray, names: list[str]) -> Markup:
    numbered = max(map(len, names)) > NUMBERED
    heads = [Markup('<span title="{}">{}</span>').format(name, c) if numbered else name for c, name in enumerate(names)]
    right, none = Markup('<span class="hit">{}</span>'), Markup('<span class="none">0</span>')
    rows = [[f'{c} {name}' if numbered else name, *(right.format(n) if i == c else n or none for i, n in enumerate(row)), f'{row.sum():,}']
            for c, (name, row) in enumerate(zip(names, counts, strict=True))]
    by_number = ', which are numbered as in the rows' if numbered else ''
    matrix = html.table(f'Confusion matrix, images: true classes in rows, predicted classes in columns{by_number}',
                        ['true class', *heads, 'all'], rows)
    return Markup('<div class="confusion">{}</div>').format(matrix)


def _frequent_table(counts: np.ndarray, names: list[str]) -> Markup:
    """The most frequent confusions, which replace the matrix if there are many classes."""
    found, of_class = frequent_confusions(counts), counts.sum(axis=1)
    rows = [[names[i], names[j], count(n), Cell(percent(n / of_class[i]), n / of_class[i])] for i, j, n in found[:MOST_CONFUSIONS]]
    shown = sum(n for _, _, n in found[:MOST_CONFUSIONS])
    return html.table(f'The most frequent confusions: {len(rows):,} of {len(found):,} pairs of classes, with {shown:,} of '
                      f'{counts.sum() - counts.trace():,} errors. Share: percent of the images of the true class. Click a heading to '
                      'sort.', ['true class', 'predicted class', 'images', 'share'], rows, sortable=True, numbers=False)


def each_class(table: PredictionTable, result: dict, draw: Draw, class_count: list[int] | None = None) -> list[Markup]:
    """Recall and precision of each class as a figure, and all its scores as a table. `class_count`: training images (K,)."""
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
                     'Bars: recall and precision of each class with 95 % intervals. The values are in the table after it.'),
                'Recall and precision of each class',
                'Recall: share of the images of the class that are recognised. Precision: share of the predictions of the class that are '
                f'correct. Lines: 95 % intervals. In brackets: tested images, {len(table.preds):,} in total. No bar: 0 or undefined.'
                f'{choice.note}'),
            html.table('Each class in percent [95 % interval]. Click a heading to sort.', ['class', *counts, *HEADINGS.values()], rows,
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
    roc = plots.one_vs_rest(found['auc'], 'false-positive rate (%)', 'recall, sensitivity (%)', diagonal=True)
    pr = plots.one_vs_rest(found['ap'], 'recall, sensitivity (%)', 'precision (%)', steps=True)
    return [html.figures(
        html.figure(draw('roc', roc, f"ROC curves of the classes; {'; '.join(ends)}."), 'ROC: each class against the rest',
                    'The closer a curve is to the upper left corner, the better the class is separated from the rest. Dotted: chance. '
                    f'n: images of the class, out of {n}; AUC: area under the curve in percent.{choice.note}'),
        html.figure(draw('pr', pr, 'Precision-recall curves. The average precision is in the table of the classes.'),
                    'Precision and recall: each class against the rest',
                    'Precision at each recall: curves of rare classes tend to be lower. '
                    f'n: images of the class, out of {n}; AP: average precision in percent.{choice.note}')),
        operating_points(result['operating_points'])]


def operating_points(points: dict) -> Markup:
    """Table of sensitivity at specificity LEVEL and the reverse. `points`: as in `bootstrap.as_cells`."""
    at, rows = f'≥ {100 * LEVEL:g} %', []
    for positives, of_name in points.items():
        cells = [of_name[name][str(LEVEL)] for name in OPERATING_POINTS]
        rows.append([positives, count(cells[0]['n'])])
        for cell in cells:
            value = cell.get('threshold')  # None for a class without images
            rows[-1] += [stacked(cell), Cell('-' if value is None else f'{value:.3f}', value)]
    return html.table('Operating points in percent [95 % interval]. An image is positive if the probability of the class is at least the '
                      'threshold (for "or worse", the summed probability of that grade and all higher ones). The thresholds were chosen '
                      'on these images and do worse on others: check them on new images.',
                      ['positive', 'images', f'sensitivity at specificity {at}', 'threshold', f'specificity at sensitivity {at}',
                       'threshold'], rows, sortable=True)


def trust(table: PredictionTable, result: dict, draw: Draw) -> list[Markup]:
    ece = result['metrics']['ece']
    drawn = plots.reliability(curves.reliability(table))
    return [html.figure(draw('reliability', drawn, f"Reliability diagram. The mean gap is {percent(ece['value'])} percentage points."),
                        'Reliability of the confidence',
                        'On the dotted line, predictions with 80 % confidence are correct in 80 % of the cases. Below it, the network is '
                        f'overconfident. Larger dots stand for more of the {len(table.preds):,} images. Mean gap (ECE): {show(ece)} '
                        'percentage points.')]
