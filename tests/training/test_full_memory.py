"""Out of memory, on the GPU or the host: a one-line error names the flag to change, and the run can be resumed."""
import json
import runpy

import pytest
import torch

from tests.factories import ROOT, signal_in_batch
from tests.tiny_network import TinyNetwork
from utils.common import InputError, Interrupted, out_of_memory, run_script
from utils.model_saving_loading import read_checkpoint

CUDA = 'CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.76 GiB of which 1.69 GiB is free.'
FULL = 'GPU memory is full, 2.50 GiB more were needed'
FLAGS = '--n_epochs 3 --train_eval off'


def ending(main, *options):
    with pytest.raises(SystemExit) as stop:
        run_script(main, *options)
    return stop.value.code  # a string means exit status 1


def raising(error):
    def main():
        raise error
    return main


@pytest.mark.parametrize(('error', 'message'), [
    (torch.OutOfMemoryError(CUDA), FULL),
    (RuntimeError('MPS backend out of memory (MPS allocated: 5.00 GB). Tried to allocate 1.00 GB on private pool.'),
     'GPU memory is full, 1.00 GB more were needed'),
    (RuntimeError('CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported'), 'GPU memory is full'),
    (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'), 'GPU memory is full'),
    (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), 'GPU memory is full'),
    (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\n... DefaultCPUAllocator: can't allocate memory: you tried to "
                  'allocate 4194304000 bytes. Error code 12'), 'memory is full, 4,000 MiB more were needed'),
    (MemoryError('Unable to allocate 72.8 TiB for an array with shape (7,)'), 'memory is full, 72.8 TiB more were needed'),
    (MemoryError(), 'memory is full')])
def test_full_memory_is_one_line(error, message):
    assert ending(raising(error)) == f'error: {message}: close other programs that use it, or use a machine with more memory'


def test_out_of_memory_on_the_host_is_recognised():
    with pytest.raises(RuntimeError) as stop:
        torch.empty(2 ** 60)
    assert out_of_memory(stop.value) == 'memory is full, 4,398,046,511,104 MiB more were needed'


@pytest.mark.parametrize('error', [RuntimeError('a fault of ours'), ValueError('out of memory'), InputError('out of memory')])
def test_other_errors_are_not_taken_for_out_of_memory(error):
    assert out_of_memory(error) is None


@pytest.fixture
def break_at(monkeypatch):
    """-> function that makes the tiny network run out of memory from its `n`-th training step on; 0: never"""
    calls, forward = [], TinyNetwork.forward

    def breaking(n):
        def count(self, x):
            if self.training and x.any():  # not the forward check, whose images are zeros
                calls.append(1)
            if n and len(calls) >= n:
                raise torch.OutOfMemoryError(CUDA)
            return forward(self, x)
        calls.clear()
        monkeypatch.setattr(TinyNetwork, 'forward', count)
    return breaking


def message(train, flags):
    with pytest.raises(InputError) as stop:
        train(flags)
    return str(stop.value)


@pytest.mark.parametrize(('flags', 'advice'), [
    ('', 'use a --batch_size below 4, or the same one with --accumulate 2, and --overwrite to start again'),
    ('--batch_size 9', 'use a --batch_size below 9, or the same one with --accumulate 3, and --overwrite to start again'),
    ('--batch_size 8 --accumulate 2', 'use a --batch_size below 8, or the same one with --accumulate 4, and --overwrite to start again'),
    ('--do_not_save', 'use a --batch_size below 4, or the same one with --accumulate 2')])
def test_advice_in_the_first_epoch(train, break_at, flags, advice):
    break_at(2)
    assert message(train, f'{FLAGS} {flags}') == f'{FULL}: {advice}'


def test_batches_of_one_image_cannot_be_split(train, monkeypatch):
    monkeypatch.setattr('utils.training.network.check_forward', lambda *args: None)
    monkeypatch.setattr(TinyNetwork, 'forward', lambda *args: raising(torch.OutOfMemoryError(CUDA))())
    assert message(train, '--batch_size 2 --accumulate 2') == (f'{FULL}: use a smaller --im_size or another --model_name, and --overwrite '
                                                               'to start again')


@pytest.mark.parametrize('flags', ['--batch_size 2', '--accumulate 2'])
def test_the_advice_in_the_first_epoch_works(train, break_at, flags):
    break_at(2)
    message(train, FLAGS)
    break_at(0)
    assert (train(f'{FLAGS} {flags} --overwrite') / 'val_metrics.txt').exists()


