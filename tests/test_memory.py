"""What importing `utils` sets for the process."""
import subprocess
import sys
from pathlib import Path

import pytest

CODE = '''
import resource
import {module}
import torch
layers = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()) for _ in range(8)])
def faults():
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        layers(torch.ones(20000, 64)).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
faults()
print(faults())
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of glibc')
def test_freed_memory_is_kept():
    def faults(module):
        return int(subprocess.check_output([sys.executable, '-c', CODE.format(module=module)], cwd=Path(__file__).parent.parent))
    # The kernel may take pages back at any time when memory is short: the best of some tries shows the setting.
    assert min(faults('utils') for _ in range(4)) < faults('sys') / 2
