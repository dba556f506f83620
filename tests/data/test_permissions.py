"""--private: only the owner can read the files that are written."""
import json
import os
import stat
import sys

import pytest

from tests.factories import write_distinct_images
from tools import (
    check_data,
    contact_sheet,
    ensemble_predictions,
    evaluate_predictions,
    predict,
    prepare_csv_data,
    prepare_folder_data,
    report,
)
from utils.common import InputError, write_text
from utils.data import permissions
from utils.data.permissions import keep_private
from utils.testing import scoring

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='owners and modes of POSIX')


@pytest.fixture(autouse=True)
def umask():
    """Set a common umask, and restore the previous one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder):
    """List the files and folders below `folder` that others can access."""
    found = [os.path.join(place, name) for place, folders, files in os.walk(folder) for name in folders + files]
    return [path for path in found if os.lstat(path).st_mode & 0o077]


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def tested(train, tiny):
    """A run with its results, written without --private."""
    run = train('--n_epochs 2')
    run_the_test(tiny)
    return run


def run_the_test(tiny, *flags):
    scoring.main('', {'test': str(tiny / 'test.csv')}, 0, ['--load_path', 'experiments/run', '--num_workers', '0', *flags])


def test_without_the_flag_the_umask_decides(tested, tmp_path):
    assert mode(tested) == mode(tmp_path / 'results' / 'run') == 0o755 and mode(tested / 'config.cfg') == 0o644


def test_a_run(train, tmp_path):
    train('--private --cache_dir cache --tensorboard --n_epochs 2')
    assert open_to_others(tmp_path) == [] and list((tmp_path / 'cache').iterdir())


def test_a_run_that_was_open_is_closed(train, tested, tmp_path):
    train('--private --overwrite --cache_dir cache')
    assert mode(tested) == 0o700 and open_to_others(tested) == []


def test_a_cache_that_was_open_is_closed(train, tmp_path):
    train('--cache_dir cache --save_path one')
    array, = (tmp_path / 'cache').iterdir()
    train('--private --cache_dir cache --save_path two')
    assert mode(array) == 0o600 and mode(tmp_path / 'cache') == 0o755


def test_a_run_resumes_without_it(train, tested):
    (tested / 'val_metrics.txt').unlink()
    train('--n_epochs 2 --resume --private')
    (tested / 'val_metrics.txt').unlink()
    train('--n_epochs 2 --resume')
    assert not json.loads((tested / 'config.cfg').read_text())['private'] and mode(tested) == 0o700


def test_the_results_of_a_test(tested, tiny, tmp_path):
    (tmp_path / 'results' / 'run' / 'of_before.csv').touch()
    run_the_test(tiny, '--private')
    assert mode(tmp_path / 'results' / 'run') == 0o700 and open_to_others(tmp_path / 'results' / 'run') == []


def test_predictions_and_heat_maps(tested, tiny, tmp_path):
    predict.main(['--load_path', 'experiments/run', str(tiny / 'images' / 'test_0_0.jpg'), '--gradcam', '--num_workers', '0', '--private',
                  '--results_path', 'other'])
    assert len(list((tmp_path / 'other').rglob('*'))) == 4 and open_to_others(tmp_path / 'other') == []


CSV = 'results/run/results_test.csv'
WRITERS = {
    'evaluate_predictions': (evaluate_predictions.main, [CSV, '--draws', '100', '--json', 'out/a.json']),
    'report': (report.main, ['experiments/run', '--draws', '100', '--out', 'out/a.html', '--model_card']),
    'contact_sheet': (contact_sheet.main, ['{tiny}/test.csv', '--data_path', '{tiny}/images', '--out', 'out/a.png']),
    'ensemble_predictions': (ensemble_predictions.main, [CSV, 'copy.csv', '--out', 'out/a.csv']),
    'check_data': (check_data.main, ['{tiny}/test.csv', '--data_path', '{tiny}/images', '--num_workers', '1', '--out', 'out/a.csv']),
    'prepare_csv_data': (prepare_csv_data.main, ['classes.csv', '--images', 'classes', '--out', 'out']),
    'prepare_folder_data': (prepare_folder_data.main, ['classes', '--out', 'out', '--test_fraction', '0', '--val_fraction', '0.5']),
}


@pytest.mark.parametrize('name', WRITERS)
def test_files_written_by_tools(tested, tiny, tmp_path, capsys, name):
    write_text('copy.csv', (tmp_path / CSV).read_text())
    write_distinct_images(tmp_path / 'classes', *(f'{folder}/{i}.jpg' for folder in 'ab' for i in range(4)))
    write_text('classes.csv', 'image,label\n' + ''.join(f'{folder}/{i},{folder}\n' for folder in 'ab' for i in range(4)))
    (tmp_path / 'out').mkdir()
    main, words = WRITERS[name]
    try:
        main([word.format(tiny=tiny) for word in words] + ['--private'])
    except SystemExit as end:  # check_data ends with an exit status
        assert isinstance(end.code, int)
    assert list((tmp_path / 'out').iterdir()) and open_to_others(tmp_path / 'out') == []
    assert f'* Note: other users can list {tmp_path}/out, but not read what --private writes there' in capsys.readouterr().out


def test_a_report_that_is_marked_as_outdated_stays_private(tested, tiny, tmp_path):
    report.main(['experiments/run', '--draws', '100', '--private'])
    os.umask(0o022)
    page = tmp_path / 'results' / 'run' / 'report.html'
    run_the_test(tiny, '--dihedral_tta', '2')
    assert 'class="note outdated"' in page.read_text() and mode(page) == 0o600


def test_the_next_command_keeps_the_flag(train, capsys):
    train('--private')
    assert capsys.readouterr().out.splitlines()[-1].endswith(' --private')


def test_the_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    real = os.geteuid()
    monkeypatch.setattr(permissions, '_keeps_owners', lambda folder: True)
    monkeypatch.setattr(os, 'geteuid', lambda: real + 1)
    with pytest.raises(InputError, match=r'--private: .* belongs to another user, who can read what is written there'):
        keep_private(True, str(tmp_path))


@pytest.mark.parametrize(('name', 'value'), [('HAS_MODES', False), ('_keeps_owners', lambda folder: False)])
def test_a_warning_where_the_flag_has_no_effect(tmp_path, monkeypatch, capsys, name, value):
    monkeypatch.setattr(permissions, name, value)
    keep_private(True, str(tmp_path))
    assert '* Warning: --private has no effect on Windows, or on file systems without owners and modes' in capsys.readouterr().out


def test_targets_of_links_are_not_closed(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'other').touch()
    (tmp_path / 'run' / 'link').symlink_to(tmp_path / 'other')
    keep_private(True, str(tmp_path / 'run'))
    assert mode(tmp_path / 'other') == 0o644
