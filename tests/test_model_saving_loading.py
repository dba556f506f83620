import os

import pytest
import torch

from models.get_model import get_arch
from tests.factories import checkpoint, checkpoint_config
from utils.common import InputError
from utils.model_saving_loading import FIELDS, FILE_NAME, digest, load_model, read_checkpoint, save_model


def test_round_trip_in_evaluation(tmp_path):
    saved = checkpoint()
    save_model(tmp_path / 'epoch_01_x', saved)
    loaded = load_model(str(tmp_path / 'epoch_01_x'))
    reference = get_arch('tiny_test', 2).model
    reference.load_state_dict(saved['state_dict'])
    x = torch.rand(2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.eval()(x), reference.eval()(x))
    assert loaded.folder == str(tmp_path / 'epoch_01_x') and loaded.info['class_count'] == [3, 1] and 'state_dict' not in loaded.info


@pytest.mark.parametrize(('metric', 'best'), [('mcc', 'epoch_02_x'), ('loss', 'epoch_03_x')])
def test_a_run_folder_stands_for_its_best_checkpoint(tmp_path, metric, best):
    for epoch, value in ((1, .4), (2, .9), (3, -.3)):
        save_model(tmp_path / f'epoch_{epoch:02d}_x', checkpoint(epoch=epoch, metrics={metric: value}, config=checkpoint_config(metric)))
    assert os.path.basename(read_checkpoint(str(tmp_path))['folder']) == best


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f'touch {tmp_path}/ran',)
    torch.save(checkpoint(config=Evil()), tmp_path / FILE_NAME)
    with pytest.raises(InputError, match=r'cannot be read as a checkpoint: .* contains more than weights'):
        load_model(str(tmp_path / FILE_NAME))
    assert not (tmp_path / 'ran').exists()


def test_damaged_and_foreign_files(tmp_path):
    save_model(tmp_path / 'whole', checkpoint())
    content = (tmp_path / 'whole' / FILE_NAME).read_bytes()
    for name, text in (('half', content[:len(content) // 2]), ('empty', b''), ('text', b'hello')):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(InputError, match=f'{name} cannot be read as a checkpoint'):
            read_checkpoint(str(tmp_path / name))
    torch.save({'epoch': 1}, tmp_path / 'other')
    with pytest.raises(InputError, match='it lacks model_name'):
        read_checkpoint(str(tmp_path / 'other'))
    for field in FIELDS:
        incomplete = checkpoint()
        del incomplete[field]
        with pytest.raises(ValueError, match=field):
            save_model(tmp_path / 'never', incomplete)
    assert not (tmp_path / 'never').exists()


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save_model(tmp_path, checkpoint(mcc=.1))

    def full(*args):
        raise OSError('No space left on device')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space'):
        save_model(tmp_path, checkpoint(mcc=.2))
    assert read_checkpoint(str(tmp_path))['metrics']['mcc'] == .1 and os.listdir(tmp_path) == [FILE_NAME]


def test_a_changed_weight_is_noticed(tmp_path):
    """The file can be read, but its content has changed."""
    save_model(tmp_path, checkpoint())
    saved = torch.load(tmp_path / FILE_NAME, weights_only=True)
    next(iter(saved['state_dict'].values())).view(-1)[0] += 1
    torch.save(saved, tmp_path / FILE_NAME)
    with pytest.raises(InputError, match='is damaged: its checksum does not match'):
        read_checkpoint(str(tmp_path))


def test_digest():
    value = {'a': [1, 2.5, None, 'x'], 'b': {'t': torch.arange(6.).view(2, 3)}, 'c': torch.tensor(3)}
    assert digest(value) == digest({'c': torch.tensor(3), 'b': {'t': torch.arange(6.).view(2, 3).clone()}, 'a': [1, 2.5, None, 'x']})
    for other in (value | {'a': [1, 2.5, None, 'y']}, value | {'b': {'t': torch.arange(6.).view(3, 2)}}, value | {'c': torch.tensor(3.)}):
        assert digest(other) != digest(value)
