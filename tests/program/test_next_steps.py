"""Follow the command that each script prints last: from a folder of images to the report, and after an interruption."""
import math
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train_lt_mxp
from tests.next_steps import next_words, parse
from tools import contact_sheet, predict, prepare_demo_data, prepare_folder_data
from utils.common import progress, run_script
from utils.testing import scoring
from utils.training.batches import BatchTransform
from utils.training.run_text import epoch_line

QUICK = '--im_size 32 --model_name tiny_test --init none --n_epochs 2 --batch_size 4 --num_workers 0 --metric mcc'
PREPARE = ['my set', '--val_fraction', '.25', '--test_fraction', '.25']
RUN = 'experiments/my set/instance'


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A data set whose paths need quotes, with its csvs, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ('grade 0', "grade's 1"):
        (tmp_path / 'my set' / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / 'my set' / name / f'{i}.png')
    prepare_folder_data.main(PREPARE)


@pytest.fixture
def follow(capsys):
    """Run the command that was printed last, which must call `script`, with `more` flags."""
    def run(script, *more, err=False):
        out = capsys.readouterr()
        words = next_words(out.err if err else out.out)
        assert script in words[1:3]
        module, args, argv = parse(words)
        if module is train_lt_mxp:
            module.main(module.get_parser().parse_args([*argv, *more]))
        elif hasattr(module, 'DEFAULTS'):
            scoring.main('test', **module.DEFAULTS, argv=[*argv, *more])
        else:
            module.main([*argv, *more])
        return args
    return run


def test_from_images_to_the_report(pictures, follow, capsys):
    prepare_folder_data.main(PREPARE)
    with pytest.raises(SystemExit, match='False'):
        follow('tools.check_data', '--num_workers', '1', '--similarity', '1')
    assert follow('train_lt_mxp.py', *QUICK.split(), '--save_path', 'my set/instance').csv_train == 'data/train_my set.csv'
    assert follow('test_with_labels_eyepacs.py', '--num_workers', '0').csv_test == 'data/test_my set.csv'
    assert follow('tools.evaluate_predictions', '--draws', '100').run == RUN
    assert follow('tools.compare_experiments', '--draws', '100').folders == ['results/my set']
    follow('tools.report', '--draws', '100', err=True)
    words = next_words(capsys.readouterr().out)
    assert words[1:3] == ['-m', 'webbrowser'] and words[3] == Path('results/my set/instance/report.html').resolve().as_uri()
    assert Path('results/my set/instance/report.html').exists()

    predict.main(['--load_path', RUN, 'my set/grade 0/1.png', '--num_workers', '0'])
    assert follow('tools.predict', '--num_workers', '0').gradcam
    follow('test_with_labels_eyepacs.py', '--num_workers', '0')
    Path('new.csv').write_text('image_id\ngrade 0/1\n')
    scoring.main('test', {'test': 'new.csv'}, 0, ['--load_path', RUN, '--num_workers', '0'])
    assert follow('tools.report').runs == [RUN]  # without labels there are no scores


def test_checks_before_training(pictures, follow):
    contact_sheet.main(['data/train_my set.csv', '--data_path', 'my set'])
    with pytest.raises(SystemExit, match='False'):
        follow('tools.check_data', '--num_workers', '1', '--similarity', '1')
    assert follow('train_lt_mxp.py', *QUICK.split(), '--do_not_save').recipe == 'finetune'
    contact_sheet.main(['data/val_my set.csv', '--data_path', 'my set'])
    with pytest.raises(SystemExit, match='False'):
        follow('tools.check_data', '--num_workers', '1')
    follow('tools.contact_sheet')  # training needs more than one csv


def test_demo_data(tmp_path, capsys):
    (tmp_path / 'demo').mkdir()
    prepare_demo_data.main(['--out', str(tmp_path / 'demo')])
    assert parse(next_words(capsys.readouterr().out))[1].data_path == f'{tmp_path}/demo/images'


@pytest.mark.parametrize('name', [[], ['--save_path', 'my run', '--overwrite']])
def test_an_interrupted_training_says_how_to_resume(pictures, follow, monkeypatch, capsys, name):
    """The printed command also works after --overwrite, and for a run named by its start time."""
    argv = ['train_lt_mxp.py', '--csv_train', 'data/train_my set.csv', '--data_path', 'my set', '--n_classes', '2', *QUICK.split(), *name]
    original = BatchTransform.__call__

    def strike(*args):
        signal.raise_signal(signal.SIGINT)
        return original(*args)
    monkeypatch.setattr(BatchTransform, '__call__', strike)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(argv[1:]), argv))
    assert end.value.code == 130
    monkeypatch.setattr(BatchTransform, '__call__', original)
    assert follow('train_lt_mxp.py', err=True).resume
    run, = Path('experiments').iterdir()
    assert (run / 'val_metrics.txt').exists() and 'Epoch 2/2' in capsys.readouterr().out


def test_a_second_signal(pictures, monkeypatch, capsys):
    argv = ['train_lt_mxp.py', '--csv_train', 'data/train_my set.csv', '--data_path', 'my set', '--n_classes', '2', *QUICK.split()]

    def strike(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(BatchTransform, '__call__', strike)
    with pytest.raises(SystemExit, match='130'):
        run_script(lambda: train_lt_mxp.main(train_lt_mxp.get_parser().parse_args(argv[1:]), argv))
    err = capsys.readouterr().err
    assert 'interrupted: the last finished epoch is saved\n* Next, resume it: ' in err and '--resume' in next_words(err)


def test_progress_without_a_terminal(capsys):
    scores = dict.fromkeys(('loss', 'kappa', 'auc', 'mcc', 'bacc', 'acc'), .5) | {'n_predicted': 3}
    record = {'epoch': 2, 'train': scores, 'val': scores, 'lr': .01, 'images_per_second': 57.3, 'seconds': 90.}
    assert epoch_line(record, 5).endswith(' - LR: 0.01 - 57 img/s - 90.0 s - 4 min left')
    assert epoch_line(record, 2).endswith(' - 57 img/s - 90.0 s')
    assert epoch_line(record, 2).startswith('Epoch 2/2 Train||Val Loss: ')
    record['train'] = dict.fromkeys(record['train'], math.nan)  # --train_eval off
    assert re.match(r'Epoch 2/2 Val Loss: [\d.]+ - K: [\d.]+ - mAUC: ', epoch_line(record, 2))
    assert not sys.stderr.isatty()


def test_a_long_step_prints_its_progress_without_a_terminal(monkeypatch, capsys):
    now = [0.]
    monkeypatch.setattr('tqdm.std.time', lambda: now[0])
    for desc, seconds in (('Epoch 1/2', 20), ('val', .5)):
        with progress(100, desc) as bar:
            for _ in range(100):
                now[0] += seconds
                bar.update(1)
                bar.set_postfix(loss='0.5', refresh=False)
    err = capsys.readouterr().err
    assert err.replace('\r', '') == (
        'Epoch 1/2: 3 % after 01:00, 32:20 left\nEpoch 1/2: 33 % after 11:00, 22:20 left\nEpoch 1/2: 63 % after 21:00, 12:20 left\n'
        'Epoch 1/2: 93 % after 31:00, 02:20 left\n')
