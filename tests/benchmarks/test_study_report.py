"""The table of a study, and the tables of its report, against independent computations."""
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from benchmarks import study_report
from benchmarks.study_draws import publish, published_figures, read_figures
from benchmarks.study_report import complete, difference, difference_rows, markdown, mean_ranks, score_rows, shown_difference
from benchmarks.study_table import SCORES, add_row, key_of, predictions_of, read_table, scores_of
from tests.factories import ROOT
from utils.common import InputError
from utils.statistics.bootstrap import BootstrapResult

COUNT = [150, 40, 5]  # training images: one class in each shot group
SETS, METHODS, SEEDS = ('skin', 'eyes'), ('CE', 'BSCE', 'CE, cRT'), (0, 1, 2)


def write_predictions(path, seed, names, n=90):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % len(names)
    probs = rng.dirichlet(np.ones(len(names)), n) + .4 * np.eye(len(names))[y] * rng.random((n, 1))
    table = pd.DataFrame(probs / probs.sum(axis=1, keepdims=True), columns=[f'p_{name}' for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    table.assign(image_id=[f'i{i}' for i in range(n)], label=y, pred=probs.argmax(axis=1)).to_csv(path, index=False)
    return y, table.to_numpy()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Results of a study with random predictions: two sets, three methods, three seeds. The classes of `eyes` are grades."""
    folder = tmp_path_factory.mktemp('results')
    for i, (data, method, seed) in enumerate((data, method, seed) for data in SETS for method in METHODS for seed in SEEDS):
        csv = predictions_of(str(folder), data, method, seed)
        write_predictions(folder / csv, i, [f'DR{c}' for c in range(3)] if data == 'eyes' else list('abc'))
        add_row(str(folder), {'set': data, 'method': method, 'seed': seed} | scores_of(csv, COUNT))
    (folder / 'settings.json').write_text(json.dumps({'sets': dict.fromkeys(SETS, COUNT)}))
    return folder


@pytest.fixture(scope='module')
def table(folder):
    return read_table(folder / 'study.csv')


def expected_ece(y, probs, n_bins=15):
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == y
    ece = 0.
    for b in range(n_bins):
        inside = (confidence > b / n_bins) & (confidence <= (b + 1) / n_bins)
        ece += abs((confidence[inside] - right[inside]).sum()) / len(y)
    return ece


def test_scores_equal_those_of_scikit_learn(tmp_path):
    y, probs = write_predictions(tmp_path / 'p.csv', 7, ['DR0', 'DR1', 'DR2'])
    pred = probs.argmax(axis=1)
    recall = sk.recall_score(y, pred, average=None)
    expected = {'bacc': sk.balanced_accuracy_score(y, pred), 'mcc': sk.matthews_corrcoef(y, pred),
                'f1': sk.f1_score(y, pred, average='macro'), 'auc': sk.roc_auc_score(y, probs, multi_class='ovr'),
                'nll': sk.log_loss(y, probs), 'ece': expected_ece(y, probs), 'many': recall[0], 'medium': recall[1], 'few': recall[2],
                'kappa': sk.cohen_kappa_score(y, pred, weights='quadratic')}
    assert scores_of(str(tmp_path / 'p.csv'), COUNT) == pytest.approx(expected, abs=1e-6)


def test_only_grades_have_a_kappa(table):
    assert table.groupby('set').kappa.count().to_dict() == {'eyes': 9, 'skin': 0}


def test_no_row_is_lost_if_several_threads_write(tmp_path):
    rows = [{'set': 'a', 'method': 'CE', 'seed': seed, 'bacc': .5} for seed in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: add_row(str(tmp_path), row), rows))
    assert read_table(tmp_path / 'study.csv').seed.tolist() == list(range(20))


def test_a_row_replaces_that_of_the_same_run(tmp_path):
    for bacc in (.5, .6):
        add_row(str(tmp_path), {'set': 'a', 'method': 'CE', 'seed': 0, 'bacc': bacc})
    assert read_table(tmp_path / 'study.csv').bacc.tolist() == [.6]


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r'there is no .*study\.csv: run benchmarks\.study first'):
        read_table(tmp_path / 'study.csv')


def test_another_csv_is_an_error(tmp_path):
    (tmp_path / 'a.csv').write_text('method,bacc\nCE,1\n')
    with pytest.raises(InputError, match='is not the table of a study: it has no column set, seed'):
        read_table(tmp_path / 'a.csv')


def test_mean_ranks_equal_those_of_scipy(table):
    ranks = mean_ranks(table)
    for score in study_report.RANKED:
        sign = 1 if score == 'nll' else -1
        scores = table.pivot_table(index='set', columns='method', values=score)  # means over the seeds
        expected = np.mean([stats.rankdata(sign * row) for row in scores.to_numpy()], axis=0)
        assert ranks.loc[scores.columns, score].to_numpy() == pytest.approx(expected)


def test_equal_scores_share_a_rank():
    rows = [{'set': 'a', 'method': method, 'seed': 0} | dict.fromkeys(study_report.RANKED, .5) for method in METHODS]
    assert (mean_ranks(pd.DataFrame(rows)) == 2).all(axis=None)


def test_only_sets_that_have_all_methods_are_ranked(table):
    assert complete(table[(table.set != 'eyes') | (table.method != 'BSCE')]).set.unique().tolist() == ['skin']


def test_a_method_with_fewer_seeds_is_ranked_by_those_it_has():
    rows = [{'set': 'a', 'method': method, 'seed': seed} | dict.fromkeys(study_report.RANKED, score)
            for method, scores in {'CE': (.5, .7), 'BSCE': (.61,)}.items() for seed, score in enumerate(scores)]
    assert mean_ranks(pd.DataFrame(rows)).bacc.to_dict() == {'BSCE': 1, 'CE': 2}


def test_scores_are_means_and_standard_deviations_over_the_seeds(table):
    skin = table[table.set == 'skin']
    header, *rows = score_rows(skin, ['bacc'])
    for row in rows:
        own = 100 * skin[skin.method == row[0]].bacc
        assert row[header.index('balanced accuracy')] == f'{own.mean():.1f} ± {own.std():.1f}'


def test_a_single_seed_has_no_standard_deviation(table):
    assert '±' not in str(score_rows(table[(table.set == 'skin') & (table.seed == 0)], SCORES))


def test_scores_that_no_row_has_are_left_out(table):
    assert 'quadratic kappa' not in score_rows(table[table.set == 'skin'], SCORES)[0]
    assert 'quadratic kappa' in score_rows(table[table.set == 'eyes'], SCORES)[0]


def test_recall_in_the_shot_groups_has_a_table_of_its_own(table):
    skin = table[table.set == 'skin']
    few = 100 * skin[skin.method == 'CE'].few
    assert f'{few.mean():.1f} ± {few.std():.1f}' in study_report.recall_section(skin)[1]
    assert 'recall' not in markdown(table.drop(columns=['many', 'medium', 'few']), lambda rows: {})


def test_the_difference_is_that_of_the_means_over_the_seeds(folder, table):
    skin = table[table.set == 'skin']
    figures = read_figures(str(folder), skin, draws=50)
    means = skin.groupby('method').nll.mean()
    cell = difference(figures, 'BSCE').cell(key_of('nll'))
    assert cell['value'] == pytest.approx(means['BSCE'] - means['CE'], abs=1e-5) and cell['low'] < cell['value'] < cell['high']


def figures_of(scores, noise=0.):
    """{method: {seed: score}} -> what `read_figures` returns, with this value of all scores. `noise`: standard error by the images"""
    rng, keys = np.random.default_rng(0), [key_of(score) for score in study_report.COMPARED]
    return {method: {seed: BootstrapResult(dict.fromkeys(keys, value), {key: value + noise * rng.normal(size=4001) for key in keys},
                                           dict.fromkeys(keys, 90), {}) for seed, value in of_method.items()}
            for method, of_method in scores.items()}


BASE, OTHER = {0: .41, 1: .52, 2: .66}, {0: .46, 1: .56, 2: .72}  # two methods; most of the spread over the seeds is the same


def test_a_post_hoc_correction_is_compared_within_each_seed():
    cell = difference(figures_of({'CE': BASE, 'CE + logit adjustment': OTHER}), 'CE + logit adjustment').cell(key_of('bacc'))
    expected = stats.ttest_rel([*OTHER.values()], [*BASE.values()]).confidence_interval()
    assert (cell['low'], cell['high']) == pytest.approx((expected.low, expected.high), rel=.02)


@pytest.mark.parametrize('method', ['BSCE', 'CE, cRT', 'CE, BSCE'])
def test_seeds_of_a_method_with_its_own_trainings_are_independent_of_the_baseline(method):
    cell = difference(figures_of({'CE': BASE, method: OTHER}), method).cell(key_of('bacc'))
    expected = stats.ttest_ind([*OTHER.values()], [*BASE.values()], equal_var=False).confidence_interval()
    assert (cell['low'], cell['high']) == pytest.approx((expected.low, expected.high), rel=.02)


@pytest.mark.parametrize(('method', 'baseline'), [('BSCE', 'BSCE + calibration'), ('BSCE + 8 copies', 'BSCE + calibration')])
def test_methods_with_the_same_networks_are_compared_within_each_seed(method, baseline):
    cell = difference(figures_of({baseline: BASE, method: OTHER}), method, baseline).cell(key_of('bacc'))
    expected = stats.ttest_rel([*OTHER.values()], [*BASE.values()]).confidence_interval()
    assert (cell['low'], cell['high']) == pytest.approx((expected.low, expected.high), rel=.02)


def test_the_baseline_can_be_chosen(folder, table):
    figures = read_figures(str(folder), table[table.set == 'skin'], draws=50)
    caption, rows = study_report.difference_section(figures, 'BSCE')
    assert caption.startswith('Difference from BSCE ') and '| CE ' in rows and '| BSCE ' not in rows


def test_a_baseline_without_a_row_is_an_error():
    with pytest.raises(InputError, match=r'^--baseline BSEC: the study has no such method, only Balanced-MixUp, '):
        study_report.main(['--table', str(ROOT / 'benchmarks' / 'results' / 'study_paper.csv'), '--baseline', 'BSEC'])


RESULTS = ROOT / 'benchmarks' / 'results'


def test_the_baseline_can_come_from_another_csv(capsys):
    study_report.main(['--table', str(RESULTS / 'study_larger.csv'), '--baseline', 'BSCE',
                       '--baseline_csv', str(RESULTS / 'study_pretrained.csv')])
    means = {study: read_table(RESULTS / f'{study}.csv').query('set == "isic8_lt" and method == "BSCE"').bacc.mean()
             for study in ('study_larger', 'study_pretrained')}
    _, rows = capsys.readouterr().out.split('Difference from BSCE of study_pretrained.csv over the seeds of both:\n\n')
    found, = (row for row in rows.split('\n\n')[0].splitlines() if row.startswith('| BSCE  '))
    assert f"{100 * (means['study_larger'] - means['study_pretrained']):+.1f} [" in found


def test_a_baseline_of_other_test_images_is_an_error(published):
    figures = {'CE': {0: BootstrapResult({}, {}, {key_of('bacc'): 89}, {})}}
    with pytest.raises(InputError, match=r'^--baseline_csv .*all\.csv: skin has other test images there$'):
        study_report.with_baseline_of(published, figures, 'BSCE', 'skin')


def test_the_scores_of_a_folder_can_be_compared_with_a_published_csv(folder, table, published):
    figures = study_report.with_baseline_of(published, read_figures(str(folder), table[table.set == 'eyes']), 'CE', 'eyes')
    assert difference(figures, 'CE', 'CE of all.csv').values[key_of('bacc')] == pytest.approx(0, abs=1e-5)


def test_a_set_without_the_baseline_in_the_other_csv_has_no_difference(published):
    figures = study_report.with_baseline_of(published, figures_of({'BSCE': OTHER}), 'CE', 'another set')
    assert study_report.difference_section(figures, 'CE of all.csv') == []


def test_a_baseline_that_the_other_csv_lacks_is_an_error():
    with pytest.raises(InputError, match=r'^--baseline FOCAL: the study has no such method, only '):
        study_report.main(['--table', str(RESULTS / 'study_paper.csv'), '--baseline', 'FOCAL',
                           '--baseline_csv', str(RESULTS / 'study_pretrained.csv')])


@pytest.mark.parametrize('method', ['BSCE', 'CE + tau-norm'])
def test_a_difference_is_over_the_seeds_of_both(method):
    figures = figures_of({'CE': {0: .4, 1: .5, 5: .9}, method: {1: .53, 5: .9, 7: 0.}})
    assert difference(figures, method).values[key_of('bacc')] == pytest.approx((.53 + .9 - .5 - .9) / 2)


def test_a_star_marks_intervals_that_cover_test_images_only():
    figures = figures_of({'CE': {0: .4, 1: .5}, 'BSCE': {0: .5, 1: .61}, 'CE + tau-norm': {1: .5, 2: .6}}, noise=.01)
    header, *rows = study_report.difference_rows(figures)
    assert header[1] == 'seeds' and [row[:2] for row in rows] == [['BSCE', '2'], ['CE + tau-norm', '1*']]
    assert study_report.difference_section(figures)[0].endswith('(*: one seed, so the interval covers test images only):')


def test_no_star_is_explained_if_there_is_none():
    assert study_report.difference_section(figures_of({'CE': BASE, 'BSCE': OTHER}))[0] == 'Difference from CE over the seeds of both:'


def test_methods_without_a_seed_of_the_baseline_have_no_difference():
    assert study_report.difference_section(figures_of({'CE': {0: .4}, 'BSCE': {1: .5}})) == []


def test_missing_ranks_are_explained(table):
    partial = table[((table.method == 'CE') & (table.set == 'skin')) | ((table.method == 'BSCE') & (table.set == 'eyes'))]
    assert markdown(partial, lambda rows: {}).endswith('## Mean ranks\n\nNo set has all methods yet.\n')


@pytest.mark.parametrize(('cell', 'text'), [
    (('bacc', .012, -.01, .034), '+1.2 [-1.0, +3.4]'), (('nll', .012, -.01, .034), '+0.01 [-0.01, +0.03]'),
    (('bacc', .012, None, None), '+1.2')])
def test_the_text_of_a_difference(cell, text):
    score, *ends = cell
    assert shown_difference(score, dict(zip(('value', 'low', 'high'), ends, strict=True))) == text


def test_the_tables_of_a_csv_are_those_of_its_folder_without_differences(folder, table, capsys):
    study_report.main(['--table', str(folder / 'study.csv')])
    alone = capsys.readouterr().out.strip()
    parts = markdown(table, lambda rows: read_figures(str(folder), rows, draws=20)).split('\n\n')
    start = [i for i, part in enumerate(parts) if part.startswith('Difference from CE')]
    assert len(start) == 2
    assert '\n\n'.join(part for i, part in enumerate(parts) if i not in start and i - 1 not in start).strip() == alone


def test_the_committed_study_can_be_tabulated(capsys):
    study_report.main(['--table', str(ROOT / 'benchmarks' / 'results' / 'study.csv')])
    assert '| class sampling         |     3 |       1.2 |        48.0 ± 4.2 | 43.2 ± 4.5 |' in capsys.readouterr().out


@pytest.fixture(scope='module')
def published(folder, tmp_path_factory):
    """-> csv of the published study"""
    csv = str(tmp_path_factory.mktemp('published') / 'all.csv')
    publish(str(folder), csv)
    return csv


def test_a_published_study_has_the_rows_of_its_folder(table, published):
    pd.testing.assert_frame_equal(read_table(published), table)


@pytest.mark.parametrize('score', study_report.COMPARED)
def test_a_published_study_has_the_intervals_of_its_folder(folder, table, published, score):
    eyes = table[table.set == 'eyes']
    cell, expected = (difference(figures, 'BSCE').cell(key_of(score))
                      for figures in (published_figures(published, eyes), read_figures(str(folder), eyes)))
    assert [cell[part] for part in ('value', 'low', 'high')] == pytest.approx(
        [expected[part] for part in ('value', 'low', 'high')], abs=3e-4)


@pytest.mark.parametrize(('name', 'has_kappa'), [('eyes', True), ('skin', False)])
def test_only_grades_have_a_difference_in_kappa(table, published, name, has_kappa):
    header, *_ = difference_rows(published_figures(published, table[table.set == name]))
    assert ('quadratic kappa [95 %]' in header) == has_kappa


def test_draws_without_kappa_are_compared_by_the_other_scores(table, published, tmp_path):
    csv = str(tmp_path / 'old.csv')
    with np.load(published.replace('.csv', '.npz')) as saved:
        np.savez(csv.replace('.csv', '.npz'), **{name: array[:3] if '|' in name else array for name, array in saved.items()})
    old, new = (difference_rows(published_figures(path, table[table.set == 'eyes'])) for path in (csv, published))
    assert old == [row[:5] for row in new] and len(new[0]) == 6


def test_parts_of_a_study_are_published_in_the_same_files(folder, table, published, tmp_path):
    csv, part = str(tmp_path / 'all.csv'), tmp_path / 'part'
    for name in SETS:
        shutil.copytree(folder / name, part / name)
        shutil.copyfile(folder / 'settings.json', part / 'settings.json')
        table[table.set == name].to_csv(part / 'study.csv', index=False)
        publish(str(part), csv)
        shutil.rmtree(part)
    of_parts, of_all = (np.load(path.replace('.csv', '.npz')) for path in (csv, published))
    assert {name: of_parts[name].tolist() for name in of_parts} == {name: of_all[name].tolist() for name in of_all}


def test_runs_without_draws_have_no_difference(folder, table):
    assert published_figures(str(folder / 'study.csv'), table) == {}


@pytest.mark.parametrize('n_bytes', [0, 2, 1000])
def test_an_npz_that_cannot_be_read_is_an_error(table, published, tmp_path, n_bytes):
    (tmp_path / 'a.npz').write_bytes(Path(published).with_suffix('.npz').read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=r'a\.npz cannot be read .* delete it to print the tables without intervals'):
        published_figures(str(tmp_path / 'a.csv'), table)


def test_publishing_prints_the_tables_of_the_published_study(folder, tmp_path, capsys):
    csv = str(tmp_path / 'all.csv')
    for words in ([str(folder), '--publish', csv], ['--table', csv]):
        study_report.main(words)
    both = capsys.readouterr().out
    assert both == 2 * both[:len(both) // 2] and both.count('Difference from CE') == 4


def test_only_a_results_folder_can_be_published(capsys):
    with pytest.raises(SystemExit):
        study_report.main(['--table', 'a.csv', '--publish', 'b.csv'])
    assert '--publish needs the results folder instead of --table' in capsys.readouterr().err
