"""Invalid trainings stop with a one-line error before images are decoded and before a run folder exists."""
import tempfile
import time

import pytest
import timm
import torch

from models import weights
from models.get_model import get_arch
from train_lt_mxp import get_parser
from utils.common import InputError, check_writable
from utils.training.flags import resolve
from utils.training.network import check_forward


@pytest.fixture
def refused(train, tmp_path, monkeypatch):
    """-> function that returns the error of a training and checks that no image was decoded and nothing written."""
    def decode(*args):
        raise AssertionError('an image was decoded')

    def run(flags):
        monkeypatch.setattr('utils.data.dataset.decode_image', decode)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError) as error:
            train(f'--cache_dir cache {flags}')
        assert sorted(tmp_path.iterdir()) == before
        return str(error.value)
    return run


def test_missing_imagenet_weights(refused, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('no route to host')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', fail)
    assert refused('--model_name mobilenetV2 --init imagenet').startswith('the ImageNet weights of mobilenetV2 cannot be loaded (no route')


def test_a_missing_csv_is_reported_before_missing_weights(refused):
    assert refused('--csv_train absent_train.csv --init absent.pth') == 'no such csv: absent_train.csv'


@pytest.mark.parametrize('path', ['../../elsewhere', '../results/run', 'a/../../b'])
def test_a_save_path_outside_experiments(refused, path):
    assert refused(f'--save_path {path}') == f'--save_path {path} is outside experiments/: name a folder below it'


def test_missing_weights_file(refused):
    assert refused('--init absent.pth').startswith('no such weights file: absent.pth')


def test_missing_stage_one(refused):
    assert refused('--pretrained_weights absent') == 'no such checkpoint or run folder: absent'


def test_an_existing_run_folder(train, refused):
    train('--save_path there')
    assert 'already holds a run' in refused('--save_path there')


def test_an_experiments_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / 'experiments').write_text('a file, not a folder')
    assert refused('').startswith('cannot write to experiments/run: ')


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    def deny(dir):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(tempfile, 'TemporaryFile', deny)
    with pytest.raises(InputError, match=rf'^cannot write to {tmp_path}/a/b: Permission denied \({tmp_path}\)$'):
        check_writable(f'{tmp_path}/a/b')


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(f'{tmp_path}/a/b')
    assert not list(tmp_path.iterdir())


def test_one_image_in_a_batch(refused):
    assert refused('--batch_size 1 --model_name mobilenetV2').startswith('--batch_size 1: BatchNorm needs two or more images in a batch')


def test_a_batch_split_into_single_images(refused):
    assert refused('--batch_size 2 --accumulate 2 --model_name mobilenetV2').startswith('--batch_size 2 and --accumulate 2: BatchNorm')


@pytest.mark.parametrize(('name', 'what'), [('deit_tiny_distilled_patch16_224', 'several classifiers'),
                                            ('levit_128s', 'several classifiers'), ('qwen3_vit_88m_enc', 'no classifier')])
def test_a_network_without_one_classifier(refused, name, what):
    assert refused(f'--model_name {name}') == f'--model_name {name} has {what}: choose a network with one'


def test_images_below_the_smallest_size_of_a_network(refused):
    message = refused('--model_name inception_v3 --im_size 32')
    assert message.startswith('--model_name inception_v3 cannot process images of 32x32') and '--im_size' in message


def test_images_that_are_too_small_at_first(refused):
    assert 'leave out --grow_from' in refused('--model_name inception_v3 --im_size 96 --n_epochs 2 --grow_from 0.5')


@pytest.fixture
def args(tiny):
    args = get_parser().parse_args(f'--csv_train {tiny}/train.csv --im_size 32 --model_name mobilenetV2 --do_not_save'.split())
    args = resolve(args)
    return args


def test_the_forward_check_does_not_change_the_network(args):
    model = get_arch('mobilenetV2').model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_forward(model, args, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_forward_check_does_not_change_the_random_stream(args):
    model = get_arch('mobilenetV2').model  # with dropout
    state = torch.get_rng_state()
    check_forward(model, args, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_backbone_takes_single_images(args):
    model = get_arch('mobilenetV2').model.requires_grad_(False)
    model.classifier[1].requires_grad_(True)
    check_forward(model, args, 1)


def test_a_network_with_several_outputs_is_refused(args):
    class Two(torch.nn.Module):
        classifier_name = 'last'

        def __init__(self):
            super().__init__()
            self.last = torch.nn.Linear(3, 5)

        def forward(self, x):
            logits = self.last(x.mean((2, 3)))
            return (logits, logits) if self.training else logits
    with pytest.raises(InputError, match='returns a tuple instead of one logit per class'):
        check_forward(Two(), args, 2)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub is unreachable and the cache is empty. -> list of the requests"""
    asked = []

    def head(url, **kwargs):
        asked.append(url)
        raise OSError('Name or service not known')
    monkeypatch.setattr('huggingface_hub.get_hf_file_metadata', head)
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda *args, **kwargs: None)
    monkeypatch.setattr(time, 'sleep', lambda seconds: pytest.fail('retried'))
    return asked


def test_without_a_connection_the_hub_is_asked_once(offline, caplog):
    with pytest.raises(InputError, match=r'bit_resnext50_1 cannot be loaded \(Name or service not known\).*--init none'):
        get_arch('bit_resnext50_1', init='imagenet')
    assert len(offline) == 1 and not caplog.records


def test_cached_weights_need_no_connection(offline, monkeypatch):
    monkeypatch.setattr('huggingface_hub.try_to_load_from_cache', lambda repo, name, **kwargs: f'cache/{name}')
    weights.check_hub(timm.get_pretrained_cfg('resnetv2_50x1_bit.goog_in21k'))
    assert not offline
