"""Simulate the coverage of the 95 % intervals and the type I error of paired differences, with a known truth.

Five long-tailed classes are Gaussians in six dimensions, so the posterior is known. A simulated network returns this posterior with
noise, and its logits are too large by the factor --sharpness. Test sets have one of three designs: images at random (`random`), fixed
class counts (`fixed`), or patients with 1 to 7 images each (`patients`). The images of a patient share part of their features and usually
their class. A test set that lacks a class is drawn again.

Coverage is how often an interval contains the true value, which comes from a population of a million images. The true ECE uses the same
15 bins, so it does not depend on the size of the test set. It uses the known posterior instead of labels, so it contains no label noise.

For the type I error, two networks have independent noise of the same size. They are equally good, and their errors are correlated. The
type I error is how often the interval of their paired difference excludes 0.

The columns are the kinds of interval. `now` is the interval that this project reports. `within classes` is a percentile interval whose
bootstrap resamples keep the class counts. All other columns resample images (or patients) at random.

Example (half an hour on one CPU core):

  python -m benchmarks.coverage --json coverage.json
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import json

import numpy as np
from scipy.special import log_softmax, softmax
from scipy.stats import beta, norm

from utils.cli import script_parser
from utils.common import run_script, write_text
from utils.prediction.predictions import PredictionTable
from utils.statistics.bootstrap import bootstrap_figures, cell, combine, interval
from utils.statistics.tables import to_markdown
from utils.statistics.weighted_metrics import METRIC_NAMES, N_BINS, WeightedMetrics, bins_of

PRIOR = np.array([.6, .2, .12, .06, .02])
K = len(PRIOR)
NAMES = [f'DR{c}' for c in range(K)]
CENTRES = np.c_[.825 * np.arange(K), 1.2 * np.eye(K)]  # the first dimension orders the classes
SHARPNESS = 1.5
NOISE = .5  # standard deviation, in logits
LEVEL = .9
SIZES = (100, 600, 5000)
DESIGNS = ('random', 'fixed', 'patients')
OPTIONS = {'ordered': True, 'levels': (LEVEL,)}
FIGURES = {('metrics', name): METRIC_NAMES[name] for name in METRIC_NAMES} | {
    ('classes', 'DR4', 'recall'): 'recall, rarest class', ('classes', 'DR4', 'precision'): 'precision, rarest class',
    ('operating_points', 'DR4', 'sensitivity_at_specificity', LEVEL): 'sensitivity at specificity .9, rarest class'}
WITHIN, NOW = 'within classes', 'now'
ANY_FIGURE = (WITHIN, 'percentile', 'basic', 'bias-corrected', 'normal')
METHODS = (*ANY_FIGURE, 'Clopper-Pearson', NOW)


def draw_labels(rng, n, design):
    """-> labels (n,) that contain every class, and the patient index of each image, or None"""
    while True:
        patients = None
        if design == 'fixed':
            labels = np.repeat(np.arange(K), np.round(PRIOR * n).astype(int))
        elif design == 'random':
            labels = rng.choice(K, n, p=PRIOR)
        else:
            patients = np.repeat(np.arange(n // 4), np.resize(np.arange(1, 8), n // 4))
            of_patient = rng.choice(K, n // 4, p=PRIOR)[patients]
            labels = np.where(rng.random(len(patients)) < .8, of_patient, rng.choice(K, len(patients), p=PRIOR))
        if len(np.unique(labels)) == K:
            return labels, patients


def log_posterior(rng, labels, patients=None):
    """Draw the features of each image; images of a patient share half of the variance. -> log posterior (n, K)"""
    x = rng.standard_normal((len(labels), CENTRES.shape[1]))
    if patients is not None:
        x = np.sqrt(.5) * (x + rng.standard_normal((patients.max() + 1, CENTRES.shape[1]))[patients])
    return log_softmax((x + CENTRES[labels]) @ CENTRES.T - (CENTRES ** 2).sum(axis=1) / 2 + np.log(PRIOR), axis=1)


def predict(rng, posterior, labels, patients=None, sharpness=SHARPNESS):
    probs = softmax(sharpness * (posterior + NOISE * rng.standard_normal(posterior.shape)), axis=1)
    ids = patients if patients is None else [f'{p:05}' for p in patients]
    return PredictionTable(list(map(str, range(len(labels)))), labels, probs.argmax(axis=1), probs, NAMES, ids, 'network')


def population(n=10 ** 6, sharpness=SHARPNESS):
    """-> {key of FIGURES: true value}, from `n` images"""
    rng = np.random.default_rng(2019)
    labels = rng.choice(K, n, p=PRIOR)
    posterior = log_posterior(rng, labels)
    table = predict(rng, posterior, labels, sharpness=sharpness)
    values = WeightedMetrics(table, **OPTIONS)(np.ones((n, 1)))
    true = {key: float(values[key][0]) for key in FIGURES}

    def ece(confidence, right):
        return float(np.abs(np.bincount(bins_of(confidence), confidence - right, N_BINS)).sum() / n)
    images, right = np.arange(n), np.exp(posterior)
    true['metrics', 'ece'] = ece(table.probs[images, table.preds], right[images, table.preds])
    true['metrics', 'classwise_ece'] = float(np.mean([ece(table.probs[:, c], right[:, c]) for c in range(K)]))
    return true


def candidates(figures, stratified, key):
    """-> {name in METHODS: (low, high)} for the score `key` of one test set

    `figures` and `stratified` are the set's `BootstrapResult`s, from images resampled at random and within each class.
    """
    value, draws = figures.values[key], figures.draws[key]
    defined = draws[np.isfinite(draws)]
    low, high = interval(draws)
    below = (np.mean(defined < value - 1e-9) + np.mean(defined <= value + 1e-9)) / 2
    z = norm.ppf(np.clip(below, 1 / len(defined), 1 - 1 / len(defined)))
    normal = cell(value, draws, 2, 'normal')
    result = {WITHIN: interval(stratified.draws[key]), 'percentile': (low, high), 'basic': (2 * value - high, 2 * value - low),
              'bias-corrected': tuple(np.percentile(defined, 100 * norm.cdf(2 * z + norm.ppf([.025, .975])))),
              'normal': (normal['low'], normal['high'])}
    if key in figures.units:
        n = figures.counts[key]
        hits = round(value * n)
        result['Clopper-Pearson'] = (beta.ppf(.025, hits, n - hits + 1) if hits else 0.,
                                     beta.ppf(.975, hits + 1, n - hits) if hits < n else 1.)
    now = figures.cell(key)
    return result | {NOW: (now['low'], now['high'])}


def simulate(n, design, sets, draws, true, seed=0, sharpness=SHARPNESS):
    """-> {'coverage', 'width', 'type_i': {score: {method: mean over the test sets in which the score is defined}}} and the settings

    Methods that give no interval for a test set are left out.
    """
    rng = np.random.default_rng([seed, n, DESIGNS.index(design)])
    covers, widths, differs = ({name: {} for name in FIGURES.values()} for _ in range(3))
    for i in range(sets):
        labels, patients = draw_labels(rng, n, design)
        posterior = log_posterior(rng, labels, patients)
        tables = [predict(rng, posterior, labels, patients, sharpness) for _ in range(2)]
        networks, within = (bootstrap_figures(tables, draws, i, stratified, **OPTIONS) for stratified in (False, True))
        pair, pair_within = (combine(figures, (1, -1)) for figures in (networks, within))
        for key, name in FIGURES.items():
            if np.isfinite(networks[0].values[key]):
                for method, (low, high) in candidates(networks[0], within[0], key).items():
                    if low is not None:
                        covers[name].setdefault(method, []).append(low - 1e-9 <= true[key] <= high + 1e-9)
                        widths[name].setdefault(method, []).append(high - low)
            if np.isfinite(pair.values[key]):
                for method, (low, high) in candidates(pair._replace(units={}), pair_within, key).items():
                    if low is not None:
                        differs[name].setdefault(method, []).append(low > 1e-9 or high < -1e-9)
    means = ({name: {method: float(np.mean(found)) for method, found in of.items()} for name, of in table.items()}
             for table in (covers, widths, differs))
    return dict(zip(('coverage', 'width', 'type_i'), means, strict=True)) | {'n': n, 'design': design, 'sets': sets, 'draws': draws}


def coverage_table(result):
    rows = [['figure', *METHODS]]
    for name, coverage in result['coverage'].items():
        rows.append([name, *(f"{100 * coverage[m]:.0f} ({100 * result['width'][name][m]:.1f})" if m in coverage else '-' for m in METHODS)])
    return f"n = {result['n']}, {result['design']}: coverage in % (mean width in hundredths), {result['sets']} sets\n\n{to_markdown(rows)}"


def type_i_table(results):
    """-> Markdown table of the `results` of one design, with a column for each method and size"""
    methods = (WITHIN, 'percentile', 'basic', NOW)
    rows = [['figure', *(f"{method}, n = {r['n']}" for method in methods for r in results)]]
    rows += [[name, *(f"{100 * r['type_i'][name][method]:.1f}" for method in methods for r in results)] for name in FIGURES.values()]
    return f"{results[0]['design']}: type I error of paired differences in %, nominal 5 %\n\n{to_markdown(rows)}"


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--sets', type=int, default=400, metavar='N', help='test sets of each size and design')
    parser.add_argument('--draws', type=int, default=300, metavar='N', help='bootstrap resamples of each test set')
    parser.add_argument('--sizes', type=int, nargs='+', default=list(SIZES), metavar='N', help='sizes of the test sets, in images')
    parser.add_argument('--designs', nargs='+', default=list(DESIGNS), choices=DESIGNS, metavar='DESIGN', help='designs of the test sets')
    parser.add_argument('--sharpness', type=float, default=SHARPNESS, metavar='X', help='factor of the logits; 1 is nearly calibrated')
    parser.add_argument('--json', metavar='FILE', help='write all numbers to FILE, updated after each size and design')
    return parser


def main(args=None):
    args = get_parser().parse_args(args)
    true, results = population(sharpness=args.sharpness), []
    for design in args.designs:
        for n in args.sizes:
            results.append(simulate(n, design, args.sets, args.draws, true, sharpness=args.sharpness))
            print(coverage_table(results[-1]), end='\n\n', flush=True)
            if args.json:
                content = {'true': {name: true[key] for key, name in FIGURES.items()}, 'results': results}
                write_text(args.json, json.dumps(content, indent=1))
        print(type_i_table(results[-len(args.sizes):]), end='\n\n', flush=True)


if __name__ == '__main__':
    run_script(main)
