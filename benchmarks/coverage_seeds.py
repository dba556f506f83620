"""Simulate the coverage of intervals for methods trained with several seeds, with a known truth.

Two methods of equal expected quality are trained with R seeds each and tested on the same images of five long-tailed grades. The seed of a
network adds a random effect to its class means: the training noise. The image noise has three parts: one shared by all networks, one
shared by the networks of a method, and one for each network. For balanced accuracy, the training noise is as large as the image noise
(`equal`) or a fifth of it (`small`).

Prints Markdown tables for 95 % intervals. Type I error is how often the interval of the difference excludes 0; it should be at most 5 %.
Coverage is how often the interval of a mean contains the expected value; it should be at least 95 %. The last table has the widths of
these intervals.

An interval can resample the images alone (`images`), the images and the seeds (`seeds drawn`), or both with larger deviations of the seeds
(`seeds drawn, widened`). `Satterthwaite` adds the variances of both instead. `default` is the interval that this project reports.

Example (10 minutes on two idle cores, with OMP_NUM_THREADS=1):

  python -m benchmarks.coverage_seeds --processes 2 --json coverage_seeds.json
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import json
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
from scipy.special import softmax
from scipy.stats import t as student

from utils.cli import script_parser
from utils.common import InputError, progress, run_script, write_text
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import BootstrapResult, bootstrap_figures, combine, interval
from utils.statistics.folds import mean_of, mean_over_seeds
from utils.statistics.tables import to_markdown
from utils.statistics.weighted_metrics import WeightedMetrics

SHARE = np.array([.5, .2, .15, .1, .05])  # of images, for each grade
GRADES = np.arange(len(SHARE))
CLASS_MEANS = -1.2 * np.abs(GRADES[:, None] - GRADES)  # logits, (label, grade)
IMAGE_NOISE = {'all': .8, 'method': .3, 'network': .3}  # standard deviation of the logits, by the networks that share it
TRAINING_NOISE = {'equal': .17, 'small': .034}  # standard deviation of the class means, for 600 test images
SIZES, SEEDS, MOST_SEEDS, DRAWS = (600, 5000), (2, 3, 5), 5, 300
METRICS = ('bacc', 'mcc', 'kappa', 'f1', 'auc')
NAMES = {'bacc': 'balanced accuracy', 'mcc': 'MCC', 'kappa': 'kappa', 'f1': 'macro-F1', 'auc': 'AUC'}


def network_noise(effect, n, rng):
    """-> effect of one network's seed on the class means, (label, grade). Its ratio to the image noise is the same for every `n`."""
    return TRAINING_NOISE[effect] * np.sqrt(SIZES[0] / n) * rng.standard_normal(CLASS_MEANS.shape)


def table_of(labels, logits):
    probs, images, names = softmax(logits, axis=1), list(map(str, range(len(labels)))), [f'grade {grade}' for grade in GRADES]
    return PredictionTable(images, labels, probs.argmax(axis=1), probs, names, None, 'simulated')


def tables_of(effect, n, rng, n_seeds=MOST_SEEDS):
    """-> for each of the two methods, a prediction table per seed, all on the same `n` new images"""
    def noise(group):
        return IMAGE_NOISE[group] * rng.standard_normal((n, len(GRADES)))

    labels, shared, tables = rng.choice(GRADES, n, p=SHARE), noise('all'), []
    for _ in range(2):
        of_method = shared + noise('method')
        tables.append([table_of(labels, (CLASS_MEANS + network_noise(effect, n, rng))[labels] + of_method + noise('network'))
                       for _ in range(n_seeds)])
    return tables


def truth(effect, n, networks=600, n_images=4000):
    """-> {metric: (expected value, standard deviation between networks, standard deviation of a network's value on `n` images)}

    Each simulated network is scored on two test sets, which separates the two kinds of noise.
    """
    rng, values, ones = np.random.default_rng([1, n]), [], np.ones((n_images, 1))
    image_noise = np.sqrt(sum(sd ** 2 for sd in IMAGE_NOISE.values()))
    for _ in range(networks):
        means = CLASS_MEANS + network_noise(effect, n, rng)
        for _ in range(2):
            labels = rng.choice(GRADES, n_images, p=SHARE)
            logits = means[labels] + image_noise * rng.standard_normal((n_images, len(GRADES)))
            metrics = WeightedMetrics(table_of(labels, logits), ordered=True)(ones)
            values.append([metrics['metrics', name][0] for name in METRICS])
    pairs = np.reshape(values, (networks, 2, len(METRICS)))
    expected = pairs.mean(axis=(0, 1))
    of_networks = np.sqrt(np.maximum(0, ((pairs - expected).prod(axis=1)).mean(axis=0)))
    of_images = np.sqrt((np.diff(pairs, axis=1)[:, 0] ** 2).mean(axis=0) / 2 * n_images / n)
    return {name: tuple(map(float, three)) for name, *three in zip(METRICS, expected, of_networks, of_images, strict=True)}


