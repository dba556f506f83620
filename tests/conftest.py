from tests import environment  # noqa: F401  first of all: it cleans what the imports below read

# isort: split
import os
import shutil
import signal

import pytest
import torch

from tests import tiny_network
from tests.factories import ROOT, train_flags, write_images
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main

torch.set_num_threads(1)
tiny_network.register()
# A suite started in the background ignores Ctrl-C, and so would the scripts that it starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)



@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('tiny'))


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    """Runs the real entry point on the tiny set, in an empty working folder; flags as on the command line."""
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
    """A folder with the shell scripts alone: in the checkout there may be runs, which they would leave out."""
    shutil.copy(ROOT / 'run_lt_experiments.sh', tmp_path)
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools', ignore=lambda folder, names: [name for name in names if not name.endswith('.sh')])
    return tmp_path


@pytest.fixture(scope='session')
def real_data():
    folder = os.environ.get('LT_REAL_DATA')
    if not folder:
        pytest.skip('LT_REAL_DATA names no folder with the real images')
    return folder
