"""Images in GPU memory, or copied ahead: the decision, and the same training as without a GPU. The CPU stands in for a GPU."""
import json
import signal
from types import SimpleNamespace

import pytest
import torch

from tests.cpu_as_gpu import GB, count_cpu_as_gpu
from tests.factories import signal_in_batch
from utils.common import Interrupted
from utils.data import dataset
from utils.data.device_images import DeviceArray
from utils.get_loaders import EVAL_FACTOR
from utils.model_saving_loading import digest, read_checkpoint
from utils.training import engine, placement
from utils.training.placement import Trial

N_BYTES = 31 * 3 * 32 * 32  # of the tiny set


@pytest.fixture
def gpu(monkeypatch):
    return count_cpu_as_gpu(monkeypatch)


@pytest.fixture
def prefetched(monkeypatch):
    """Number of epochs in which host batches were copied ahead"""
    calls, prefetch = [], dataset.prefetch
    monkeypatch.setattr(dataset, 'prefetch', lambda *args: calls.append(1) or prefetch(*args))
    return calls


def content(run):
    """Everything that training produced: state of last/ and log, without times."""
    state = read_checkpoint(str(run / 'last'))
    log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    return (digest({key: value for key, value in state.items() if key not in ('config', 'folder', 'checksum')}),
            [{key: value for key, value in record.items() if key not in ('seconds', 'images_per_second')} for record in log])


FLAGS = ['', '--do_mixup 0.2 --sampling sqrt', '--mixing cutmix --mixup_off_epochs 1 --accumulate 2 --train_eval full',
         '--sampling class --augment trivial --ema 0.9 --grow_from 0.5 --loss_fn SEQL --loss_params lam=0.3 gamma=1']


