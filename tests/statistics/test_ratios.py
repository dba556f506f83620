"""Ratios: values, counts, means of defined ratios, and intervals of images and patients."""
import numpy as np
import pytest
from scipy.stats import binomtest, norm

from tests.factories import random_table
from utils.statistics.ratios import Ratio, bootstrap_ratios

A, B, NONE, MEAN = ('x', 'a', 'share'), ('x', 'b', 'share'), ('x', 'none', 'share'), ('x', 'all', 'mean')


@pytest.fixture
def table():
    return random_table(0, n=200, names=['a', 'b', 'c'])


def found(table, values, of=None, draws=300, **options):
    """The result for a single share of the images `of`."""
    of = np.ones(len(table.preds), bool) if of is None else of
    return bootstrap_ratios(table, {A: Ratio(values, of)}, draws=draws, **options)


def random_shares(table, seed=1):
    rng = np.random.default_rng(seed)
    return rng.random(len(table.preds)) < .3, rng.random(len(table.preds)) < .6


@pytest.mark.parametrize('patients', [None, 40])
def test_values_and_counts(table, patients):
    values, of = random_shares(table)
    table = table._replace(patient_ids=patients and [str(i % patients) for i in range(200)])
    result = found(table, values, of)
    assert result.values[A] == pytest.approx(sum(values[of]) / sum(of)) and result.counts[A] == of.sum()
    assert result.units[A] == (of.sum() if patients is None else len({i % patients for i in np.flatnonzero(of)}))
    assert result.draws[A].shape == (300,)


def test_values_that_are_no_shares(table):
    values = np.random.default_rng(2).normal(5, 3, 200)
    result = bootstrap_ratios(table, {A: Ratio(values, table.labels == 1, is_share=False)}, draws=2000)
    own = values[table.labels == 1]
    assert result.values[A] == pytest.approx(own.mean()) and A not in result.units
    assert result.draws[A].std() == pytest.approx(own.std() / np.sqrt(len(own)), rel=.08)


def test_draws_are_means_of_resampled_images(table):
    values, of = random_shares(table)
    rng = np.random.default_rng(5)
    resampled = [rng.integers(200, size=200) for _ in range(4000)]
    expected = [values[rows][of[rows]].mean() for rows in resampled]
    draws = found(table, values, of, draws=4000).draws[A]
    np.testing.assert_allclose(np.percentile(draws, (2.5, 50, 97.5)), np.percentile(expected, (2.5, 50, 97.5)), atol=.006)


def test_a_ratio_without_images(table):
    result = found(table, np.ones(200), np.zeros(200, bool))
    cell = result.cell(A)
    assert np.isnan(result.values[A]) and np.isnan(result.draws[A]).all()
    assert (cell['value'], cell['low'], cell['high'], cell['n'], cell['interval']) == (None, None, None, 0, None)


def test_means_ignore_undefined_ratios(table):
    (values, of), every = random_shares(table), np.ones(200, bool)
    ratios = {A: Ratio(values, of), B: Ratio(values, ~of), NONE: Ratio(values, ~every)}
    result = bootstrap_ratios(table, ratios, {MEAN: [A, B, NONE]}, draws=50)
    assert result.values[MEAN] == pytest.approx((values[of].mean() + values[~of].mean()) / 2)
    assert result.draws[MEAN] == pytest.approx((result.draws[A] + result.draws[B]) / 2)
    assert result.counts[MEAN] == 200 and MEAN not in result.units


def test_a_mean_of_undefined_ratios_is_undefined(table):
    result = bootstrap_ratios(table, {NONE: Ratio(np.ones(200), np.zeros(200, bool))}, {MEAN: [NONE]}, draws=20)
    assert result.cell(MEAN)['value'] is None


def test_draws_without_a_rare_image_are_undefined(table):
    draws = found(table, np.ones(200), np.arange(200) == 7, draws=2000).draws[A]
    assert np.isnan(draws).mean() == pytest.approx((1 - 1 / 200) ** 200, abs=.04)
    assert (draws[~np.isnan(draws)] == 1).all()


def test_no_ratios(table):
    assert bootstrap_ratios(table, {}, draws=10).values == {}


@pytest.mark.parametrize('share', [0, .01, .3, .5, 1])
@pytest.mark.parametrize('n', [1, 7, 200])
def test_wilson_interval_of_independent_images(table, share, n):
    of, hits = np.arange(200) < n, round(share * n)
    cell = found(table, np.arange(200) < hits, of).cell(A)
    expected = binomtest(hits, n).proportion_ci(method='wilson')
    assert (cell['low'], cell['high'], cell['interval']) == (pytest.approx(expected.low), pytest.approx(expected.high), 'wilson')


