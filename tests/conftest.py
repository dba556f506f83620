from tests import environment  # noqa: F401  first, because it sets variables that the imports below read

# isort: split
import os
import shutil
import signal

import pytest
import torch

from tests import tiny_network
from tests.browser import Browser, find_chromium
from tests.factories import ROOT, train_flags, write_images
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main

torch.set_num_threads(1)
tiny_network.register()
# A test suite that was started in the background ignores SIGINT, and the scripts that it starts would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def browser():
    program = find_chromium()
    if program is None:
        pytest.skip('no Chromium on this machine (Debian: apt-get install chromium)')
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Run the real training script on the tiny set in an empty working folder, with command-line flags."""
    monkeypatch.chdir(tmp_path)

    def run(flags=''):
        train_main(get_parser().parse_args(train_flags(tiny, flags)))
        return tmp_path / 'experiments' / 'run'
    return run


@pytest.fixture
def images(tiny, tmp_path):
    """A copy of the tiny set that a test may change."""
    shutil.copytree(tiny, tmp_path / 'set', ignore=shutil.ignore_patterns('cache'))
    return tmp_path / 'set'


@pytest.fixture
def scripts(tmp_path):
    """A folder with only the shell scripts. The checkout may contain finished runs, which they would skip."""
    shutil.copy(ROOT / 'run_lt_experiments.sh', tmp_path)
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools', ignore=lambda folder, names: [name for name in names if not name.endswith('.sh')])
    return tmp_path


@pytest.fixture(scope='session')
def real_data():
    folder = os.environ.get('LT_REAL_DATA')
    if not folder:
        pytest.skip('needs LT_REAL_DATA=FOLDER with the real images')
    return folder
