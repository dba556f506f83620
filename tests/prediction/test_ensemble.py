"""An ensemble averages probabilities, and every script takes it for a run."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import test_with_labels_eyepacs
from models.ensemble import Ensemble
from tests.factories import picture
from tools import ensemble_runs, evaluate_predictions, export_model, predict, report
from utils.common import InputError, run_script
from utils.data.image_hashes import CHOSE, TRAINED, merge_seen
from utils.model_saving_loading import FILE_NAME, load_model, read_checkpoint, save_model
from utils.prediction.ensemble import members_of, save_ensemble
from utils.prediction.gradcam import grad_cam
from utils.prediction.predictions import read_predictions
from utils.testing import scoring


def test_the_output_is_the_log_of_the_mean_probabilities():
    members, x = [nn.Sequential(nn.Flatten(), nn.Linear(12, 4)) for _ in range(3)], torch.randn(5, 3, 2, 2)
    probs = np.mean([np.exp(z) / np.exp(z).sum(1, keepdims=True) for member in members
                     for z in [(member[1](x.flatten(1))).detach().double().numpy()]], axis=0)
    np.testing.assert_allclose(Ensemble(members)(x).detach().numpy(), np.log(probs), atol=1e-6)


def test_an_image_that_trained_one_member_is_a_training_image():
    seen = merge_seen([torch.tensor([[1, TRAINED], [5, CHOSE]]), torch.tensor([[1, CHOSE], [3, CHOSE], [5, CHOSE]])])
    assert seen.tolist() == [[1, TRAINED], [3, CHOSE], [5, CHOSE]]


def randomise(folder, seed):
    """Give the checkpoint in `folder` a random classifier: after one epoch, the predictions would be nearly the same for all images."""
    info = read_checkpoint(folder)
    path = info.pop('folder')
    weight = info['state_dict']['classifier.1.weight']
    info['state_dict']['classifier.1.weight'] = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    save_model(path, {name: value for name, value in info.items() if name != 'sha256'})


@pytest.fixture(scope='module')
def runs(tiny, tmp_path_factory):
    """A folder with the runs experiments/a/seed0 and seed1, and their ensemble experiments/a/model."""
    from tests.factories import train_flags
    from train_lt_mxp import get_parser
    from train_lt_mxp import main as train_main
    folder = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            train_main(get_parser().parse_args(train_flags(tiny, f'--seed {seed} --save_path a/seed{seed}')))
            randomise(f'experiments/a/seed{seed}', seed)
        save_ensemble(['experiments/a/seed0', 'experiments/a/seed1'], 'experiments/a/model')
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    """Work in the folder of `runs`, without results of other tests."""
    shutil.rmtree(runs / 'results', ignore_errors=True)
    monkeypatch.chdir(runs)
    return runs


def run_the_test(tiny, run, *flags):
    scoring.main('', test_with_labels_eyepacs.DEFAULTS['splits'], 0,
                 ['--load_path', f'experiments/a/{run}', '--csv_test', f'{tiny}/test.csv', '--num_workers', '0', *flags])
    return read_predictions(f'results/a/{run}/results_test.csv')


def test_a_test_averages_the_probabilities(here, tiny):
    members = [run_the_test(tiny, f'seed{seed}').probs for seed in (0, 1)]
    np.testing.assert_allclose(run_the_test(tiny, 'model').probs, np.mean(members, axis=0), atol=1e-5)
    assert np.abs(members[0] - members[1]).max() > .01


def test_a_test_is_calibrated_on_the_validation_images(here, tiny):
    plain, calibrated = run_the_test(tiny, 'model').probs, run_the_test(tiny, 'model', '--calibrate').probs
    assert (plain.argmax(1) == calibrated.argmax(1)).all() and np.abs(plain - calibrated).max() > 1e-3


def test_training_images_of_the_members_are_refused(here, tiny):
    with pytest.raises(InputError, match='the network has seen 22 of 22 images'):
        scoring.main('', {'val': None, 'test': None}, 0, ['--load_path', 'experiments/a/model', '--csv_test', f'{tiny}/train.csv'])


def test_tau_normalisation_is_refused(here, tiny):
    with pytest.raises(InputError, match='--tau_norm needs one network, and this is an ensemble'):
        run_the_test(tiny, 'model', '--tau_norm', '1')


def test_prediction_with_heat_maps(here, tmp_path, capsys):
    picture(0).save(tmp_path / 'new.jpg')
    predict.main(['--load_path', 'experiments/a/model', str(tmp_path / 'new.jpg'), '--gradcam', '--num_workers', '0'])
    assert Path('results/a/model/gradcam/new.jpg').exists()
    assert '* 2 networks tiny_test from experiments/a/model/epoch_01_ensemble\n' in capsys.readouterr().out


def test_the_heat_map_is_the_mean_over_the_members(here):
    loaded = load_model('experiments/a/model')
    x, classes = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
    maps = [grad_cam(member, x, classes) for member in loaded.model.members]
    torch.testing.assert_close(grad_cam(loaded.model, x, classes), (maps[0] + maps[1]) / 2)


def test_export(here):
    pytest.importorskip('onnxruntime')
    export_model.main(['--load_path', 'experiments/a/model', '--output', 'probabilities'])
    assert json.loads(Path('results/a/model/model.json').read_text())['members'] == 2


def test_evaluation_and_report(here, tiny, capsys):
    run_the_test(tiny, 'model')
    evaluate_predictions.main(['results/a/model/results_test.csv', '--run', 'experiments/a/model', '--draws', '100'])
    report.main(['experiments/a/model', '--draws', '100'])
    page = Path('results/a/model/report.html').read_text()
    assert '2 networks, seeds 0 and 1' in page and 'none yet' not in page


def test_a_network_file_of_members_is_small_enough_to_send(here):
    sizes = [Path(read_checkpoint(f'experiments/a/{run}')['folder'], FILE_NAME).stat().st_size for run in ('seed0', 'seed1', 'model')]
    assert sizes[2] < 1.2 * (sizes[0] + sizes[1])


def test_stage_two_cannot_start_from_an_ensemble(here, tiny):
    from utils.training.two_stage import get_stage_two
    with pytest.raises(InputError, match='is an ensemble: give one of its networks, such as experiments/a/seed0/epoch_01'):
        get_stage_two('experiments/a/model', 'tiny_test', 3, (32, 32), 'linear')


@pytest.mark.parametrize(('paths', 'message'), [
    (['experiments/a/seed0'], 'needs 2 to 100 networks, not 1'),
    (['experiments/a/seed0', 'experiments/a/model'], 'is an ensemble already: give its networks'),
    (['experiments/a/seed0', 'experiments/a/seed0'], 'experiments/a/seed0/epoch_01_.* is given twice'),
    (['experiments/a/seed0', 'experiments/other'], 'do not fit together: im_size is')])
def test_networks_that_do_not_fit_together(here, paths, message):
    if not Path('experiments/other').exists():
        info = read_checkpoint('experiments/a/seed0')
        folder = info.pop('folder')
        save_model(f'experiments/other/{Path(folder).name}', {k: v for k, v in info.items() if k != 'sha256'} | {'im_size': (40, 40)})
    with pytest.raises(InputError, match=message):
        save_ensemble(paths, 'experiments/new')
    assert not Path('experiments/new').exists()


def test_an_existing_folder_is_kept(here):
    with pytest.raises(InputError, match='experiments/a/model already exists: remove it'):
        ensemble_runs.main(['experiments/a/seed0', 'experiments/a/seed1', '--out', 'experiments/a/model'])


def test_networks_of_different_losses_have_learnt_different_priors(here, tmp_path):
    info = read_checkpoint('experiments/a/seed1')
    folder = Path(info.pop('folder')).name
    info['config'] = info['config'] | {'loss_fn': 'BSCE'}
    save_model(str(tmp_path / 'run' / folder), {name: value for name, value in info.items() if name != 'sha256'})
    with pytest.raises(InputError, match='do not fit together: loss_fn is CE and BSCE'):
        save_ensemble(['experiments/a/seed0', str(tmp_path / 'run')], str(tmp_path / 'new'))


def test_an_ensemble_is_replaced_on_request_but_not_a_run(here, tmp_path):
    paths = ['experiments/a/seed0', 'experiments/a/seed1']
    save_ensemble(paths, str(tmp_path / 'x'))
    save_ensemble(paths[::-1], str(tmp_path / 'x'), overwrite=True)
    assert members_of(str(tmp_path / 'x')) == paths[::-1] and list(tmp_path.iterdir()) == [tmp_path / 'x']
    with pytest.raises(InputError, match='experiments/a/seed0 already exists'):
        save_ensemble(paths, 'experiments/a/seed0', overwrite=True)


def test_the_tool(here, tmp_path, capsys):
    run_script(lambda: ensemble_runs.main(['experiments/a/seed0', 'experiments/a/seed1', '--out', str(tmp_path / 'x')]))
    assert f'* Wrote {tmp_path}/x: 2 networks\n* Next, test it: ' in capsys.readouterr().out
