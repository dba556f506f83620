"""Host batches copied ahead: same batches in the same order, errors where they are used, one batch ahead. The CPU stands in for a GPU."""
import signal
import threading
from concurrent.futures import Future
from itertools import islice

import pytest
import torch

from utils.common import InputError, Interrupted
from utils.data.prefetch import prefetch, side_stream

CPU = torch.device('cpu')


def batches(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8, generator=rng), torch.arange(3) + i, [f'id{i}'] * 3) for i in range(n)]


@pytest.mark.parametrize('n', [0, 1, 2, 7])
def test_yields_the_same_batches_in_order(n):
    found = list(prefetch(iter(batches(n)), CPU))
    assert len(found) == n
    for (images, labels, ids), (expected_images, expected_labels, expected_ids) in zip(found, batches(n), strict=True):
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels) and ids == expected_ids


def test_reads_in_another_thread():
    threads = []

    def source():
        for batch in batches(2):
            threads.append(threading.current_thread())
            yield batch
    list(prefetch(source(), CPU))
    assert len(set(threads)) == 1 and threads[0] is not threading.main_thread()


def test_reads_at_most_one_batch_ahead():
    read = []

    def source():
        for i, batch in enumerate(batches(9)):
            read.append(i)
            yield batch
    found = prefetch(source(), CPU)
    list(islice(found, 3))
    found.close()  # waits for the thread
    assert read == [0, 1, 2, 3]


def test_an_error_is_raised_after_the_batches_before_it():
    def source():
        yield from batches(2)
        raise InputError('image 5 is damaged')
    found = prefetch(source(), CPU)
    assert [next(found)[2][0], next(found)[2][0]] == ['id0', 'id1']
    with pytest.raises(InputError, match='image 5 is damaged'):
        next(found)


def test_the_thread_ends_with_the_iteration():
    before = threading.active_count()
    found = prefetch(iter(batches(5)), CPU)
    next(found)
    found.close()
    assert threading.active_count() == before


def test_an_interruption_does_not_wait_for_a_batch_that_never_comes(monkeypatch):
    released = threading.Event()

    def source():
        yield from batches(1)
        released.wait()

    def interrupted(future):
        raise Interrupted(signal.SIGTERM)
    found = prefetch(source(), CPU)
    next(found)
    monkeypatch.setattr(Future, 'result', interrupted)
    watchdog = threading.Timer(60, released.set)
    watchdog.start()
    with pytest.raises(Interrupted):
        next(found)
    assert not released.is_set()
    watchdog.cancel()
    released.set()


def test_the_thread_uses_the_device_of_the_process(monkeypatch):
    devices = []
    monkeypatch.setattr(torch.cpu, 'current_device', lambda: 3)
    monkeypatch.setattr(torch.cpu, 'set_device', lambda device: devices.append((device, threading.current_thread())))
    list(prefetch(iter(batches(2)), CPU))
    (device, thread), = devices
    assert device == 3 and thread is not threading.main_thread()


def test_all_loaders_share_one_stream():
    assert side_stream(CPU) is side_stream(torch.device('cpu'))
