"""One run -> what was run, on which images, and how its training went, as parts of the report."""
import json

import numpy as np
from markupsafe import Markup

from utils.evaluation import SMALLER_IS_BETTER
from utils.report.html import Draw, figure, figures, table
from utils.report.runs import Run, series
from utils.runs.history import best_epoch
from utils.statistics import plots
from utils.statistics.many_classes import choose, extremes
from utils.statistics.weighted_metrics import METRIC_NAMES, labels_of

STARTS = {'random': 'random weights', 'none': 'random weights', 'imagenet': 'ImageNet weights'}
MIXINGS = {'none': 'none', 'balanced_mixup': 'Balanced-MixUp', 'mixup': 'MixUp', 'cutmix': 'CutMix', 'remix': 'Remix'}


def _loss(c):
    parameters = ', '.join(f'{name} {value:g}' for name, value in (c.get('loss_params') or {}).items())
    return c['loss_fn'] + (f' ({parameters})' if parameters else '')


def _deferred(c):
    n_deferred = round(c.get('defer', 0) * c['n_epochs'])
    return f"begins after epoch {n_deferred} of {c['n_epochs']}" if n_deferred else None


def _mixing(c):
    if c['mixing'] == 'none':
        return 'none'
    off = c.get('mixup_off_epochs')
    return (f"{MIXINGS.get(c['mixing'], c['mixing'])}, alpha {c['mix_alpha']:g}"
            + (f', not in the last {off} of {c["n_epochs"]} epochs' if off else ''))


def _schedule(c):
    """What --schedule and the flags that it uses were."""
    if 'schedule' not in c:
        return None
    parts = [c['schedule']]
    parts += [f"patience {c['patience']}"] if c['schedule'] == 'plateau' else []
    parts += [f"minimum {c['min_lr']:g}"] if c['schedule'] != 'onecycle' else []
    parts += [f"warm-up in the first {100 * c['warmup']:g} % of the steps"] if c['warmup'] else []
    return ', '.join(parts)


def _optimisation(run):
    c = run.config
    parts = [c['optimizer'], f"learning rate {c['lr']:g}"]
    if c['optimizer'] == 'sgd' and c.get('schedule') == 'onecycle':  # which sets the momentum itself
        parts += ['momentum 0.95 to 0.85 and back']
    elif c['optimizer'] == 'sgd' and c.get('momentum'):
        parts += [f"momentum {c['momentum']:g}"]
    parts += [f"weight decay {c['wd']:g}"] if c.get('wd') else []
    return ', '.join([*parts, f"{c['batch_size']} images a step", f"{len(run.history)} of {c['n_epochs']} epochs", f"seed {c['seed']}"])


def _network(c):
    size = f"input {c['im_size'][0]} x {c['im_size'][1]} pixels (height x width)"
    growing = f", growing from {100 * c['grow_from']:g} % of it" if c.get('grow_from', 1) < 1 else ''
    return f"{c['model_name']}, {size}{growing}"


