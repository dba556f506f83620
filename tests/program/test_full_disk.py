"""The disk fills up during a run: earlier files stay readable, no partial file remains, and one line says what to do."""
import shutil
import subprocess
from itertools import groupby

import pandas as pd
import pytest
import torch

from tests.factories import checkpoint
from tests.kills import same
from tests.writes import FullDisk
from tools import report
from utils.common import run_script
from utils.data.bad_images import leave_out_bad_images
from utils.data.image_cache import use_cache
from utils.get_loaders import ClassDataset
from utils.model_saving_loading import FILE_NAME, read_checkpoint, save_model
from utils.testing import scoring

FLAGS = '--n_epochs 3 --n_checkpoints 2 --momentum 0.9 --do_mixup 0.2'
FULL = "[Errno 28] No space left on device: '{}'"
RESUME = f'error: {FULL}: free some space there and run the same command with --resume'
AGAIN = f'error: {FULL}: free some space there and run the same command again'


def message(main, *args):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: main(*args))
    return stop.value.code  # text, which means exit status 1


def check_intact(run, epoch):
    """Check that the best and last checkpoint can be read, that the last is of `epoch`, and that no temporary file is left."""
    assert read_checkpoint(str(run))['epoch'] <= read_checkpoint(str(run / 'last'))['epoch'] == epoch
    assert not list(run.rglob('*.tmp'))


def test_a_training_is_resumed_after_space_was_freed(train, monkeypatch, tmp_path):
    with monkeypatch.context() as m:
        disk = FullDisk(m, 'experiments/*')
        train(f'{FLAGS} --save_path whole')
    writes, first = {}, 0  # file -> for each time it was written, the numbers of its write calls
    for path, group in groupby(disk.paths):
        numbers = range(first, first + len(list(group)))
        writes.setdefault(path.removeprefix('experiments/whole/').rsplit('.', 2)[0], []).append(numbers)
        first = numbers.stop
    performance, log, last = 'performance_epoch_02.txt', 'log.jsonl', f'last/{FILE_NAME}'
    best, = (file for file in writes if file.startswith('epoch_02'))
    for file, room in ((performance, writes[performance][0][0]), (log, writes[log][1][0]),
                       (best, writes[best][0][len(writes[best][0]) // 2]), (last, writes[last][1][-1])):
        with monkeypatch.context() as m:
            FullDisk(m, 'experiments/*', room)
            assert message(train, f'{FLAGS} --overwrite') == RESUME.format(f'experiments/run/{file}')
        run = tmp_path / 'experiments' / 'run'
        check_intact(run, epoch=1)
        train(f'{FLAGS} --resume')
        same(tmp_path, 'whole', 'run')


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 40 MB at experiments/small."""
    folder = tmp_path / 'experiments' / 'small'
    folder.mkdir(parents=True)
    mount = shutil.which('mount')
    done = mount and subprocess.run([mount, '-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', folder], capture_output=True, text=True)
    if not mount or done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip() if mount else 'there is no mount command'}")
    yield folder
    subprocess.run(['umount', folder], check=True)


def test_a_real_disk(train, tiny, small_disk, tmp_path, capsys):
    """40 MB can hold the first epoch (weights 9 MB, last/ 18 MB) and the best checkpoint of the second, but not the second last/."""
    network = '--model_name mobilenetV2'
    flags = f'{FLAGS} {network} --save_path small/run --cache_dir {small_disk}/cache'
    assert message(train, flags) == RESUME.format(f'experiments/small/run/last/{FILE_NAME}')
    assert '* No image cache: ' in capsys.readouterr().out  # the remaining space is left to the checkpoints
    check_intact(small_disk / 'run', epoch=1)
    with open(small_disk / 'other', 'wb', buffering=0) as f, pytest.raises(OSError, match='No space'):
        while True:
            f.write(bytes(1 << 16))
    test = [f'--load_path {small_disk}/run --data_path {tiny}/images --num_workers 0 --results_path {small_disk}/results'.split()]
    assert message(scoring.main, '', {'test': str(tiny / 'test.csv')}, 0, *test) == AGAIN.format(
        small_disk / 'results' / 'small' / 'run' / 'results_test.csv')
    (small_disk / 'other').unlink()
    subprocess.run(['mount', '-o', 'remount,size=80m', small_disk], check=True)
    train(f'{flags} --resume')
    train(f'{FLAGS} {network} --save_path whole')
    same(tmp_path, 'whole', 'small/run')


def test_every_write_of_a_checkpoint(tmp_path, monkeypatch):
    saved = checkpoint() | {'state_dict': {str(n): torch.zeros(n) for n in (3, 3000, 30_000, 100_000)}}
    with monkeypatch.context() as m:
        disk = FullDisk(m, '*')
        save_model(tmp_path, saved)
    assert len(disk.paths) >= 5
    for room in range(len(disk.paths)):
        with monkeypatch.context() as m:
            FullDisk(m, '*', room)
            assert message(save_model, tmp_path, saved | {'epoch': 2}) == AGAIN.format(tmp_path / FILE_NAME)
        assert read_checkpoint(str(tmp_path))['epoch'] == 1 and [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_training_continues_without_an_image_cache(tiny, tmp_path, monkeypatch, capsys):
    data = ClassDataset(tiny / 'train.csv', str(tiny / 'images'), (32, 32))
    FullDisk(monkeypatch, '*.npy.*', 3)
    assert use_cache([data], str(tmp_path), 2) == 2 and data.cache is None
    out = capsys.readouterr().out
    assert f"* No image cache ({FULL.format(str(tmp_path) + '/train_32x32_')[:-1]}" in out and 'images are decoded on the fly' in out
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_bad_images_need_not_be_saved(tiny, tmp_path, monkeypatch, capsys):
    table = pd.read_csv(tiny / 'train.csv')
    shutil.copy(tiny / 'images' / f'{table.image_id[0]}.jpg', tmp_path)
    (tmp_path / f'{table.image_id[1]}.jpg').write_text('no image')
    data = ClassDataset(tiny / 'train.csv', str(tmp_path), (32, 32))
    FullDisk(monkeypatch, '*bad_images*', 0)
    leave_out_bad_images([data], 1, str(tmp_path / 'cache'))
    assert data.image_ids == [table.image_id[0]] and list((tmp_path / 'cache').iterdir()) == []
    assert '* Could not save the list of unreadable images for the next run: [Errno 28] No space left' in capsys.readouterr().out


def test_results_and_report(train, tiny, tmp_path, monkeypatch):
    train()
    test = ['', {'test': str(tiny / 'test.csv')}, 0,
            f'--load_path experiments/run --data_path {tiny}/images --num_workers 0'.split()]
    scoring.main(*test)
    report.main(['experiments/run', '--draws', '100'])
    folder = tmp_path / 'results' / 'run'
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert len(before) == 4
    for file, main, args in (('results_test.csv', scoring.main, test), ('results_test.json', scoring.main, test),
                             ('performance_test.txt', scoring.main, test),
                             ('report.html', report.main, [['experiments/run', '--draws', '100']])):
        with monkeypatch.context() as m:
            FullDisk(m, f'results/*{file}*', 0)
            assert message(main, *args) == AGAIN.format(f'results/run/{file}')
        assert before == {file: file.read_bytes() for file in folder.iterdir()}