@pytest.fixture
def stopped(train, break_at):
    """The error of a run that runs out of memory in its third epoch."""
    break_at(5 + 5 + 3)
    said = message(train, f'{FLAGS} --momentum 0.9')
    break_at(0)
    return said


def test_advice_in_a_later_epoch(stopped):
    assert stopped == (f'{FULL}: resume after epoch 2 with --accumulate 2 --resume, or start again with a smaller --batch_size '
                       'and --overwrite')


def test_a_run_resumes_after_an_epoch_with_smaller_batches(stopped, train, capsys):
    run = train(f'{FLAGS} --momentum 0.9 --accumulate 2 --resume')
    assert 'Resuming experiments/run after epoch 2\n' in capsys.readouterr().out
    assert len((run / 'log.jsonl').read_text().splitlines()) == 3 and json.loads((run / 'config.cfg').read_text())['accumulate'] == 2


def test_a_run_resumes_unchanged_when_memory_is_free_again(stopped, train):
    run = train(f'{FLAGS} --momentum 0.9 --resume')
    whole = train(f'{FLAGS} --momentum 0.9 --save_path whole').parent / 'whole'
    a, b = (read_checkpoint(str(folder / 'last'))['state_dict'] for folder in (run, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_resumes_within_an_epoch_with_smaller_batches(train, monkeypatch):
    """Two of five steps are done. The resumed run trains the other three, with two batches each."""
    calls = signal_in_batch(monkeypatch, 5 + 2)
    with pytest.raises(Interrupted):
        train('--n_epochs 2')
    run = train('--n_epochs 2 --accumulate 2 --resume')
    assert len(calls) == 5 + 2 + 3 * 2
    first, second = (json.loads(line)['training_loss'] for line in (run / 'log.jsonl').read_text().splitlines())
    assert second == pytest.approx(first, rel=.5)  # the mean includes the batches before the interruption


def test_a_configuration_with_accumulate_0_is_refused(train):
    config = train() / 'config.cfg'
    (config.parent / 'val_metrics.txt').unlink()
    config.write_text(config.read_text().replace('"accumulate": 1', '"accumulate": 0'))
    with pytest.raises(InputError, match="'accumulate' must be a whole number, 1 or more, not 0"):
        train('--resume')


def test_out_of_memory_in_the_forward_check(train, monkeypatch):
    host = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2097152 bytes."
    monkeypatch.setattr(TinyNetwork, 'forward', lambda *args: raising(RuntimeError(host))())
    assert message(train, '') == ('memory is full, 2 MiB more were needed by --model_name tiny_test for a batch of 1 at 32x32: use a '
                                  'smaller --im_size')


SCRIPTS = [  # command line, function that runs out of memory, advice
    ('train_lt_mxp.py --csv_train {tiny}/train.csv --data_path {tiny}/images --n_classes 3',
     'utils.prediction.accelerator.build_accelerator',
     'use a smaller --batch_size, or the same one with --accumulate 2'),
    ('test_with_labels_eyepacs.py --load_path {run} --csv_test {tiny}/test.csv', 'utils.testing.network.collect_logits',
     'use a smaller --batch_size'),
    ('test_with_labels_endo.py --load_path {run} --csv_val {tiny}/val.csv', 'utils.testing.network.collect_logits',
     'use a smaller --batch_size'),
    ('-m tools.predict --load_path {run} {tiny}/images', 'utils.testing.new_images.collect_logits', 'use a smaller --batch_size'),
    ('-m tools.check_data {tiny}/train.csv --data_path {tiny}/images', 'utils.data.near_duplicates.similar_pairs',
     'close other programs that use it, or search for identical files only: --similarity 1')]


@pytest.mark.filterwarnings('ignore:.*found in sys.modules')
@pytest.mark.parametrize(('words', 'place', 'advice'), SCRIPTS, ids=[words.split(' --')[0] for words, _, _ in SCRIPTS])
def test_a_script_names_its_own_flag(train, tiny, monkeypatch, words, place, advice):
    words = words.format(run=train(), tiny=tiny).split()
    monkeypatch.setattr(place, lambda *args, **options: raising(torch.OutOfMemoryError(CUDA))())
    monkeypatch.setattr('sys.argv', words if words[0] != '-m' else words[1:])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(words[1], run_name='__main__') if words[0] == '-m' else runpy.run_path(str(ROOT / words[0]), run_name='__main__')
    assert stop.value.code == f'error: {FULL}: {advice}'