def test_wilson_interval_by_its_formula(table):
    values, of = random_shares(table)
    p, n, z = values[of].mean(), of.sum(), norm.ppf(.975)
    ends = [(p + z ** 2 / 2 / n + sign * z * np.sqrt((p * (1 - p) + z ** 2 / 4 / n) / n)) / (1 + z ** 2 / n) for sign in (-1, 1)]
    cell = found(table, values, of).cell(A)
    assert [cell['low'], cell['high']] == pytest.approx(ends)


def test_one_image_per_patient_is_as_without_patients(table):
    values, of = random_shares(table)
    ids = [f'{i:03d}' for i in range(200)]
    assert found(table._replace(patient_ids=ids), values, of).cell(A) == found(table, values, of).cell(A)


def test_patients_whose_images_agree_widen_the_interval(table):
    values = np.repeat(np.random.default_rng(3).random(20) < .5, 10)
    table_of_patients = table._replace(patient_ids=np.repeat(np.arange(20), 10).astype(str).tolist())
    single, grouped = (found(one, values, draws=2000).cell(A) for one in (table, table_of_patients))
    expected = binomtest(int(values[::10].sum()), 20).proportion_ci(method='wilson')
    assert grouped['high'] - grouped['low'] > 2.5 * (single['high'] - single['low'])
    assert [grouped['low'], grouped['high']] == pytest.approx([expected.low, expected.high], abs=.02)


def test_patients_whose_images_do_not_agree_keep_the_interval(table):
    values = np.random.default_rng(4).random(200) < .4
    table_of_patients = table._replace(patient_ids=[str(i % 100) for i in range(200)])
    single, grouped = (found(one, values, draws=2000).cell(A) for one in (table, table_of_patients))
    assert grouped['high'] - grouped['low'] == pytest.approx(single['high'] - single['low'], rel=.25)


@pytest.mark.parametrize('share', [0, 1])
def test_patients_who_all_agree(table, share):
    table = table._replace(patient_ids=[str(i % 10) for i in range(200)])
    expected = binomtest(10 * share, 10).proportion_ci(method='wilson')
    cell = found(table, np.full(200, share)).cell(A)
    assert [cell['low'], cell['high']] == pytest.approx([expected.low, expected.high])


def test_stratified_draws_keep_the_class_counts(table):
    result = found(table, table.labels == 1, stratified=True)
    assert np.ptp(result.draws[A]) < 1e-12 and result.values[A] == pytest.approx(np.mean(table.labels == 1))


def test_stratified_draws_vary_less(table):
    values = (table.labels == 1) ^ (np.arange(200) % 20 == 0)
    plain, stratified = (found(table, values, draws=1000, stratified=flag).draws[A].std() for flag in (False, True))
    expected = np.sqrt(sum((table.labels == c).sum() * values[table.labels == c].var() for c in range(3))) / 200
    assert stratified == pytest.approx(expected, rel=.1) and plain > 1.5 * stratified


def test_stratified_interval_of_an_overall_share(table):
    assert found(table, random_shares(table)[0], stratified=True).cell(A)['interval'] == 'percentile'


def test_intervals_hold_the_true_share():
    """40 patients with 1 to 7 images that mostly agree: about 95 % of the intervals contain the true share."""
    inside = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(40), rng.integers(1, 8, 40))
        values = rng.random(len(patients)) < np.where(rng.random(40) < .5, .9, .3)[patients]
        table = random_table(0, n=len(patients), names=['a', 'b'])._replace(patient_ids=patients.astype(str).tolist())
        cell = found(table, values, draws=150).cell(A)
        inside.append(cell['low'] <= .6 <= cell['high'])
    assert .90 <= np.mean(inside) <= .99


def test_a_seed_gives_the_same_draws(table):
    first, second, other = (found(table, random_shares(table)[0], seed=seed).draws[A] for seed in (1, 1, 2))
    assert (first == second).all() and (first != other).any()


def test_a_single_image():
    table = random_table(0, n=1, names=['a', 'b'])
    one = np.array([True])
    result = bootstrap_ratios(table, {A: Ratio(one, one), B: Ratio(np.array([3.]), one, is_share=False)}, draws=10)
    assert result.values == {A: 1, B: 3} and result.cell(B)['low'] is None
