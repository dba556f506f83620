"""Send a signal to the whole process group while workers are busy, as `timeout`, a cluster or a terminal does."""
import os
import signal
import subprocess
import sys

import pytest

from tests.factories import ROOT, train_flags


@pytest.mark.skipif(sys.platform == 'win32', reason='process groups')
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_group(tiny, tmp_path, number):
    command = [sys.executable, '-u', '-m', 'tests.tiny_network', str(ROOT / 'train_lt_mxp.py'),
               *train_flags(tiny, '--no_cache --num_workers 2 --n_epochs 500 --patience 500')]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                               env=os.environ | {'PYTHONPATH': str(ROOT)})
    for line in process.stdout:
        if line.startswith('Epoch 2/'):
            break
    os.killpg(process.pid, number)
    _, err = process.communicate()
    assert process.returncode == 128 + number and 'everything is saved' in err and 'DataLoader worker' not in err
    assert (tmp_path / 'experiments' / 'run' / 'last').exists()
