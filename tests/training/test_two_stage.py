"""Stage two starts from the weights of stage one, and a frozen backbone does not change. Tested through the train script."""
import json
import re

import pytest
import torch

import train_lt_mxp
from utils.common import InputError
from utils.model_saving_loading import load_model, read_checkpoint


def weights_of(run, name=''):
    return read_checkpoint(str(run / name))['state_dict']


@pytest.fixture
def stage_one(train):
    return train('--save_path one --n_epochs 2').parent / 'one'


def first_weights(monkeypatch):
    """Record the network's tensors before the first training epoch."""
    seen, original = {}, train_lt_mxp.train_one_epoch

    def spy(state, *args):
        if not seen:
            seen.update({name: tensor.clone() for name, tensor in state.trained.state_dict().items()})
        return original(state, *args)
    monkeypatch.setattr(train_lt_mxp, 'train_one_epoch', spy)
    return seen


def test_fine_tuning_starts_from_the_saved_weights(train, stage_one, monkeypatch, capsys):
    seen = first_weights(monkeypatch)
    run = train(f'--pretrained_weights {stage_one} --weighting BSCE --lr 0.003')
    saved, best = weights_of(stage_one), read_checkpoint(str(stage_one))
    assert seen.keys() == saved.keys() and all(torch.equal(seen[name], saved[name]) for name in saved)
    assert not torch.equal(weights_of(run)['features.0.weight'], saved['features.0.weight'])
    parent = json.loads((run / 'config.cfg').read_text())['parent']
    assert parent == {'path': best['folder'], 'epoch': best['epoch'], 'metric': 'mcc', 'score': best['metrics']['mcc'],
                      'loaded': len(saved), 'im_size': [32, 32]}
    line = rf"stage two from \S*/epoch_0{best['epoch']}_\S+ \(epoch {best['epoch']}, mcc -?\d+\.\d\d\); {len(saved)} tensors loaded"
    out = capsys.readouterr().out
    assert re.search(line, out) and 'stage one was' not in out
    assert json.loads((run / 'config.cfg').read_text())['initial_weights'] == best['folder']
    train(f'--pretrained_weights {stage_one} --im_size 40,32 --save_path larger')
    assert '; stage one was trained at 32x32, not at 40x32\n' in capsys.readouterr().out


def test_scale_alone(train, stage_one, monkeypatch, capsys):
    """LWS trains only a scale per class around the saved network, and its checkpoint can be loaded."""
    seen = first_weights(monkeypatch)
    run = train(f'--pretrained_weights {stage_one} --trainable scale --sampling class --lr 0.5')
    saved, after = weights_of(stage_one), weights_of(run)
    inside = {name.replace('classifier.1.', 'classifier.1.classifier.'): tensor for name, tensor in saved.items()}
    assert after.keys() == inside.keys() | {'classifier.1.scale'}
    assert all(torch.equal(after[name], tensor) and torch.equal(seen[name], tensor) for name, tensor in inside.items())
    assert torch.equal(seen['classifier.1.scale'], torch.ones(3)) and not torch.equal(after['classifier.1.scale'], torch.ones(3))
    assert 'one scale per class trained; 8 parameter tensors frozen' in capsys.readouterr().out
    x = torch.randn(2, 3, 32, 32)
    plain, scaled = load_model(str(stage_one)).model.eval(), load_model(str(run)).model.eval()
    torch.testing.assert_close(scaled(x), plain(x) * after['classifier.1.scale'])
    three = train(f'--pretrained_weights {run} --trainable scale --save_path three')  # still one scale, not two nested ones
    assert weights_of(three.parent / 'three').keys() == after.keys()


def test_ldam_before_and_after_a_linear_classifier(train, stage_one):
    ldam = train(f'--pretrained_weights {stage_one} --loss_fn LDAM --save_path ldam').parent / 'ldam'
    state = weights_of(ldam)
    assert 'classifier.1.bias' not in state and state['classifier.1.scale'] == 30
    model, x = load_model(str(ldam)).model, torch.randn(2, 3, 32, 32)
    features = model.eval().features(x).mean((2, 3))
    cosines = torch.nn.functional.cosine_similarity(features[:, None], state['classifier.1.weight'][None], dim=2)
    torch.testing.assert_close(model(x), 30 * cosines, rtol=1e-4, atol=1e-4)  # the scale applies in evaluation
    back = train(f'--pretrained_weights {ldam} --loss_fn CE --save_path back').parent / 'back'
    assert 'classifier.1.bias' in weights_of(back)
    with pytest.raises(InputError, match=r'--trainable scale: .*ldam.* was trained with LDAM'):
        train(f'--pretrained_weights {ldam} --trainable scale')


@pytest.mark.parametrize(('network', 'mixup', 'n_frozen'), [('tiny_test', 0, 6), ('mobilenetV2', .3, 156)])
def test_classifier_alone(train, monkeypatch, capsys, network, mixup, n_frozen):
    stage_one = train(f'--save_path one --n_epochs 2 --model_name {network}').parent / 'one'
    seen = first_weights(monkeypatch)
    run = train(f'--pretrained_weights {stage_one} --model_name {network} --trainable classifier --sampling class --n_epochs 2 '
                f'--do_mixup {mixup} --momentum 0.9')
    saved, after = weights_of(stage_one), weights_of(run, 'last')
    for name, tensor in saved.items():
        head = name.startswith('classifier.')
        assert torch.equal(seen[name], tensor) != head, name  # re-initialised: the head, nothing else
        assert torch.equal(after[name], tensor) != head, name  # unchanged: all other tensors, including running statistics
        assert torch.equal(after[name], seen[name]) != head, name  # trained: the head
    config = json.loads((run / 'config.cfg').read_text())
    assert config['reinitialised'] == ['classifier.1.weight', 'classifier.1.bias'] and len(config['frozen']) == n_frozen
    assert f're-initialised: classifier.1.weight, classifier.1.bias; {n_frozen} parameter tensors frozen' in capsys.readouterr().out


@pytest.mark.parametrize(('path', 'flags', 'message'), [
    ('absent/run', '', 'no such checkpoint or run folder: absent/run'),
    ('.', '', r'no checkpoint in \.: there is no epoch_'),
    ('experiments/one', '--model_name resnet10t', 'was trained with --model_name tiny_test, this run has resnet10t'),
    ('experiments/one', '--n_classes 2 --csv_train two_train.csv', 'was trained with --n_classes 3, this run has 2'),
])
def test_a_stage_one_that_does_not_fit(train, stage_one, tmp_path, path, flags, message):
    for split in ('train', 'val'):
        rows = [f'{split}_{c}_{i},{c}' for c in (0, 1) for i in (0, 1, 2)]
        (tmp_path / f'two_{split}.csv').write_text('\n'.join(['image_id,label', *rows]))
    with pytest.raises(InputError, match=message):
        train(f'--pretrained_weights {path} {flags}')


def test_stage_two_never_downloads(train, stage_one, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('a download')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', fail)
    train(f'--pretrained_weights {stage_one} --init imagenet')


def test_stage_three_from_a_checkpoint_folder(train, stage_one):
    two = train(f'--pretrained_weights {next(stage_one.glob("epoch_*"))} --save_path two').parent / 'two'
    run = train(f'--pretrained_weights {two}')
    assert '/two/epoch_01' in json.loads((run / 'config.cfg').read_text())['parent']['path']