def _images(methods, signs, key):
    return interval(combine([mean_of(runs) for runs in methods], signs).draws[key])


def _seeds_drawn(methods, signs, key, widen=False):
    """Resample images and seeds. `widen`: multiply the deviations of the runs from their mean by sqrt(R / (R - 1))."""
    rng, total = np.random.default_rng(0), 0
    for sign, runs in zip(signs, methods, strict=True):
        values, draws = np.array([run.values[key] for run in runs]), np.array([run.draws[key] for run in runs])
        factor = np.sqrt(len(runs) / (len(runs) - 1)) if widen else 1
        draws = draws + ((factor - 1) * (values - values.mean()))[:, None]
        total = total + sign * np.take_along_axis(draws, rng.integers(len(runs), size=draws.shape), axis=0).mean(axis=0)
    return interval(total)


def _seeds_widened(methods, signs, key):
    return _seeds_drawn(methods, signs, key, widen=True)


def _satterthwaite(methods, signs, key):
    """Student's t interval with Satterthwaite's degrees of freedom. The variance is that of the image resamples plus that of the seeds."""
    total = combine([mean_of(runs) for runs in methods], signs)
    freedom = np.array([len(runs) - 1 for runs in methods])
    seeds = np.array([np.var([run.values[key] for run in runs], ddof=1) / len(runs) for runs in methods])
    variance = np.nanvar(total.draws[key]) + seeds.sum()
    half = student.ppf(.975, variance ** 2 / (seeds ** 2 / freedom).sum()) * np.sqrt(variance)
    return total.values[key] - half, total.values[key] + half


def _default(methods, signs, key):
    only = [[[BootstrapResult({key: run.values[key]}, {key: run.draws[key]}, {key: 2}, {}) for run in runs]] for runs in methods]
    cell = mean_over_seeds(only, signs).cell(key)
    return cell['low'], cell['high']


WAYS = {'images': _images, 'seeds drawn': _seeds_drawn, 'seeds drawn, widened': _seeds_widened, 'Satterthwaite': _satterthwaite,
        'default': _default}  # name -> function of (runs of each method, signs, key) -> low, high. `default` is what the project reports


def repetition(effect, n, index):
    """-> {(seeds, way, metric): low and high of the difference, then low and high of the first method's mean}"""
    rng = np.random.default_rng([index, n, list(TRAINING_NOISE).index(effect)])
    first, second = tables_of(effect, n, rng)
    figures, found = bootstrap_figures([*first, *second], DRAWS, index, ordered=True), {}
    for r, (way, make), name in product(SEEDS, WAYS.items(), METRICS):
        a, b, key = figures[:r], figures[MOST_SEEDS:MOST_SEEDS + r], ('metrics', name)
        found[r, way, name] = (*make([a, b], (1, -1), key), *make([a], (1,), key))
    return found


def rates(found, expected):
    """-> a row for each number of seeds, way and metric. `found`: results of `repetition`; `expected`: {metric: expected value}."""
    rows = []
    for r, way, name in found[0]:
        low, high, mean_low, mean_high = np.array([one[r, way, name] for one in found]).T
        rows.append({'seeds': r, 'way': way, 'metric': name, 'sets': len(found), 'type_1_error': float(np.mean((low > 0) | (high < 0))),
                     'coverage': float(np.mean((mean_low <= expected[name]) & (expected[name] <= mean_high))),
                     'width_difference': float(np.median(high - low)), 'width_mean': float(np.median(mean_high - mean_low))})
    return rows


