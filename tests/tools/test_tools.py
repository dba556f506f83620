import re

import pytest
from PIL import Image

from tools import check_environment, contact_sheet
from utils.common import InputError, run_script, whole_file
from utils.get_loaders import ClassDataset


def test_contact_sheet(tiny):
    sheet = contact_sheet.contact_sheet(ClassDataset(tiny / 'train.csv', tiny / 'images', (20, 20)), 3, columns=5)
    assert isinstance(sheet, Image.Image) and sheet.size[1] == 3 * 24


def test_check_environment(tmp_path):
    (tmp_path / 'r.txt').write_text('# comment\nnumpy==1\ntorch==2\nsurely-not-installed==1.0\n')
    assert list(check_environment.missing([tmp_path / 'r.txt'])) == ['surely-not-installed']


def test_errors_are_one_line(capsys):
    def fail():
        raise InputError('x.csv: no rows')
    with pytest.raises(SystemExit) as error:
        run_script(fail)
    assert error.value.code == 'error: x.csv: no rows'


def test_a_file_that_cannot_be_written_gives_a_one_line_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit) as error:
        run_script(lambda: (tmp_path / 'file' / 'run').mkdir())
    assert re.fullmatch(r"error: \[Errno 20\] Not a directory: '.*/file/run'", error.value.code)


def test_whole_file(tmp_path):
    with pytest.raises(OSError, match='full'), whole_file(tmp_path / 'a') as f:
        f.write(b'half')
        raise OSError('full')
    assert list(tmp_path.iterdir()) == []