def what_was_run(run: Run) -> list[Markup]:
    c, rows = run.config, []
    if c is not None:
        metric = METRIC_NAMES.get(c['metric'], c['metric'])
        parent, start = c['parent'], c.get('initial_weights', c['init'])
        rows = [
            ('network', _network(c)),
            ('starts from', f"{parent['path']}, its epoch {parent['epoch']}" if parent else STARTS.get(start, start)),
            ('trained layers', {'all': 'all', 'classifier': 'the last one (frozen backbone)'}.get(c['trainable'], c['trainable'])),
            ('recipe', c.get('recipe')),
            ('loss', _loss(c)),
            ('sampling of training images', c['sampling']),
            ('deferred re-balancing', _deferred(c)),
            ('mixing', _mixing(c)),
            ('augmentation', c.get('augment')),
            ('optimisation', _optimisation(run)),
            ('learning-rate schedule', _schedule(c)),
            ('moving average of the weights', f"decay {c['ema']:g}" if c.get('ema') else None),
            ('epoch kept', f"{best_epoch(run.history, c['metric'])}, the best by {metric} on validation" if run.history else 'none yet'),
            ('training images', f"{sum(c['class_count']):,} of {len(c['class_count'])} classes, {c['csv_train']}"),
            ('validation images', c['csv_val']),
            ('versions', f"PyTorch {c['torch']} on {c['device_type']}, mixed precision: {c['mixed_precision']}")]
        rows = [(part, value) for part, value in rows if value is not None]  # off, or not known of an old run
    if run.table:
        rows.append(('tested images', f'{len(run.table.preds):,}, {run.table.path}'))
    parts = [table('Settings, data and versions', ['part', 'value'], rows + [('test', fact) for fact in run.facts], numbers=False)]
    if c is not None:
        parts.append(Markup('<details><summary>Every setting (config.cfg)</summary><pre>{}</pre></details>').format(
            json.dumps(c, indent=1, ensure_ascii=False)))
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
    return [figure(draw('classes', drawn, f'Bars: images of each class. The most frequent is {names[first.argmax()]}, the rarest '
                                          f'{names[first.argmin()]}.'),
                   'Images of each class', f'How many images each class has: {totals}.{choice.note}')]


def stage_lines(run: Run, key: str, scale: int = 1) -> tuple[dict, list[tuple[float, str]]]:
    """-> curves of validation and training over all stages whose log was found, and the boundaries between these."""
    records = [record for _, of_stage in run.stages for record in of_stage]
    epochs, ends = range(1, len(records) + 1), np.cumsum([len(of_stage) for _, of_stage in run.stages])[:-1]
    curves = {label: (epochs, scale * series(records, split, key), plots.line_style(i))
              for i, (label, split) in enumerate((('validation', 'val'), ('training', 'train')))}
    return ({label: curve for label, curve in curves.items() if not np.isnan(curve[1]).all()},
            [(end + .5, f'stage {i}') for i, end in enumerate(ends, start=2)])


def training(run: Run, draw: Draw) -> list[Markup]:
    """Nothing for a run without a finished epoch."""
    if not run.history or run.config is None:
        return []
    metric = 'bacc' if run.config['metric'] in SMALLER_IS_BETTER else run.config['metric']
    name, best = METRIC_NAMES[metric], best_epoch(run.history, run.config['metric'])
    before = sum(len(records) for _, records in run.stages[:-1])
    at = 100 * series(run.history, 'val', metric)[best - 1]
    (scores, boundaries), (losses, _) = stage_lines(run, metric, 100), stage_lines(run, 'loss')
    rates = series([record for _, records in run.stages for record in records], 'lr')
    rate = {'learning rate': (range(1, len(rates) + 1), rates, plots.line_style(6))}
    stages = (f' Left of the dotted line: {run.stages[-2][0]}, from which this run starts, up to the epoch that was taken.'
              if boundaries else '')
    drawn = (plots.lines(scores, 'epoch', f'{name} (%)', [(before + best, at, 'epoch kept')], boundaries=boundaries),
             plots.lines(losses, 'epoch', 'cross-entropy', (), boundaries=boundaries),
             plots.lines(rate, 'epoch', 'learning rate', (), boundaries=boundaries, log=True))
    return [figures(
        figure(draw('metric', drawn[0], f'Curves of {name} by epoch; the epoch kept, {best}, has {at:.1f} on validation.'),
               f'{name} during training',
               f'Higher is better; training far above validation means that the training images were learned by heart.{stages}'),
        figure(draw('loss', drawn[1], f"Curves of the loss by epoch; validation ends at {series(run.history, 'val', 'loss')[-1]:.3f}."),
               'Loss during training', 'Lower is better; where validation rises again, the network gets surer than it is right.'),
        figure(draw('rate', drawn[2], f'Learning rate by epoch, from {rates[0]:g} to {rates[-1]:g}.'),
               'Learning rate', 'The step size of the training, on a logarithmic scale; it falls when validation no longer improves.'))]
