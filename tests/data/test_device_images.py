"""Images and features that stay on a device: the same items as from the image cache. The CPU stands in for a GPU."""
import pytest
import torch

from tests.factories import arrays, cache_datasets, cached, same_pixels
from utils.common import InputError
from utils.data import device_images
from utils.data.dataset import ClassDataset
from utils.data.device_images import DeviceArray, copy_to_device, n_bytes_of
from utils.data.image_cache import use_cache

CPU = torch.device('cpu')
SHAPES = [(3, 4, 8), (3, 2, 2), (3, 1, 2), (3, 5, 7), (1, 1, 1)]  # rows of 96, 12, 6, 105 and 1 bytes


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_reads_images_in_any_order_with_repetition(shape):
    values = torch.randint(0, 256, (9, *shape), dtype=torch.uint8)
    found = DeviceArray(values).read([8, 0, 3, 3])
    assert found.dtype == torch.uint8 and torch.equal(found, values[[8, 0, 3, 3]])


@pytest.mark.parametrize('shape', [(7,), (7, 1, 1), (1,)], ids=str)
def test_reads_features(shape):
    values = torch.randn(5, *shape)
    found = DeviceArray(values).read([4, 0, 4])
    assert found.dtype == torch.float32 and torch.equal(found, values[[4, 0, 4]])


def test_reads_features_of_channels_last_networks():
    values = torch.randn(5, 7, 1, 1).contiguous(memory_format=torch.channels_last)
    assert torch.equal(DeviceArray(values).read([4, 0, 4]), values[[4, 0, 4]])


def test_an_item_may_be_any_row():
    values = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    rows = torch.tensor([5, 5, 2]).numpy()
    assert torch.equal(DeviceArray(values, rows).read([2, 0, 1]), values[[2, 5, 5]])


def test_a_batch_is_a_copy():
    values = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    array = DeviceArray(values)
    array.read([0]).add_(1)
    assert not array.read([0]).any()


@pytest.mark.parametrize('n_threads', [1, 3])
@pytest.mark.parametrize('chunk', [1, 5 * 720, 1 << 20], ids='chunks of {} bytes'.format)
def test_copied_images_are_those_of_the_files(images, monkeypatch, chunk, n_threads):
    monkeypatch.setattr(device_images, 'CHUNK', chunk)
    sets = cached(images)
    copy_to_device(sets, CPU, n_threads)
    assert all(isinstance(data.cache, DeviceArray) for data in sets) and same_pixels(sets, cache_datasets(images))


def test_an_image_in_both_sets_is_copied_once(images):
    sets = [ClassDataset(images / 'train.csv', str(images / 'images'), (12, 20)) for _ in range(2)]
    use_cache(sets, str(images / 'cache'))
    assert n_bytes_of(*sets) == n_bytes_of(sets[0]) == 22 * 720
    copy_to_device(sets, CPU)
    assert sets[0].cache.words.data_ptr() == sets[1].cache.words.data_ptr() and len(sets[0].cache.words) == 22
    assert same_pixels(sets, cache_datasets(images, 'train', 'train'))


def test_a_damaged_image_is_named_and_leaves_the_cache_in_place(images):
    sets = cached(images)
    path, = arrays(images)
    content = bytearray(path.read_bytes())
    content[128 + 5 * 720 + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'is damaged: image 5 does not match its checksum\. Delete the file'):
        copy_to_device(sets, CPU)
    assert not any(isinstance(data.cache, DeviceArray) for data in sets)
