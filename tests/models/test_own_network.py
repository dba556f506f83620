"""Networks from a file of the user: --model_name path/to/file.py:function."""
import json

import pytest
import torch

from models.arch import IMAGENET
from models.get_model import get_arch
from tools import export_model, predict
from utils.common import InputError
from utils.model_saving_loading import load_model
from utils.testing import scoring

NETWORK = '''
import torch
from torch import nn
from models.get_model import as_arch

def build(n_classes, pretrained, im_size):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_classes))

def own_facts(n_classes, pretrained, im_size):
    network = nn.ModuleDict({'fc': nn.Linear(4, n_classes), 'stem': nn.Conv2d(3, 4, 3)})
    return as_arch(network, n_classes, 'fc', (.1, .2, .3), (.4, .5, .6), initial_weights='RETFound' if pretrained else '')

def n_classes_only(n_classes, **_):
    return build(n_classes, False, None)

def head_first(n_classes, **_):
    return nn.ModuleDict({'fc': nn.Linear(4, n_classes), 'stem': nn.Conv2d(3, 4, 3)})

def unnamed_layer(n_classes, **_):
    return as_arch(build(n_classes, False, None), n_classes, 'fc')

def nothing(n_classes, **_):
    pass

def wrong_signature():
    pass

def four_logits(n_classes, **_):
    return nn.Sequential(build(n_classes, False, None), nn.ZeroPad1d((0, 1)))
'''


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'nets').mkdir()
    (tmp_path / 'nets' / 'mine.py').write_text(NETWORK)
    return 'nets/mine.py'


def test_a_module_gets_its_last_layer_and_imagenet_normalisation(file):
    model, mean, std = get_arch(f'{file}:build', 7, im_size=(32, 32))
    assert model.classifier_name == '4' and model.n_classes == 7 and (mean, std) == IMAGENET
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_a_function_may_name_last_layer_normalisation_and_weights(file):
    model, mean, std = get_arch(f'{file}:own_facts', 7, 'imagenet')
    assert (model.classifier_name, model.initial_weights, mean, std) == ('fc', 'RETFound', (.1, .2, .3), (.4, .5, .6))


def test_a_function_may_use_only_the_number_of_classes(file):
    assert get_arch(f'{file}:n_classes_only', 4).model.n_classes == 4


def test_weights_that_the_function_does_not_report_are_not_called_random(file):
    assert get_arch(f'{file}:build', 3).model.initial_weights == f'as built by {file}:build'


def test_a_state_dict_is_loaded_and_reported(file, tmp_path):
    state = get_arch(f'{file}:build', 3).model.state_dict()
    torch.save(state, tmp_path / 'w.pth')
    model = get_arch(f'{file}:build', 3, 'w.pth').model
    assert model.initial_weights == 'w.pth' and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('head', ['cosine', 'scaled'])
def test_other_types_of_last_layer(file, head):
    assert get_arch(f'{file}:build', 3, head=head).model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(('name', 'init', 'message'), [
    ('nets/absent.py:build', 'none', 'no such file nets/absent.py'),
    ('nets/mine.py:absent', 'none', r"nets/mine.py has no function 'absent' \(its functions: build, own_facts, "),
    ('nets/mine.py:nothing', 'none', r'nothing must return a torch.nn.Module or as_arch\(module, ...\), not NoneType'),
    ('nets/mine.py:wrong_signature', 'none', 'failed with TypeError: wrong_signature.. got an unexpected keyword argument'),
    ('nets/mine.py:unnamed_layer', 'none', "the network has no layer 'fc' with weights: name the last layer with as_arch"),
    ('nets/mine.py:head_first', 'none', "layer 'stem' has 4 outputs instead of 5, one per class: name the last layer with as_arch"),
    ('nets/broken.py:build', 'none', r'nets/broken.py cannot be run \(SyntaxError: '),
])
def test_errors_are_one_line(file, tmp_path, name, init, message):
    (tmp_path / 'nets' / 'broken.py').write_text('def build(:')
    with pytest.raises(InputError, match=f'^--model_name {name}: .*{message}') as error:
        get_arch(name, 5, init)
    assert '\n' not in str(error.value)


