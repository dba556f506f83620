"""Cost of preparing a batch: counted launches, their bytes, and the table."""
import pytest
import torch

from benchmarks import batch_transform
from utils.training.augmentation import AUGMENT


@pytest.mark.parametrize('call, count, n_bytes', [
    (lambda x: x.view(-1)[3:], 0, 0), (lambda x: x.new_empty(5), 0, 0), (lambda x: x + 1, 1, 2 * 96), (lambda x: x.mul_(x), 1, 3 * 96),
    (lambda x: torch.add(x, 1, out=x), 1, 2 * 96), (lambda x: torch.zeros(24).to('meta'), 1, 96), (lambda x: torch.zeros(24) + 1, 0, 0),
    (lambda x: torch.cat([x, x]), 1, 4 * 96)],
    ids=['view', 'empty', 'add', 'in place', 'out', 'copy from the host', 'host', 'list'])
def test_launches(call, count, n_bytes):
    x = torch.empty(4, 6, device='meta')
    with batch_transform.Launches() as counter:
        call(x)
    assert (counter.count, counter.n_bytes) == (count, n_bytes)


@pytest.fixture(scope='module')
def cost():
    """Launches and passes over the float images for 64 images of 512x512."""
    images = torch.empty(64, 3, 512, 512, dtype=torch.uint8)
    counted = batch_transform.launches([(images, torch.arange(64) % 2, None)] * 2)
    return {name: (count, n_bytes / (4 * images.numel())) for name, (count, n_bytes) in counted.items()}


@pytest.mark.parametrize('name', ['original', 'rotate', 'zoom'])
def test_jitter_has_few_launches_and_passes(cost, name):
    launches, passes = cost[f'--augment {name}']
    assert launches <= 80 and passes <= 64


def test_balanced_mixup_costs_as_much_as_two_batches(cost):
    assert cost['Balanced-MixUp'][0] <= 90 and cost['Balanced-MixUp'][1] <= 2 * 64


def test_the_table(capsys):
    batch_transform.main(['--batch_size', '2', '--im_size', '16,24', '--repeats', '1'])
    title, _, *rows, _ = capsys.readouterr().out.splitlines()
    assert title.endswith('2 images of 16x24')
    assert [row[:22].strip() for row in rows] == [f'--augment {name}' for name in AUGMENT] + ['Balanced-MixUp']
    assert all(float(value) >= 0 for row in rows for value in row[22:].split())
