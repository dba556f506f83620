"""Sampling frequencies for real class counts, and the global stream of an epoch."""
import numpy as np
import pytest
from scipy.stats import chisquare

from utils.data.sampling import SAMPLING, EpochSampler, get_sampling_probabilities

EYEPACS = [25810, 2443, 5292, 873, 708]
KVASIR = [1148, 1028, 1009, 1002, 999, 989, 932, 764, 646, 443, 403, 391, 260, 201, 133, 131, 53, 41, 35, 28, 11, 9, 6]
EXPONENT = {'instance': 1, 'sqrt': 1 / 2, 'cbrt': 1 / 3, 'class': 0}


@pytest.mark.parametrize('count', [EYEPACS, KVASIR, [3, 0, 9]])
@pytest.mark.parametrize('mode', EXPONENT)
def test_probabilities(mode, count):
    n = np.array(count, float)
    w = get_sampling_probabilities(count, mode)
    share = np.where(n > 0, n ** EXPONENT[mode], 0)
    np.testing.assert_allclose(w * n, share / share.sum(), rtol=1e-12)


def test_progressive_sampling_moves_from_instance_to_class():
    for ep, mode in ((0, 'instance'), (9, 'class')):
        np.testing.assert_allclose(get_sampling_probabilities(EYEPACS, 'prog', ep, 10), get_sampling_probabilities(EYEPACS, mode))
    ends = [get_sampling_probabilities(EYEPACS, 'prog', ep, 10) for ep in (0, 9)]
    np.testing.assert_allclose(get_sampling_probabilities(EYEPACS, 'prog', 3, 10), 2 / 3 * ends[0] + 1 / 3 * ends[1])
    np.testing.assert_allclose(get_sampling_probabilities(EYEPACS, 'prog', 0, 1), ends[0])  # a single epoch
    with pytest.raises(ValueError, match='ep and n_eps'):
        get_sampling_probabilities(EYEPACS, 'prog')


@pytest.mark.parametrize('count', [EYEPACS, KVASIR])
@pytest.mark.parametrize('mode', SAMPLING)
def test_draw_frequencies(mode, count):
    labels = np.random.default_rng(0).permutation(np.repeat(range(len(count)), count))
    sampler = EpochSampler(labels, mode, n_epochs=5, seed=3)
    sampler.set_epoch(2)
    drawn = np.array(list(sampler))
    assert len(drawn) == len(sampler) == len(labels)
    if mode == 'instance':
        assert sorted(drawn) == list(range(len(labels)))  # without replacement
        return
    p = get_sampling_probabilities(count, mode, 2, 5) * count
    assert chisquare(np.bincount(labels[drawn], minlength=len(count)), p * len(drawn)).pvalue > 1e-4
    within = np.bincount(drawn, minlength=len(labels))[labels == 0]  # images of a class are equally likely
    assert chisquare(within).pvalue > 1e-4


def test_the_stream_depends_only_on_seed_epoch_and_stream():
    labels = np.repeat([0, 1, 2], [30, 10, 5])

    def draw(epoch=0, **kwargs):
        sampler = EpochSampler(labels, 'class', **kwargs)
        sampler.set_epoch(epoch)
        return list(sampler)
    assert draw(seed=1) == draw(seed=1)
    assert len({tuple(draw(**kw)) for kw in ({'seed': 1}, {'seed': 2}, {'epoch': 1}, {'stream': 1})}) == 4
    parts = [draw(rank=rank, world_size=4) for rank in range(4)]
    assert [parts[i % 4][i // 4] for i in range(45)] == draw()  # the processes together draw the same epoch