def test_a_file_without_a_function(file):
    with pytest.raises(InputError, match=r'--model_name nets/mine\.py lacks the function: use nets/mine\.py:FUNCTION'):
        get_arch(file, 5)


def test_imagenet_is_refused_for_a_function_that_reports_no_weights(file):
    with pytest.raises(InputError, match=r"--init imagenet: the builder of nets/mine\.py:build does not report which weights"):
        get_arch(f'{file}:build', 5, 'imagenet')


@pytest.fixture
def run(file, train):
    return train(f'--model_name {file}:build')


def test_a_run_records_the_network_and_its_weights(run):
    config = json.loads((run / 'config.cfg').read_text())
    assert (config['model_name'], config['initial_weights']) == ('nets/mine.py:build', 'as built by nets/mine.py:build')


def test_the_next_command_of_a_training_names_the_file(run, capsys, train):
    train('--model_name nets/mine.py:build --save_path next')
    assert '--model_name nets/mine.py:build' in capsys.readouterr().out.splitlines()[-1]


def test_stage_two(run, train):
    train('--model_name nets/mine.py:build --pretrained_weights experiments/run --trainable classifier --save_path two')


def test_a_network_with_another_number_of_logits_is_refused(file, train):
    with pytest.raises(InputError, match=r'--model_name nets/mine\.py:four_logits returns \(1, 4\) instead of one logit per class'):
        train(f'--model_name {file}:four_logits')


def test_a_checkpoint_does_not_run_a_file_by_itself(run, tmp_path):
    (tmp_path / 'nets' / 'mine.py').write_text('raise SystemExit("this file was run")')
    with pytest.raises(InputError, match=r'network from a file, nets/mine\.py:build\. Loading it runs that file: if you trust it, '
                                         r'add --model_name nets/mine\.py:build'):
        load_model(str(run))


def test_the_name_of_a_known_network_is_no_confirmation(run):
    with pytest.raises(InputError, match='add --model_name'):
        load_model(str(run), 'mobilenetV2')


def test_a_confirmed_checkpoint_gives_the_same_network(run):
    loaded = load_model(str(run), 'nets/mine.py:build')
    assert loaded.model.n_classes == 3 and loaded.info['model_name'] == 'nets/mine.py:build'


def test_the_file_may_be_elsewhere(run, tmp_path):
    (tmp_path / 'nets' / 'mine.py').rename(tmp_path / 'moved.py')
    assert load_model(str(run), 'moved.py:build').info['model_name'] == 'moved.py:build'


def test_a_missing_file_is_named(run, tmp_path):
    (tmp_path / 'nets' / 'mine.py').unlink()
    with pytest.raises(InputError, match=r'^experiments/run/epoch_01_.*: --model_name nets/mine\.py:build: no such file nets/mine\.py'):
        load_model('experiments/run', 'nets/mine.py:build')


def test_a_network_that_differs_from_the_checkpoint_is_refused(train, file):
    run = train()
    with pytest.raises(InputError, match=r'--model_name nets/mine\.py:build contradicts the checkpoint, which has the network tiny_test'):
        load_model(str(run), f'{file}:build')


def test_the_scripts_load_it(run, tiny, tmp_path):
    flags = ['--load_path', 'experiments/run', '--model_name', 'nets/mine.py:build']
    scoring.main('', {'test': None}, False, [*flags, '--csv_test', f'{tiny}/test.csv', '--num_workers', '0'])
    predict.main([*flags, f'{tiny}/images/test_0_0.jpg', '--num_workers', '0'])
    export_model.main(flags)
    assert {'results_test.csv', 'predictions.csv', 'model.onnx'} <= {path.name for path in (tmp_path / 'results' / 'run').iterdir()}
