"""The soak test finds growing resources, and a short soak of the training finds none; `python -m tests.soak --epochs 200` runs longer."""
import mmap
import os

import pytest

from tests.soak import Held, growth, soak

EPOCHS = 20


def test_the_resources_of_a_training_do_not_grow(tmp_path):
    assert growth(soak(tmp_path, EPOCHS)) == []


@pytest.mark.parametrize('what', ['memory_mb', 'files', 'threads', 'children'])
def test_growth_is_found(what):
    flat = [Held(1000 + i % 3, 20, 5, 2) for i in range(100)]
    assert growth(flat) == []
    grown, = growth([sample._replace(**{what: getattr(sample, what) + i // 2}) for i, sample in enumerate(flat)])
    assert grown.startswith(f'{what}: ')


def test_an_injected_leak_is_found(tmp_path):
    leaked, opened = [], []

    def leak(epoch):
        # 8 MB directly from the system: the allocator may still hold that much free memory from earlier tests.
        leaked.append(mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        leaked[-1].write(b'x' * (8 << 20))
        opened.append(os.open(tmp_path, os.O_RDONLY))
    try:
        grown = growth(soak(tmp_path, EPOCHS, also=leak))
    finally:
        for number in opened:
            os.close(number)
    assert [text.split(':')[0] for text in grown] == ['memory_mb', 'files'], grown