def old_and_new(rows, figure):
    """-> Markdown table of `figure` in percent, images alone / default. `rows`: those of `rates`, with 'n' and 'effect' added."""
    table, value = [['test images', 'training noise', 'seeds', *NAMES.values()]], {}
    for row in rows:
        value.setdefault((row['n'], row['effect'], row['seeds']), {})[row['way'], row['metric']] = 100 * row[figure]
    for (n, effect, seeds), of_way in value.items():
        table.append([f'{n:,}', effect, str(seeds), *(f"{of_way['images', name]:.1f} / {of_way['default', name]:.1f}" for name in METRICS)])
    return to_markdown(table)


def ways_markdown(rows, figure, scale=100, digits=1):
    """-> Markdown table of `figure` for every way, as the mean over metrics and test set sizes"""
    columns = list(product(TRAINING_NOISE, SEEDS))
    table = [['interval', *(f'{effect} noise, {seeds} seeds' for effect, seeds in columns)]]
    for way in WAYS:
        means = [np.mean([row[figure] for row in rows if (row['way'], row['effect'], row['seeds']) == (way, effect, seeds)])
                 for effect, seeds in columns]
        table.append([way, *(f'{scale * mean:.{digits}f}' for mean in means)])
    return to_markdown(table)


def report(truths, rows):
    """-> Markdown report. `truths`: {(n, effect): result of `truth`}; `rows`: those of `rates`, with 'n' and 'effect' added."""
    widths = {(row['n'], row['effect'], row['seeds'], row['metric']): row['width_mean'] for row in rows if row['way'] == 'images'}
    relative = [row | {'width': row['width_mean'] / widths[row['n'], row['effect'], row['seeds'], row['metric']]} for row in rows]
    error, coverage = 'Type I error of the difference in percent, nominal 5', 'Coverage of the mean in percent, nominal 95'
    parts = {'Training noise / image noise of one network, standard deviations in percent': noise_markdown(truths),
             f'{error}: images alone / default': old_and_new(rows, 'type_1_error'),
             f'{coverage}: images alone / default': old_and_new(rows, 'coverage'),
             f'{error}, mean over metrics and sizes': ways_markdown(rows, 'type_1_error'),
             f'{coverage}, mean over metrics and sizes': ways_markdown(rows, 'coverage'),
             'Median width of the interval of a mean, relative to images alone': ways_markdown(relative, 'width', 1, 2)}
    return '\n\n'.join(f'{title} ({rows[0]["sets"]} repetitions):\n\n{table}' for title, table in parts.items())


def noise_markdown(truths):
    table = [['test images', 'training noise', *NAMES.values()]]
    table += [[f'{n:,}', effect, *(f'{100 * networks:.1f} / {100 * images:.1f}' for _, networks, images in of_metric.values())]
              for (n, effect), of_metric in truths.items()]
    return to_markdown(table)


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--sets', type=int, default=300, metavar='N', help='repetitions, each with new images and new networks')
    parser.add_argument('--processes', type=int, default=1, metavar='N', help='number of worker processes')
    parser.add_argument('--json', metavar='FILE', help='also write the rates to FILE, updated after every 20 repetitions')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if args.sets < 1 or args.processes < 1:
        raise InputError('--sets and --processes must be at least 1')
    if args.json and not os.path.isdir(os.path.dirname(os.path.abspath(args.json))):
        raise InputError(f'--json {args.json}: the folder does not exist')
    cells = list(product(SIZES, TRAINING_NOISE))
    jobs = [(effect, n, i) for i in range(args.sets) for n, effect in cells]
    found, rows = {cell: [] for cell in cells}, []
    with ProcessPoolExecutor(args.processes) as pool, progress(len(jobs), 'simulated test sets', unit='set') as bar:
        truths = dict(zip(cells, pool.map(truth, *zip(*((effect, n) for n, effect in cells), strict=True)), strict=True))
        for done, ((effect, n, _), intervals) in enumerate(zip(jobs, pool.map(repetition, *zip(*jobs, strict=True)), strict=True), 1):
            found[n, effect].append(intervals)
            bar.update(1)
            if done % (20 * len(cells)) == 0 or done == len(jobs):
                rows = [{'n': n, 'effect': effect} | row for (n, effect), of_cell in found.items()
                        for row in rates(of_cell, {name: value for name, (value, _, _) in truths[n, effect].items()})]
                if args.json:
                    noise = [{'n': n, 'effect': effect, 'metrics': of_metric} for (n, effect), of_metric in truths.items()]
                    write_text(args.json, json.dumps({'truth': noise, 'rows': rows}, indent=1))
    print(report(truths, rows))


if __name__ == '__main__':
    run_script(main)
