"""Subgroups: masks, scores against scikit-learn, unpaired differences against the normal formula, absent classes, outputs of the tools."""
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from tests.factories import random_table
from tests.report_files import write
from tools.compare_experiments import main as compare
from tools.evaluate_predictions import main as evaluate
from tools.report import main as report
from utils.common import InputError
from utils.prediction.predictions import read_predictions
from utils.statistics.folds import pool
from utils.statistics.subgroups import By, groups_of, parse_by, recall_rows, rows_of, subgroup_notes, subgroup_rows, subgroups
from utils.statistics.weighted_metrics import METRIC_NAMES


def with_columns(table, **columns):
    return table._replace(further=pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}))


@pytest.fixture
def table():
    """400 images: 200 of men, 160 of women, 40 of unknown sex; ages 1 to 100 and some without."""
    sex = ['m'] * 200 + ['f'] * 160 + [np.nan] * 40
    ages = [str(i % 100 + 1) if i % 10 else np.nan for i in range(400)]
    return with_columns(random_table(0, n=400), sex=sex, age=ages)


def test_the_flag_names_columns_and_limits():
    assert parse_by(['sex', 'age:0,40.5,60', 'a:b']) == [By('sex'), By('age', (0, 40.5, 60)), By('a:b')]


@pytest.mark.parametrize('word', ['age:40', 'age:60,40', 'age:40,40', 'age:4,,5'])
def test_limits_that_are_not_ascending(word):
    with pytest.raises(InputError, match=f'--by {word}: give two or more ascending limits, such as age:0,40,60,120'):
        parse_by([word])


def test_categories_and_missing_values(table):
    masks = groups_of(table, By('sex'))
    assert {name: mask.sum() for name, mask in masks.items()} == {'f': 160, 'm': 200, 'unknown': 40}
    assert np.all(np.sum(list(masks.values()), axis=0) == 1)


def test_a_category_called_unknown_comes_last_with_the_missing_values(table):
    named = with_columns(table, sex=['unknown'] * 200 + ['x'] * 160 + [np.nan] * 40)
    assert [(name, mask.sum()) for name, mask in groups_of(named, By('sex')).items()] == [('x', 160), ('unknown', 240)]


def test_limits_include_the_first_and_the_last(table):
    ages = pd.to_numeric(table.further.age).to_numpy()
    masks = groups_of(table, By('age', (1, 40, 100)))
    assert list(masks) == ['1 to below 40', '40 to 100', 'unknown']
    assert (masks['1 to below 40'] == ((ages >= 1) & (ages < 40))).all() and (masks['40 to 100'] == ((ages >= 40) & (ages <= 100))).all()
    assert (masks['unknown'] == np.isnan(ages)).all()


def test_values_outside_the_limits_are_unknown(table):
    assert groups_of(table, By('age', (40, 60)))['unknown'].sum() == 400 - groups_of(table, By('age', (40, 60)))['40 to 60'].sum()


@pytest.mark.parametrize(('by', 'message'), [
    (By('weight'), r"--by: x\.csv has no column 'weight' \(further columns: sex, age\)"),
    (By('age'), r'has 90 different values in this column: group numbers by limits, such as --by age:0,40,60,120')])
def test_columns_that_do_not_fit(table, by, message):
    with pytest.raises(InputError, match=message):
        groups_of(table, by)


def test_scores_are_those_of_the_images_of_the_group(table):
    for group in subgroups([table], By('sex'), draws=100):
        mask = groups_of(table, By('sex'))[group.name]
        expected = balanced_accuracy_score(table.labels[mask], table.preds[mask])
        assert group.cells['metrics', 'bacc']['value'] == pytest.approx(expected) and group.n_images == mask.sum()
        assert group.cells['metrics', 'acc']['value'] == pytest.approx((table.labels[mask] == table.preds[mask]).mean())


def test_the_difference_is_unpaired_and_from_the_largest_group(table):
    groups = {group.name: group for group in subgroups([table], By('sex'), draws=4000)}
    assert {group.reference for group in groups.values()} == {'m'} and groups['m'].difference is None
    right = table.labels == table.preds
    shares = {name: (right[mask].mean(), mask.sum()) for name, mask in groups_of(table, By('sex')).items()}
    (p, n), (q, m) = shares['f'], shares['m']
    found = groups['f'].difference['acc']
    half = 1.96 * np.sqrt(p * (1 - p) / n + q * (1 - q) / m)
    assert found['value'] == pytest.approx(p - q) and (found['high'] - found['low']) / 2 == pytest.approx(half, rel=.08)


def test_the_interval_of_a_difference_covers_the_truth():
    """Two groups with the same accuracy of 0.7: the interval contains 0 in about 95 % of 200 simulated test sets."""
    covered = []
    for seed in range(200):
        rng, n = np.random.default_rng(seed), 160
        labels = rng.integers(0, 2, n)
        preds = np.where(rng.random(n) < .7, labels, 1 - labels)
        table = random_table(seed, n=n, names=['a', 'b'])._replace(labels=labels, preds=preds)
        first = subgroups([with_columns(table, site=['A'] * 100 + ['B'] * 60)], By('site'), draws=100)[1]
        covered.append(first.difference['acc']['low'] <= 0 <= first.difference['acc']['high'])
    assert .90 <= np.mean(covered) <= .99


