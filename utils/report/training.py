"""One run -> its settings, images per class and training curves, as parts of the report."""
import numpy as np
from markupsafe import Markup

from utils.evaluation import SMALLER_IS_BETTER
from utils.report import settings
from utils.report.html import Draw, figure, figures, folded, paragraph, table
from utils.report.runs import Run, series
from utils.runs.history import best_epoch
from utils.statistics import plots
from utils.statistics.many_classes import choose, extremes
from utils.statistics.weighted_metrics import METRIC_NAMES, labels_of


def what_was_run(run: Run) -> list[Markup]:
    """The main settings in words, and a folded table of all settings."""
    c, rows, parts = run.config, [('run', run.name)], []
    if c is not None:
        words = {part.name: part.words(c) for part in settings.PARTS}
        if not c.get('members'):
            words['epochs'] = f"{len(run.history)} of {c['n_epochs']} trained"
        kept = f"{best_epoch(run.history, c)}, by {METRIC_NAMES.get(c['metric'], c['metric'])} on the validation set"
        rows += [(name, value) for name, value in words.items() if value is not None]
        if not c.get('members'):
            rows.append(('best epoch', kept if run.history else 'none yet'))
    if run.table:
        rows.append(('tested images', f'{len(run.table.preds):,}, {run.table.path}'))
    parts.append(table('Settings, data and versions', ['setting', 'value'], rows + [('test', fact) for fact in run.facts], numbers=False))
    if c is not None:
        entries = [[name, value, Markup('<code>{}</code>').format(key)] for name, value, key in settings.every_entry(c)]
        parts.append(folded('Every setting', table('Entries of config.cfg', ['setting', 'value', 'entry'], entries, numbers=False)))
    return parts


def class_names_of(run: Run) -> list[str]:
    if run.config:
        return run.config['class_names']
    assert run.table is not None, 'a run has a config or predictions'
    return run.table.class_names


def images_of_classes(run: Run, draw: Draw) -> list[Markup]:
    names = class_names_of(run)
    counts = {}
    if run.config:
        counts['training images'] = np.array(run.config['class_count'])
    if run.table:
        counts['tested images'] = np.bincount(labels_of(run.table), minlength=len(names))
    first = next(iter(counts.values()))
    choice = choose(len(names), 'the rarest and the most frequent', *extremes(first, first))
    labels = [[f'{n:,}' for n in of_class[choice.classes]] for of_class in counts.values()]
    drawn = plots.bars([plots.short(names[c]) for c in choice.classes],
                       {what: (n[choice.classes], None, None) for what, n in counts.items()}, 'images', labels)
    totals = ', '.join(f'{n.sum():,} {what}' for what, n in counts.items())
    return [figure(draw('classes', drawn, f'Bars: images of each class. The most frequent is {names[first.argmax()]}, the '
                                          f'rarest {names[first.argmin()]}.'),
                   'Images of each class', f'Number of images in each class; in total {totals}.{choice.note}'), *prevalence(names, counts)]


def prevalence(names: list[str], counts: dict[str, np.ndarray]) -> list[Markup]:
    """What the class frequencies mean for the scores, in words. `counts`: 'training images' and 'tested images', (K,) each."""
    if len(counts) < 2:
        return []
    train, test = (of_class / of_class.sum() for of_class in counts.values())
    rarest, apart = int(train.argmin()), int(np.abs(test - train).argmax())
    return [paragraph(
        f'{names[rarest]}, the rarest class of the training images, makes up {100 * train[rarest]:.1f} % of them and '
        f'{100 * test[rarest]:.1f} % of the tested images. The largest difference is that of {names[apart]}: {100 * train[apart]:.1f} and '
        f'{100 * test[apart]:.1f} %. Where the classes have other frequencies than here, recall stays about the same, but precision, '
        'accuracy and the reliability of the probabilities change. --target_prior adapts the probabilities.')]


def stage_lines(run: Run, key: str, scale: int = 1) -> tuple[dict, list[tuple[float, str]]]:
    """-> the validation and training curves over all stages whose log was found, and the boundaries between the stages."""
    records = [record for _, of_stage in run.stages for record in of_stage]
    epochs, ends = range(1, len(records) + 1), np.cumsum([len(of_stage) for _, of_stage in run.stages])[:-1]
    curves = {label: (epochs, scale * series(records, split, key), plots.line_style(i))
              for i, (label, split) in enumerate((('validation', 'val'), ('training', 'train')))}
    return ({label: curve for label, curve in curves.items() if not np.isnan(curve[1]).all()},
            [(end + .5, f'stage {i}') for i, end in enumerate(ends, start=2)])


def training(run: Run, draw: Draw) -> list[Markup]:
    """Figures of the metric, the loss and the learning rate by epoch; none for a run without a finished epoch."""
    if not run.history or run.config is None:
        return []
    metric = 'bacc' if run.config['metric'] in SMALLER_IS_BETTER else run.config['metric']
    name, best = METRIC_NAMES[metric], best_epoch(run.history, run.config)
    before = sum(len(records) for _, records in run.stages[:-1])
    at = 100 * series(run.history, 'val', metric)[best - 1]
    (scores, boundaries), (losses, _) = stage_lines(run, metric, 100), stage_lines(run, 'loss')
    rates = series([record for _, records in run.stages for record in records], 'lr')
    rate = {'learning rate': (range(1, len(rates) + 1), rates, plots.line_style(6))}
    stages = f' Left of the dotted line: {run.stages[-2][0]}, up to the epoch that this run starts from.' if boundaries else ''
    drawn = (plots.lines(scores, 'epoch', f'{name} (%)', [(before + best, at, 'best epoch')], boundaries=boundaries),
             plots.lines(losses, 'epoch', 'cross-entropy', (), boundaries=boundaries),
             plots.lines(rate, 'epoch', 'learning rate', (), boundaries=boundaries, log=True))
    return [figures(
        figure(draw('metric', drawn[0], f'Curves of {name} by epoch. The best epoch, {best}, has {at:.1f} on the validation set.'),
               f'{name} during training',
               f'Higher is better. A training score far above the validation score is a sign of overfitting.{stages}'),
        figure(draw('loss', drawn[1], f"Curves of the loss by epoch. Validation ends at {series(run.history, 'val', 'loss')[-1]:.3f}."),
               'Loss during training', 'Lower is better. If the validation loss rises again, the network becomes overconfident.'),
        figure(draw('rate', drawn[2], f'Learning rate by epoch, from {rates[0]:g} to {rates[-1]:g}.'),
               'Learning rate', 'Step size of the training, on a logarithmic scale.'))]
