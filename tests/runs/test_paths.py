"""Names and paths of a run."""
import os

import pytest

from utils.runs.paths import counterpart, name_below, name_of_run, without_checkpoint


@pytest.mark.parametrize(('folder', 'name'), [
    ('experiments/eyepacs/2stage/BSCE/epoch_07_K_1', 'eyepacs/2stage/BSCE'), ('/x/experiments/a/last', 'a'), ('/models/best', 'best'),
    ('/x/experiments/a/last_try', 'a/last_try'), ('/x/experiments', 'experiments'), ('experiments/a/epoch_1/', 'a')])
def test_name_of_run(folder, name):
    assert name_of_run(folder) == name


@pytest.mark.parametrize(('path', 'run'), [
    ('experiments/a/epoch_07_K_1', 'experiments/a'), ('experiments/a/last/', 'experiments/a'), ('experiments/a', 'experiments/a')])
def test_without_checkpoint(path, run):
    assert without_checkpoint(path) == run


@pytest.mark.parametrize(('path', 'name'), [('/x/results/a/b', 'a/b'), ('/results/x/results/a', 'a'), ('/x/y', 'y')])
def test_name_below(path, name):
    assert name_below(path, 'results') == name


def test_counterpart(tmp_path, monkeypatch):
    for folder in ('experiments/a/b', 'results/a/b', 'results/c'):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert counterpart('results/a/b', 'results', 'experiments') == os.path.join('experiments', 'a', 'b')
    assert counterpart(str(tmp_path / 'experiments/a/b'), 'experiments', 'results') == str(tmp_path / 'results/a/b')
    assert counterpart('results/c', 'results', 'experiments') is None and counterpart('elsewhere', 'results', 'experiments') is None