class TestTraining:
    """Training gives the same result wherever the images are."""

    @pytest.mark.parametrize('flags', FLAGS)
    @pytest.mark.parametrize('data_device', ['auto', 'host'])
    def test_equals_the_training_without_a_gpu(self, train, request, prefetched, flags, data_device):
        expected = content(train(f'--n_epochs 2 {flags}'))
        assert not prefetched
        request.getfixturevalue('gpu')
        assert content(train(f'--n_epochs 2 {flags} --overwrite --data_device {data_device}')) == expected
        assert bool(prefetched) == (data_device == 'host')

    @pytest.mark.parametrize('place', ['auto', 'host'])
    def test_resumes_within_an_epoch_with_the_images_elsewhere(self, train, gpu, monkeypatch, place):
        flags = '--n_epochs 2 --sampling class --ema 0.9'
        whole = content(train(flags))
        with monkeypatch.context() as m:
            signal_in_batch(m, 9)  # the trial has 2, an epoch 5
            with pytest.raises(Interrupted):
                train(f'{flags} --overwrite --data_device {place}')
        other = {'auto': 'host', 'host': 'auto'}[place]
        assert content(train(f'{flags} --resume --data_device {other}')) == whole

    def test_resumes_after_a_stop_while_images_are_copied(self, train, gpu, monkeypatch):
        expected = content(train())
        with monkeypatch.context() as m:
            m.setattr(placement, 'copy_to_device', lambda *args: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(Interrupted, match='SIGTERM'):
                train('--overwrite')
        assert content(train('--resume')) == expected

    def test_without_a_cache_batches_are_copied_ahead(self, train, gpu, prefetched, capsys):
        train('--no_cache --num_workers 1')
        assert len(prefetched) == 3 and '* Data:' not in capsys.readouterr().out  # training, training sample, validation

    @pytest.mark.parametrize('cache', ['', '--no_cache --num_workers 1'])
    def test_features_stay_on_the_device(self, train, gpu, monkeypatch, capsys, cache):
        run, caches = train('--save_path one'), []
        read = DeviceArray.read
        monkeypatch.setattr(DeviceArray, 'read', lambda self, indices: caches.append(self) or read(self, indices))
        capsys.readouterr()
        train(f'--save_path two --pretrained_weights {run.parent / "one"} --trainable classifier --augment none {cache}')
        assert caches and caches[0].dtype == torch.float32  # read in this process, which alone can use the device
        assert '* Data:' not in capsys.readouterr().out


class TestDecision:
    """Images go to the GPU if they fit beside a training step."""

    def test_images_that_fit(self, train, gpu, capsys):
        train()
        expected = '* Data: 31 images (0.1 MB) in GPU memory, beside 2.0 GB for a training step (--data_device host: host memory)\n'
        assert expected in capsys.readouterr().out

    def test_images_that_do_not_fit(self, train, gpu, prefetched, capsys):
        gpu['left'] = GB + N_BYTES // 2
        train()
        expected = '* Data: 31 images (0.1 MB) in host memory: a training step leaves only 0.0 MB of GPU memory for them\n'
        assert prefetched and expected in capsys.readouterr().out

    def test_the_flag_host(self, train, gpu, prefetched, capsys):
        train('--data_device host')
        assert prefetched and '* Data: 31 images (0.1 MB) in host memory (--data_device host)\n' in capsys.readouterr().out

    @pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory.'), RuntimeError('CUDNN_STATUS_ALLOC_FAILED')])
    def test_memory_that_is_full_in_the_trial(self, train, gpu, monkeypatch, capsys, error):
        def full(function, device):
            raise error
        monkeypatch.setattr(placement, 'peak_of', full)
        train()
        assert 'in host memory: a training step leaves only 0.0 MB of GPU memory for them' in capsys.readouterr().out

    def test_a_full_memory_in_one_of_several_processes_ends_the_run(self, monkeypatch):
        def full(*args):
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        monkeypatch.setattr(placement, 'peaks', full)
        with pytest.raises(torch.OutOfMemoryError):
            placement.measure_step(None, None, SimpleNamespace(trained=None), SimpleNamespace(num_processes=2))

    def test_memory_that_another_program_takes_meanwhile(self, train, gpu, prefetched, monkeypatch, capsys):
        monkeypatch.setattr(Trial, 'room', GB)  # as it was when the trial ended
        gpu['left'] = 0
        train()
        assert prefetched and ('* Data: another program has filled the GPU memory by now, so the images stay in host memory\n'
                               ) in capsys.readouterr().out

    def test_the_trial_changes_nothing(self, train, gpu, monkeypatch):
        states, measure = [], placement.measure_step

        def compared(data, plan, state, accelerator):
            before = digest(state.checkpoint())
            trial = measure(data, plan, state, accelerator)
            states.append((before, digest(state.checkpoint())))
            return trial
        monkeypatch.setattr(placement, 'measure_step', compared)
        train('--ema 0.9 --optimizer adamw')
        (before, after), = states
        assert before == after

    def test_the_trial_has_the_size_of_a_training_batch(self, train, gpu, monkeypatch):
        sizes, some_images = [], placement.some_images
        monkeypatch.setattr(placement, 'some_images', lambda *args: sizes.append(len(some_images(*args)[0])) or some_images(*args))
        train('--batch_size 8 --accumulate 2')
        assert sizes == [4, 4, 4, 4]  # two steps, training images to score, validation

    def test_evaluation_that_needs_more_than_a_step_leaves_less(self, monkeypatch):
        monkeypatch.setattr(placement, 'peaks', lambda *args: (20, 25, 10))
        monkeypatch.setattr(placement, 'gpu_memory', lambda device: (50, 80))
        state = SimpleNamespace(trained=torch.nn.Linear(1, 1, bias=False))  # 8 bytes for the optimizer
        assert placement.measure_step(None, None, state, SimpleNamespace(device='cpu')) == Trial(80, 50 - 8 - 5, 20, 10)

    def test_no_trial_without_a_gpu(self, train, monkeypatch, capsys):
        monkeypatch.setattr(placement, 'measure_step', None)
        train()
        assert '* Data:' not in capsys.readouterr().out


class TestTrial:
    """Memory for images, and sizes of evaluation batches."""

    @pytest.mark.parametrize(('left', 'room'), [(52, 44), (8, 0), (-3, 0)])
    def test_a_tenth_of_the_memory_stays_free(self, left, room):
        assert Trial(80, left, 1, 1).room == room

    @pytest.mark.parametrize(('step', 'evaluation', 'expected'), [
        (100, 101, 32), (100, 100, 32), (100, 51, 32), (100, 50, 64), (100, 20, 128), (100, 1, 256), (100, 0, 256)])
    def test_evaluation_needs_no_more_memory_than_a_step(self, step, evaluation, expected):
        assert Trial(0, 0, step, evaluation).eval_batch_size(8) == expected

    def test_evaluation_batches_are_never_smaller_than_usual(self):
        assert Trial(0, 0, 1, 100).eval_batch_size(256) == EVAL_FACTOR * 256

    def test_validation_uses_these_batches(self, train, gpu, monkeypatch):
        sizes, predict = [], engine.predict
        monkeypatch.setattr(engine, 'predict', lambda model, loader, *args, **kwargs: (
            sizes.append((loader.batch_size, len(loader.sampler))), predict(model, loader, *args, **kwargs))[1])
        monkeypatch.setattr(placement.Trial, 'eval_batch_size', lambda self, batch_size: 6)
        train()
        assert sizes == [(EVAL_FACTOR * 4, 9), (6, 9)]
