"""Intervals over several seeds: Student's t and Welch's formula if only seeds have noise, image draws if only images have noise."""
import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage_seeds import tables_of
from tests.factories import random_table
from utils.statistics.bootstrap import BootstrapResult, bootstrap_metrics, interval
from utils.statistics.comparison import difference, load_methods, summary
from utils.statistics.folds import PAIR, REPEATS, evaluate_files, mean_over_seeds

KEY = ('metrics', 'bacc')


def runs_of(values, draws=None):
    """`BootstrapResult` of one metric for each run: its `values`, and the deviations `draws` (runs, B) or (B,), by default 0."""
    errors = np.broadcast_to(np.zeros(1000) if draws is None else draws, (len(values), 1000))
    return [BootstrapResult({KEY: value}, {KEY: value + error}, {KEY: 50}, {}) for value, error in zip(values, errors, strict=True)]


def seeds_interval(methods, signs=(1,)):
    figures = mean_over_seeds(methods, signs)
    assert figures.with_seeds
    return interval(figures.draws[KEY])


@pytest.mark.parametrize('values', [[.5, .6], [.5, .6, .55], [.71, .68, .7, .69, .75]])
def test_without_image_noise_the_mean_has_the_t_interval_of_the_seeds(values):
    expected = stats.t.interval(.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert seeds_interval([[runs_of(values)]]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(('first', 'second'), [([.5, .6, .55], [.4, .7, .6]), ([.5, .51], [.4, .7, .6, .65, .5])])
def test_without_image_noise_a_difference_has_the_interval_of_welch(first, second):
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(.95)
    assert seeds_interval([[runs_of(first)], [runs_of(second)]], (1, -1)) == pytest.approx(tuple(expected), abs=2e-3)


def test_the_interval_of_a_difference_does_not_depend_on_which_method_is_subtracted():
    rng = np.random.default_rng(0)
    first, second = (runs_of(values, .03 * rng.standard_normal((len(values), 1000))) for values in ([.5, .6, .52], [.4, .47]))
    low, high = seeds_interval([[first], [second]], (1, -1))
    assert seeds_interval([[second], [first]], (1, -1)) == pytest.approx((-high, -low), abs=1e-12)


def test_the_noise_of_a_mean_over_folds_is_that_of_the_seeds_within_the_folds():
    folds = [[.1, .2, .15], [.8, .84]]
    pooled = np.sqrt(sum(((np.array(fold) - np.mean(fold)) ** 2).sum() for fold in folds) / 3)
    expected = stats.t.interval(.95, 3, np.mean([np.mean(fold) for fold in folds]), pooled * np.sqrt(1 / 3 + 1 / 2) / 2)
    assert seeds_interval([[runs_of(fold) for fold in folds]]) == pytest.approx(expected, abs=1e-3)


def test_a_fold_with_one_seed_has_the_noise_of_the_others():
    expected = stats.t.interval(.95, 1, .7, np.std([.5, .6], ddof=1) * np.sqrt(1 / 2 + 1) / 2)
    assert seeds_interval([[runs_of([.5, .6]), runs_of([.85])]]) == pytest.approx(expected, abs=2e-3)


def test_identical_runs_keep_the_draws_of_the_images():
    errors = .03 * np.random.default_rng(0).standard_normal(1000)
    figures = mean_over_seeds([[runs_of([.5] * 4, errors)]])
    assert figures.with_seeds
    np.testing.assert_allclose(figures.draws[KEY], .5 + errors, atol=1e-12)


def test_noise_of_images_and_of_seeds_add_up():
    errors = .03 * np.random.default_rng(0).standard_normal(1000)
    values = .5 + .1 * stats.norm.ppf((np.arange(30) + .5) / 30)
    low, high = seeds_interval([[runs_of(values, errors)]])
    half = stats.t.ppf(.975, 29) * np.sqrt(.03 ** 2 + np.var(values, ddof=1) / 30)
    assert (high - low) / 2 == pytest.approx(half, rel=.05)


def test_errors_on_the_images_that_runs_do_not_share_count_once():
    """Both the spread of the runs and the image draws contain these errors; adding both would make the interval 1.4 times as wide."""
    rng = np.random.default_rng(0)
    errors = .1 * rng.standard_normal((30, 1000))
    values = .5 + .1 * stats.norm.ppf((np.arange(30) + .5) / 30)
    low, high = seeds_interval([[runs_of(values, errors)]])
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(.975, 29) * stats.sem(values), rel=.1)


def test_seeds_that_agree_by_chance_keep_the_draws_of_the_images():
    errors = .1 * np.random.default_rng(0).standard_normal((2, 1000))
    figures = mean_over_seeds([[runs_of([.5, .5], errors)]])
    np.testing.assert_allclose(figures.draws[KEY], .5 + errors.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize('methods', [[[runs_of([.5])]], [[runs_of([.5]), runs_of([.8])]], [[runs_of([.5, .6])], [runs_of([.5])]]])
def test_one_seed_keeps_the_draws_of_the_images(methods):
    figures = mean_over_seeds(methods, (1, -1)[:len(methods)])
    assert not figures.with_seeds and np.ptp(figures.draws[KEY]) < 1e-12


def test_undefined_draws_and_scores_stay_undefined():
    errors = np.where(np.arange(1000) % 10, 0, np.nan)
    figures = mean_over_seeds([[runs_of([.5, .6], errors)]])
    assert np.isnan(figures.draws[KEY]).mean() == .1
    assert np.isnan(mean_over_seeds([[runs_of([.5, np.nan])]]).draws[KEY]).all()


@pytest.mark.parametrize(('key', 'is_difference', 'expected'), [
    (KEY, False, (0, 1)), (KEY, True, (-1, 1)), (('metrics', 'mcc'), False, (-1, 1)), (('metrics', 'kappa'), True, (-2, 2)),
    (('classes', 'x', 'recall'), False, (0, 1)), (('metrics', 'nll'), False, (0, 9)),
    (('operating_points', 'x', 'sensitivity_at_specificity', .9), False, (0, 1))])
def test_intervals_stay_within_what_is_possible(key, is_difference, expected):
    draws = np.repeat([-9., 9.], 50)
    cell = BootstrapResult({key: .5}, {key: draws}, {key: 3}, {}, of='difference' if is_difference else 'mean', with_seeds=True).cell(key)
    assert (cell['low'], cell['high']) == expected


def repeats(n):
    tables = [random_table(seed) for seed in range(n)]
    return [table._replace(labels=tables[0].labels, path=f'{i}.csv') for i, table in enumerate(tables)]


@pytest.mark.parametrize(('n', 'options', 'seeds'), [(1, {}, False), (2, {}, False), (3, {}, True), (3, {'with_seeds': False}, False)])
def test_results_say_whether_their_intervals_cover_seeds(n, options, seeds):
    result = evaluate_files(repeats(n), draws=100, **options)
    assert result['drawn'] == {'unit': 'images', 'within_classes': False, 'seeds': seeds, 'draws': 100}


def test_two_files_are_a_pair_and_three_are_repeats():
    assert [evaluate_files(repeats(n), draws=100)['assumed'] for n in (2, 3)] == [PAIR, REPEATS]


def test_the_mean_of_files_has_the_interval_of_the_method():
    tables = repeats(3)
    method, = load_methods({'a': [table.path for table in tables]}, 100, tables={table.path: table for table in tables})
    of_files, cell = evaluate_files(tables, draws=100, seed=[0, 0])['classes']['DR1']['recall'], summary(method)['classes', 'DR1', 'recall']
    assert [of_files[end] for end in ('value', 'low', 'high')] == [cell[end] for end in ('value', 'low', 'high')]


def test_a_method_with_one_file_has_the_intervals_of_the_file():
    table = random_table(0)
    method, = load_methods({'a': ['x']}, 100, tables={'x': table})
    of_file, of_method = bootstrap_metrics(table, 100, [0, 0], class_count=None), summary(method)
    for key in (('metrics', 'acc'), ('metrics', 'bacc'), ('classes', 'DR1', 'recall'), ('classes', 'DR1', 'f1')):
        expected = of_file[key[0]][key[1]] if len(key) == 2 else of_file[key[0]][key[1]][key[2]]
        assert {name: of_method[key][name] for name in expected} == expected
    assert of_method['metrics', 'acc']['interval'] == 'wilson'


def test_folds_say_that_patients_are_drawn_within_classes():
    folds = [random_table(i)._replace(image_ids=[f'{i}_{j}' for j in range(80)], patient_ids=[f'{i}_{j // 2}' for j in range(80)])
             for i in range(2)]
    expected = {'unit': 'patients', 'within_classes': True, 'seeds': False, 'draws': 100}
    assert evaluate_files(folds, draws=100, stratified=True)['drawn'] == expected


@pytest.mark.parametrize('stratified', [True, False])
def test_draws_within_classes_keep_the_share_of_each_class(stratified):
    table = repeats(1)[0]
    accuracy = evaluate_files([table._replace(preds=np.zeros(80, int))], 100, stratified=stratified)['metrics']['acc']
    assert (accuracy['low'] is None) == stratified  # the same in every stratified draw


def methods_of(csvs, tables, draws=100):
    return load_methods({name: [f'{name}{i}' for i in range(len(of_method))] for name, of_method in csvs.items()}, draws,
                        tables={f'{name}{i}': tables[j] for name, of_method in csvs.items() for i, j in enumerate(of_method)})


@pytest.fixture(scope='module')
def uneven():
    """Two folds (tables 0 to 4 and 5 to 9) with uneven seeds: `a` has three and one, `b` one and three, `single` one and one."""
    tables = [random_table(i)._replace(image_ids=[f'{i // 5}_{j}' for j in range(80)]) for i in range(10)]
    tables = [table._replace(labels=tables[i // 5 * 5].labels) for i, table in enumerate(tables)]
    return methods_of({'a': [0, 1, 2, 5], 'b': [3, 6, 7, 8], 'single': [4, 9]}, tables)


def test_a_mean_weights_folds_equally(uneven):
    values = [run.values[KEY] for run in uneven[0].runs]
    assert summary(uneven[0])[KEY]['value'] == pytest.approx((np.mean(values[:3]) + values[3]) / 2, abs=1e-14)


def test_the_standard_deviation_is_that_over_the_runs(uneven):
    assert summary(uneven[0])[KEY]['sd'] == pytest.approx(np.std([run.values[KEY] for run in uneven[0].runs], ddof=1), abs=1e-14)


@pytest.mark.parametrize('other', [1, 2])
def test_a_difference_is_that_of_the_means_with_other_seeds_in_each_fold(uneven, other):
    cells, (first, second) = difference(uneven[0], uneven[other]), (summary(uneven[i]) for i in (0, other))
    assert [c['value'] for c in cells.values()] == pytest.approx([first[key]['value'] - second[key]['value'] for key in cells], abs=1e-14)


def test_cells_say_what_their_intervals_cover(uneven):
    covers = [cells[KEY]['covers'] for cells in (*map(summary, uneven), difference(*uneven[:2]), difference(uneven[0], uneven[2]))]
    assert covers == ['images and seeds', 'images and seeds', 'images', 'images and seeds', 'images']


def test_seeds_can_be_left_out(uneven):
    cell, draws = summary(uneven[0], with_seeds=False)[KEY], [run.draws[KEY] for run in uneven[0].runs]
    assert cell['covers'] == 'images' and (cell['low'], cell['high']) == pytest.approx(
        interval((np.mean(draws[:3], axis=0) + draws[3]) / 2))


def test_patients_are_named_in_what_is_covered():
    tables = [table._replace(patient_ids=[str(j // 2) for j in range(80)]) for table in repeats(2)]
    assert summary(methods_of({'a': [0, 1]}, tables)[0])[KEY]['covers'] == 'patients and seeds'


def test_methods_of_equal_quality_rarely_differ():
    """30 pairs of methods with three seeds each, and as much training noise as image noise. With image draws alone, 11 pairs differ."""
    wrong = []
    for i in range(30):
        tables = [table for of_method in tables_of('equal', 200, np.random.default_rng(i), n_seeds=3) for table in of_method]
        cell = difference(*methods_of({'a': [0, 1, 2], 'b': [3, 4, 5]}, tables))['metrics', 'mcc']
        wrong.append(cell['low'] > 0 or cell['high'] < 0)
    assert np.mean(wrong) <= .1
