"""Check which heavy libraries a script has imported when it prints its help: nobody should wait for those that a command may not need."""
import functools
import json
import subprocess
import sys

import pytest

from tests.factories import ROOT
from tests.scripts import SCRIPTS

TORCH = {'torch', 'accelerate'}
HEAVY = TORCH | {'torchvision', 'timm', 'sklearn', 'scipy.stats', 'scipy.optimize', 'matplotlib', 'tensorboard', 'onnx'}
NETWORK = ('train_lt_mxp.py', 'test_with_labels_endo.py', 'test_with_labels_eyepacs.py', 'tools/predict.py', 'tools/export_model.py',
           'tools/calibrate.py', 'tools/serve.py')
OTHERS = tuple(script for script in SCRIPTS if script.startswith('tools/') and script not in NETWORK)
HELP = """
import contextlib, io, json, runpy, sys
scripts, imported = sys.argv[1:], {}
for script in scripts:
    sys.argv = [script, '--help']
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        runpy.run_module(script.removesuffix('.py').replace('/', '.'), run_name='__main__')
    imported[script] = list(sys.modules)
print(json.dumps(imported))
"""


@functools.cache
def imported_for_help(scripts):
    """Let `scripts` print their help, in one process to save time. -> {script: heavy libraries that it or one before it has imported}"""
    done = subprocess.run([sys.executable, '-c', HELP, *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {script: HEAVY.intersection(modules) for script, modules in json.loads(done.stdout).items()}


@pytest.mark.parametrize('script', OTHERS)
def test_tools_without_a_network_import_no_heavy_library(script):
    assert imported_for_help(OTHERS)[script] == set()


@pytest.mark.parametrize('script', NETWORK)
def test_scripts_with_a_network_import_only_torch_and_accelerate(script):
    assert imported_for_help(NETWORK)[script] <= TORCH


def test_check_data_reports_an_unreadable_csv_without_torch(tmp_path):
    (tmp_path / 'a.csv').write_text('image_id,label\n"a,0\n')
    code = 'import sys; from tools.check_data import main\ntry: main()\nexcept ValueError: print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code, tmp_path / 'a.csv'], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == 'False\n', done.stderr
