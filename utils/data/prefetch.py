"""Batches of the host, copied to a device ahead of their use."""
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from utils.common import Interrupted

WITH_OWN_MEMORY = ('cuda',)  # types of devices whose memory is not that of the host
Batch = tuple[torch.Tensor, torch.Tensor, Any]  # images, labels, image ids


@functools.cache
def side_stream(device: torch.device) -> Any:
    """One stream for all loaders: PyTorch keeps freed memory apart for each stream."""
    return torch.get_device_module(device).Stream()


def prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield host batches with images and labels on `device`, one of WITH_OWN_MEMORY.

    While a batch is in use, a thread reads the next one and copies it on a side stream. Neither the CPU nor the device waits, as long as
    reading a batch takes less time than a training step. Errors of `batches` are raised here. An interruption does not wait for the next
    batch, so that the state is saved in time.
    """
    backend, stream = torch.get_device_module(device), side_stream(device)  # tests use torch.cpu, whose streams do nothing

    def fetch():
        with backend.stream(stream):
            if (batch := next(batches, None)) is None:
                return None
            tensors = [tensor.pin_memory() for tensor in batch[:2]] if device.type == 'cuda' else batch[:2]
            return [tensor.to(device, non_blocking=True) for tensor in tensors], batch[2], stream.record_event()

    thread = ThreadPoolExecutor(1, initializer=backend.set_device, initargs=(backend.current_device(),))
    wait = True  # for the thread to end: `batches` may be used again afterwards
    try:
        following = thread.submit(fetch)
        while fetched := following.result():
            following = thread.submit(fetch)
            tensors, ids, copied = fetched
            step = backend.current_stream()
            step.wait_event(copied)
            for tensor in tensors:
                if tensor.is_cuda:
                    tensor.record_stream(step)  # otherwise the next copy could reuse the memory before the step has read it
            yield (*tensors, ids)
    except (Interrupted, KeyboardInterrupt):
        wait = False
        raise
    finally:
        thread.shutdown(wait)
