"""The figures of docs/study.md and of the README against the committed csvs of the studies."""
import re

import pytest

from benchmarks import study_report
from benchmarks.study_draws import published_figures
from benchmarks.study_report import difference_rows, score_rows
from benchmarks.study_table import read_table
from tests.factories import ROOT

PAGE, README = ((ROOT / name).read_text() for name in ('docs/study.md', 'README.md'))


def csv_of(study):
    return str(ROOT / 'benchmarks' / 'results' / f'{study}.csv')


def rows_below(heading):
    """-> the table below a heading of the page, as a list of {column: cell}"""
    lines = PAGE.split(f'\n### {heading}\n')[1].split('\n#')[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in lines if line.startswith('|'))
    return [dict(zip(header, row, strict=True)) for row in rows]


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
def test_the_results_in_the_readme_are_those_of_the_study(cell):
    assert f'| {cell} |' in PAGE


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
