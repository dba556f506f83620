"""The current code loads, tests and resumes runs of version 0.1."""
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import train_lt_mxp
import utils
from tests.factories import ROOT
from tests.make_run_fixtures import COMMON, FLAGS
from tools import report
from utils.common import InputError
from utils.model_saving_loading import load_model, read_checkpoint, save_model
from utils.prediction.predictions import read_predictions
from utils.report.runs import find_runs, series
from utils.runs.formats import FORMAT, PUBLISHED_ALPHAS, read_config, upgrade
from utils.testing import scoring
from utils.training.mixing import MIXING

ARCHIVE = ROOT / 'tests' / 'fixtures' / 'runs_0.1.zip'


@pytest.fixture
def old_runs(tmp_path, monkeypatch):
    """Unpack the runs of version 0.1 into the working folder."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)


def train(name, flags):
    train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(f'{COMMON} {FLAGS[name]} --save_path {name} {flags}'.split()))


@pytest.mark.parametrize('name', ['after_epoch', 'within_epoch'])
def test_a_resumed_old_run_equals_the_uninterrupted_one(old_runs, name):
    train(name, '--resume')
    resumed, whole = (read_checkpoint(f'experiments/{run}/last')['state_dict'] for run in (name, f'{name}_whole'))
    for key, tensor in whole.items():
        torch.testing.assert_close(resumed[key], tensor, rtol=1e-3, atol=1e-4)  # other CPUs sum in a different order


def test_a_resumed_old_run_has_the_current_format(old_runs):
    train('after_epoch', '--resume')
    assert json.loads(Path('experiments/after_epoch/config.cfg').read_text())['format'] == FORMAT


def test_an_old_run_gives_the_same_predictions(old_runs):
    before = read_predictions('results/finished/results_test.csv')
    shutil.rmtree('results')
    scoring.main('', {'test': 'data/test.csv'}, 0, ['--load_path', 'experiments/finished', '--num_workers', '0'])
    np.testing.assert_allclose(read_predictions('results/finished/results_test.csv').probs, before.probs, atol=1e-5)


def test_stage_two_starts_from_an_old_run(old_runs):
    train('finished', '--save_path two --pretrained_weights experiments/finished --trainable classifier')
    kept, parent = (read_checkpoint(f'experiments/{name}')['state_dict']['features.0.weight'] for name in ('two', 'finished'))
    assert torch.equal(kept, parent)


def test_stage_two_notes_that_an_old_run_does_not_list_its_images(old_runs, capsys):
    train('finished', '--save_path two --pretrained_weights experiments/finished')
    assert '* Note: stage one has no list of its training images' in capsys.readouterr().out


def test_a_log_without_accuracy_is_read(old_runs):
    before = json.loads(Path('experiments/after_epoch/log.jsonl').read_text().splitlines()[0])
    train('after_epoch', '--resume')
    history = find_runs(['experiments/after_epoch'])[0].history
    assert 'acc' not in before['val'] and np.isnan(series(history, 'val', 'acc')).tolist() == [True, True, False, False]


def test_old_runs_are_reported_side_by_side(old_runs):
    report.main(['experiments', '--draws', '100', '--out', 'page.html'])
    assert 'accuracy' in Path('page.html').read_text(encoding='utf-8')


def test_a_flag_that_an_old_run_lacks_gets_the_old_behaviour():
    assert upgrade({'lr': .1}, 'config.cfg')['grow_from'] == 1


def test_a_flag_that_an_old_run_has_stays():
    assert upgrade({'grow_from': .5}, 'config.cfg')['grow_from'] == .5


@pytest.mark.parametrize(('old', 'mixing', 'alpha'), [
    ({'do_mixup': 0.}, 'none', None), ({'do_mixup': .2}, 'balanced_mixup', .2), ({'do_mixup': .2, 'mixing': 'none'}, 'balanced_mixup', .2),
    ({'do_mixup': .2, 'mixing': 'balanced_mixup', 'mix_alpha': .2}, 'balanced_mixup', .2),
    ({'do_mixup': 0., 'mixing': 'cutmix', 'mix_alpha': 1.}, 'cutmix', 1.), ({'do_mixup': 0., 'mixing': 'remix'}, 'remix', 1.)])
def test_do_mixup_of_an_old_run_becomes_mixing(old, mixing, alpha):
    new = upgrade(old, 'config.cfg')
    assert (new['mixing'], new.get('mix_alpha'), 'do_mixup' in new) == (mixing, alpha, False)


def test_the_alphas_that_old_runs_lack_are_the_published_ones():
    assert {name: mixing.alpha for name, mixing in MIXING.items() if mixing} == PUBLISHED_ALPHAS


def test_an_old_run_with_do_mixup_has_the_mixing_of_its_resume(old_runs):
    config = read_config('experiments/after_epoch')
    assert (config['mixing'], config['mix_alpha']) == ('balanced_mixup', .2)


def test_the_configuration_inside_a_checkpoint_is_upgraded(old_runs):
    config = load_model('experiments/finished').info['config']
    assert (config['format'], config['device'], config['device_type']) == (FORMAT, 'auto', 'cpu')


def test_a_config_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / 'config.cfg').write_text(json.dumps({'format': FORMAT + 1}))
    with pytest.raises(InputError, match=rf'config.cfg was written by a newer version .*format {FORMAT + 1}'):
        read_config(str(tmp_path))


def test_a_checkpoint_of_a_newer_version_is_refused(old_runs, tmp_path, monkeypatch):
    info = read_checkpoint('experiments/finished')
    monkeypatch.setattr('utils.model_saving_loading.FORMAT', FORMAT + 1)
    save_model(str(tmp_path / 'newer'), info)
    with pytest.raises(InputError, match='was written by a newer version'):
        read_checkpoint(str(tmp_path / 'newer'))


def test_the_version_is_the_same_everywhere():
    cited = re.search(r'^version: (.+)$', (ROOT / 'CITATION.cff').read_text(), re.M)
    released = re.search(r'^## (\d+\.\d+\.\d+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    assert cited.group(1) == released.group(1) == utils.__version__


def test_the_test_of_an_old_run_notes_that_its_images_are_unknown(old_runs, capsys):
    scoring.main('', {'test': 'data/test.csv'}, 0, ['--load_path', 'experiments/finished', '--num_workers', '0'])
    assert '* Note: this checkpoint has no list of its training images, ' in capsys.readouterr().out


def test_an_old_run_is_not_tested_on_its_training_csv(old_runs):
    with pytest.raises(InputError, match=r'data/train\.csv is the training csv of this network: test on images that it has not seen'):
        scoring.main('', {'test': 'data/train.csv'}, 0, ['--load_path', 'experiments/finished', '--num_workers', '0'])
