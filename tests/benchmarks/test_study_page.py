"""The figures of docs/study.md, docs/datasets.md and the README against the committed csvs."""
import re

import pandas as pd
import pytest

from benchmarks import study_report
from benchmarks.study_draws import published_figures
from benchmarks.study_report import common_seeds, difference, difference_rows, score_rows, shown_difference, with_baseline_of
from benchmarks.study_table import SCORES, key_of, read_table
from tests.factories import ROOT

PAGE, DATASETS, README = ((ROOT / name).read_text() for name in ('docs/study.md', 'docs/datasets.md', 'README.md'))


def csv_of(study):
    return str(ROOT / 'benchmarks' / 'results' / f'{study}.csv')


def tables_below(heading, page=PAGE):
    """-> the tables below a heading of a page, each as a list of {column: cell}"""
    tables = []
    for part in page.split(f'# {heading}\n')[1].split('\n#')[0].split('\n\n'):
        if part.startswith('|'):
            header, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in part.splitlines())
            tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def rows_below(heading):
    """-> the only table below a heading of the page, as a list of {column: cell}"""
    (rows,) = tables_below(heading)
    return rows


def scores_in(study, name, method, scores):
    """-> the cells 'mean ± standard deviation' of a method on the set `name`"""
    table = read_table(csv_of(study)).query('set == @name and method == @method')
    return score_rows(table, scores)[1][3:]


def without_padding(text):
    return re.sub('-+', '-', re.sub(' +', ' ', text))


def test_the_tables_of_all_methods_are_those_of_the_report(capsys):
    study_report.main(['--table', csv_of('study_pretrained')])
    tables = [part.strip() for part in capsys.readouterr().out.split('\n\n') if part.startswith('|')]
    page = without_padding(PAGE)
    assert tables and [table for table in tables if without_padding(table) not in page] == []


@pytest.mark.parametrize('cell', re.findall(r'\d+\.\d ± \d+\.\d', README))
def test_the_results_in_the_readme_are_those_of_a_page(cell):
    assert f'| {cell} |' in PAGE + DATASETS


@pytest.mark.parametrize(('column', 'study'), [('pretrained, not tuned', 'study_untuned'), ('pretrained, tuned', 'study_pretrained')])
def test_the_gains_without_and_with_tuning(column, study):
    rows = read_table(csv_of(study)).query('set == "isic8_lt"')
    gains = {method: gain for method, _, gain, *_ in difference_rows(published_figures(csv_of(study), rows))}
    compared = [row for row in rows_below('How much is left when plain training is tuned') if row['method'] in gains]
    assert compared and [row[column] for row in compared] == [gains[row['method']] for row in compared]


@pytest.mark.parametrize(('name', 'method', 'row'), [(row['set'], row['method'], row) for row in rows_below('Probabilities')])
def test_the_scores_of_corrected_probabilities(name, method, row):
    assert scores_in('study_probabilities', name, method, ['bacc', 'mcc', 'nll', 'ece']) == [
        row['balanced accuracy'], row['MCC'], row['NLL'], row['ECE']]


@pytest.mark.parametrize('row', rows_below('Larger images'), ids=lambda row: f"{row['set']}, {row['image size']}")
def test_the_scores_of_larger_images(row):
    study = 'study_pretrained' if row['image size'] == '128x128' else 'study_larger'
    method = 'BSCE + 8 copies' if 'dihedral' in row['test-time augmentation'] else 'BSCE'
    assert scores_in(study, row['set'], method, ['bacc', 'mcc', 'auc']) == [row['balanced accuracy'], row['MCC'], row['macro-AUC']]


@pytest.mark.parametrize(('name', 'study', 'method', 'baseline', 'score'), [
    ('idrid', 'study_paper', 'CE', 'CE', 'mcc'), ('idrid', 'study_paper', 'CE', 'CE', 'bacc'),
    ('ham_small', 'study_paper', 'CE', 'CE', 'bacc'), ('isic8_lt', 'study_larger', 'BSCE', 'BSCE', 'bacc'),
    ('isic8_lt', 'study_larger', 'BSCE + 8 copies', 'BSCE', 'mcc')])
def test_differences_from_the_pretrained_study(name, study, method, baseline, score):
    rows = read_table(csv_of(study)).query('set == @name')
    figures = with_baseline_of(csv_of('study_pretrained'), published_figures(csv_of(study), rows), baseline, name)
    cell = difference(figures, method, f'{baseline} of study_pretrained.csv').cell(key_of(score))
    assert shown_difference(score, cell) in PAGE


@pytest.mark.parametrize('training', ['paper', 'paper_BSCE', 'finetune'])
def test_the_scores_on_retinamnist(training):
    found, = (row for row in tables_below('MedMNIST', DATASETS)[1] if row['training'] == f'`{training}`')
    table = pd.read_csv(csv_of('retinamnist')).query('method == @training').set_index('metric')
    titles = {'accuracy': 'acc', 'macro-AUC': 'auc', 'balanced accuracy': 'bacc', 'quadratic kappa': 'kappa', 'MCC': 'mcc'}
    expected = {title: f'{100 * table["mean"][score]:.1f} ± {100 * table.sd[score]:.1f}' for title, score in titles.items()}
    assert found == {'training': f'`{training}`', **expected}


