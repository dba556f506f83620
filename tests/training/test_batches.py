import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.factories import MEAN, STD, Waits, image_batch
from utils.prediction.inference import Normalise
from utils.reproducibility import set_backends
from utils.training.augmentation import AUGMENT, draw_params, jitter, move
from utils.training.batches import BatchTransform
from utils.training.mixing import MIXING


@pytest.fixture
def normalise():
    return Normalise('cpu', MEAN, STD)


def test_normalise(normalise):
    images = image_batch(3, 0)[0]
    out = normalise(images)
    expected = (images.numpy() / 255. - np.array(MEAN).reshape(3, 1, 1)) / np.array(STD).reshape(3, 1, 1)
    np.testing.assert_allclose(out.numpy(), expected, atol=2e-6)
    assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype == torch.float32


def test_plain(normalise):
    images, labels, ids = image_batch(6, 1)
    inputs, targets = BatchTransform(normalise, seed=4)([(images, labels, ids)])
    params = draw_params(np.random.default_rng([4, 2, 0]), 6, 26)
    expected = jitter(move(images / 255, params), params)
    torch.testing.assert_close(inputs * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1), expected)
    assert torch.equal(targets, labels) and not torch.equal(images / 255, expected)


@pytest.mark.parametrize('augment', AUGMENT)
@pytest.mark.parametrize('world_size', [2, 3])
def test_several_processes_make_the_draws_of_one(normalise, augment, world_size):
    images, labels, ids = image_batch(6, 3)
    whole = BatchTransform(normalise, augment, seed=5)
    parts = [BatchTransform(normalise, augment, 5, rank, world_size) for rank in range(world_size)]
    for _ in range(2):  # the second call checks that the streams stay in step
        expected = whole([(images, labels, ids)])[0]
        for rank, part in enumerate(parts):
            mine = slice(rank, None, world_size)
            torch.testing.assert_close(part([(images[mine], labels[mine], ids[mine])])[0], expected[mine], rtol=0, atol=1e-5)


def test_epochs_are_reproducible_and_differ(normalise):
    prepare, data = BatchTransform(normalise, seed=0), [image_batch(4, 0)]

    def draw(epoch):
        prepare.set_epoch(epoch)
        return prepare(data)[0]
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    images, labels, ids = data[0]
    same = BatchTransform(normalise)([(images[:1].repeat(9, 1, 1, 1), labels, ids)])[0]
    assert len({tuple(image.flatten().tolist()) for image in same}) == 9  # one draw per image


class HostWork(TorchDispatchMode):
    """Records operations on images in host memory, except copies to the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        values = tree_flatten((args, kwargs or {}))[0]
        on_host = any(isinstance(v, torch.Tensor) and v.ndim == 4 and v.shape[-1] > 1 and v.device.type == 'cpu' for v in values)
        if on_host and func is not torch.ops.aten._to_copy.default:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=MIXING)
def prepare(request, augment):
    """The batch transform of each mixing and policy on the device 'meta', as a function without arguments."""
    normalise, mixing = Normalise('meta', MEAN, STD), MIXING[request.param]
    transform = mixing(normalise, [5, 3], augment=augment) if mixing else BatchTransform(normalise, augment)
    batch = torch.zeros(9, 3, 16, 16, dtype=torch.uint8), torch.arange(9) % 2, None
    return lambda: transform([batch] * 2)


@pytest.mark.parametrize('augment', AUGMENT)
def test_images_are_only_copied_on_the_host(prepare):
    with HostWork() as work:
        prepare()
    assert work.found == []


@pytest.mark.parametrize('copy', [lambda x, y: x.to('meta'), lambda x, y: y.copy_(x)], ids=['to', 'copy_'])
def test_waits_are_found(copy):
    with Waits() as waits:
        copy(torch.zeros(2), torch.zeros(2, device='meta'))
    assert len(waits.found) == 1


@pytest.mark.parametrize('augment', AUGMENT)
def test_preparing_a_batch_waits_for_the_device_nowhere(prepare):
    with Waits() as waits:
        for _ in range(5):  # each draws other operations
            prepare()
    assert waits.found == []


@pytest.fixture
def backends(monkeypatch):
    """CUDA settings, restored after the test."""
    flags = [(torch.backends.cudnn, 'benchmark'), (torch.backends.cudnn, 'allow_tf32'), (torch.backends.cuda.matmul, 'allow_tf32')]
    before = [getattr(owner, name) for owner, name in flags]
    monkeypatch.setattr(torch, 'use_deterministic_algorithms', lambda *args, **kwargs: None)
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')
    yield torch.backends
    for (owner, name), value in zip(flags, before, strict=True):
        setattr(owner, name, value)


@pytest.mark.parametrize('deterministic, one_size, by_trial', [(False, True, True), (False, False, False), (True, True, False)])
def test_cudnn_benchmark_is_on_only_where_it_helps(backends, deterministic, one_size, by_trial):
    set_backends(deterministic, use_cuda=True, one_size=one_size)
    assert backends.cudnn.benchmark is by_trial