def test_absent_classes_are_named_and_left_out_of_the_difference():
    table = with_columns(random_table(1, n=300, names=['a', 'b', 'c']), site=['A'] * 200 + ['B'] * 100)
    labels = table.labels.copy()
    labels[200:][labels[200:] == 2] = 0
    table = table._replace(labels=labels)
    large, small = subgroups([table], By('site'), draws=100)
    assert small.absent == ['c'] and large.absent == []
    recalls = [[(table.preds[rows][labels[rows] == c] == c).mean() for c in (0, 1)] for rows in (slice(200, 300), slice(0, 200))]
    assert small.difference['bacc']['value'] == pytest.approx(np.mean(recalls[0]) - np.mean(recalls[1]))
    assert subgroup_notes([large, small]) == [
        'B has no image of c. Means are over the other classes']


def test_groups_of_few_images_are_marked(table):
    few = with_columns(rows_of(table, np.arange(400) < 60), sex=['m'] * 40 + ['f'] * 20)
    assert [row[0] for row in subgroup_rows(subgroups([few], By('sex'), draws=100))] == ['sex', 'f (few)', 'm']


def test_a_single_image_and_a_single_class():
    table = with_columns(random_table(2, n=50)._replace(labels=np.zeros(50, int)), site=['A'] * 49 + ['B'])
    _, single = subgroups([table], By('site'), draws=100)
    assert single.n_images == 1 and len(single.absent) == 4 and subgroup_rows([single])[1][0] == 'B (few)'


def test_the_recall_of_each_class_in_each_group(table):
    groups = subgroups([table], By('sex'), draws=100)
    header, *rows = recall_rows(groups)
    assert header == ['recall by sex', *table.class_names] and [row[0] for row in rows] == ['f', 'm', 'unknown']
    mask = groups_of(table, By('sex'))['f'] & (table.labels == 2)
    assert rows[0][3].startswith(f'{100 * (table.preds[mask] == 2).mean():.1f} [') and rows[0][3].endswith(f' of {mask.sum()}')


def test_seeds_are_averaged(table):
    other = table._replace(preds=np.roll(table.preds, 1))
    mean = subgroups([table, other], By('sex'), draws=200)[0]
    each = [subgroups([one], By('sex'), draws=200)[0] for one in (table, other)]
    assert mean.cells['metrics', 'acc']['value'] == pytest.approx(np.mean([one.cells['metrics', 'acc']['value'] for one in each]))
    assert mean.difference['acc']['value'] == pytest.approx(np.mean([one.difference['acc']['value'] for one in each]))


def test_pooled_folds_keep_their_columns(table):
    halves = [rows_of(table, np.arange(400) < 200), rows_of(table, np.arange(400) >= 200)]
    assert pool(halves).further.sex.tolist() == table.further.sex.tolist()


def write_with_columns(path, table):
    write(path, table)
    frame = pd.read_csv(path, dtype=str)
    pd.concat([frame.iloc[:, :1], table.further, frame.iloc[:, 1:]], axis=1).to_csv(path, index=False)
    return str(path)


def test_further_columns_are_read(tmp_path, table):
    found = read_predictions(write_with_columns(tmp_path / 'results_test.csv', table))
    assert found.further.fillna('').equals(table.further.fillna('').astype(found.further.sex.dtype))
    assert list(read_predictions(write(tmp_path / 'a.csv', table)).further) == []


def test_evaluate_predictions(tmp_path, table, capsys):
    csv = write_with_columns(tmp_path / 'results_test.csv', table)
    evaluate([csv, '--draws', '100', '--by', 'sex', 'age:0,50,120', '--json', str(tmp_path / 'a.json')])
    out = capsys.readouterr().out
    assert 'By sex: 400 images. Last column: difference in balanced accuracy, unpaired' in out and '0 to below 50' in out
    saved = json.loads((tmp_path / 'a.json').read_text())['subgroups']
    assert saved['sex']['all']['f']['n'] == 160 and set(saved['sex']['all']['f']['metrics']) == set(METRIC_NAMES)
    assert saved['age']['all']['50 to 120']['reference'] in ('0 to below 50', '50 to 120')


def test_compare_experiments(tmp_path, table, capsys):
    for seed in (0, 1):
        write_with_columns(tmp_path / f'plain/seed{seed}/results_test.csv', table)
    compare([str(tmp_path), '--draws', '100', '--by', 'sex', '--format', 'text'])
    out, err = capsys.readouterr()
    assert 'By sex: mean [95 % interval]; last column: difference' in out and '\nplain         f  160  ' in out
    assert 'recall by sex' in out and '* Warning' not in err
    compare([str(tmp_path), '--draws', '100', '--by', 'sex', '--format', 'latex'])
    tables = capsys.readouterr().out.split(r'\begin{tabular}')[1:]
    assert len(tables) == 3 and tables[1].count(r'plain & ') == tables[2].count(r'plain & ') == 3


def test_report(tmp_path, table):
    csv = write_with_columns(tmp_path / 'results_test.csv', table)
    report([csv, '--draws', '100', '--by', 'sex', '--out', str(tmp_path / 'r.html')])
    page = (tmp_path / 'r.html').read_text()
    assert 'Scores by sex in percent' in page and 'Subgroups' in page