CHANGES = {'none': ('CE', 'Balanced-MixUp'), 'batches of 32': ('CE (batch 32)', 'Balanced-MixUp (batch 32)'),
           'step schedule': ('CE (step)', 'Balanced-MixUp (step)'),
           'step schedule, epoch by loss': ('CE (step, by loss)', 'Balanced-MixUp (step, by loss)'),
           'step schedule, 60 epochs': ('CE (step, 60 epochs)', 'Balanced-MixUp (step, 60 epochs)'),
           'one lambda per image': ('CE', 'Balanced-MixUp (per image)'), 'Beta(alpha, alpha)': ('CE', 'Balanced-MixUp (symmetric)'),
           'step schedule, last 10 epochs unmixed': ('CE (step)', 'Balanced-MixUp (step, off at the end)')}


@pytest.mark.parametrize(('name', 'change', 'found'), [
    (name, row['change'], row)
    for name, table in zip(('idrid', 'ham_small'), tables_below('One change at a time'), strict=True) for row in table])
def test_one_change_at_a_time(name, change, found):
    plain, mixed = CHANGES[change]
    rows = read_table(csv_of('study_paper')).query('set == @name')
    figures = published_figures(csv_of('study_paper'), rows)
    rows, result = rows[rows.seed.isin(common_seeds(figures, mixed, plain))], difference(figures, mixed, plain)
    compared = [score for score, title in SCORES.items() if f'difference in {title} [95 %]' in found]
    assert [*found.values()][1:] == [*(score_rows(rows[rows.method == method], ['bacc'])[1][3] for method in (plain, mixed)),
                                     *(shown_difference(score, result.cell(key_of(score))) for score in compared)]


@pytest.mark.parametrize(('seeds', 'studies'), [
    ('0 to 2', ['study_pretrained']), ('3 to 5', ['study_stage_one']), ('0 to 5', ['study_pretrained', 'study_stage_one'])])
def test_balanced_mixup_as_stage_one(seeds, studies):
    found, = (row for row in rows_below('Balanced-MixUp as stage one') if row['seeds'] == seeds)
    methods, tables, runs = ('CE, BSCE', 'Balanced-MixUp, BSCE'), [], {}
    for study in studies:
        tables.append(read_table(csv_of(study)).query('set == "ham_small"'))
        for method, of_seed in published_figures(csv_of(study), tables[-1]).items():
            runs[method] = runs.get(method, {}) | of_seed
    rows, result = pd.concat(tables), difference(runs, *methods[::-1])
    assert [*found.values()][1:] == [*(score_rows(rows[rows.method == method], ['bacc'])[1][3] for method in methods),
                                     *(shown_difference(score, result.cell(key_of(score))) for score in ('bacc', 'mcc', 'nll'))]


@pytest.mark.parametrize('loss', ['CE', 'BSCE', 'CDT'])
def test_the_scores_on_cifar10_lt(loss):
    found, = (row for row in tables_below('CIFAR-LT', DATASETS)[0] if loss in re.findall(r'\w+', row['loss']))
    table = pd.read_csv(csv_of('cifar10_lt')).query('method == @loss').set_index('metric')
    gain, low, high = (f'{100 * table[column]["acc"]:+.1f}' for column in ('difference', 'difference_low', 'difference_high'))
    titles = {'accuracy': 'acc', 'MCC': 'mcc', 'macro-AUC': 'auc', 'recall, 81 images': 'recall ship', 'recall, 49 images': 'recall truck'}
    assert {title: found[title] for title in titles} == {title: f'{100 * table["mean"][score]:.1f}' for title, score in titles.items()}
    assert found['difference [95 %]'] == ('-' if loss == 'CE' else f'{gain} [{low}, {high}]')


@pytest.mark.parametrize(('name', 'heading'), [('ham_small', 'HAM10000 with the training of the paper'),
                                               ('idrid', 'IDRiD with the training of the paper')])
class TestTrainingOfThePaper:
    def test_scores(self, name, heading):
        scores = {title: score for score, title in SCORES.items()}
        for row in tables_below(heading)[0]:
            found = scores_in('study_paper', name, row['method'], [scores[title] for title in row if title in scores])
            assert found == [cell for title, cell in row.items() if title in scores]

    def test_validation_scores(self, name, heading):
        table = read_table(csv_of('study_paper')).query('set == @name').groupby('method')
        for row in tables_below(heading)[0]:
            title, = (title for title in row if title.startswith('validation '))
            score = {f'validation {title}': f'val_{score}' for score, title in SCORES.items()}[title]
            values = 100 * table.get_group(row['method'])[score]
            assert row[title] == f'{values.mean():.1f} ± {values.std():.1f}'

    def test_differences(self, name, heading):
        scores, differences = tables_below(heading)
        rows = read_table(csv_of('study_paper')).query('set == @name')
        rows = rows[rows.method.isin([row['method'] for row in scores])]
        header, *expected = difference_rows(published_figures(csv_of('study_paper'), rows))
        assert sorted(map(list, map(dict.values, differences))) == sorted(expected)
        assert [*differences[0]] == header
