"""Properties that every loss has for any logits, counts and targets (hypothesis). test_losses.py tests the values."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from utils.losses import LOSSES, get_loss_fn

QUICK = settings(max_examples=20, deadline=None, derandomize=True)
PARAMS = {'SEQL': {'gamma': 1.}}  # deterministic; test_losses.py tests the random numbers
every_loss = pytest.mark.parametrize('name', LOSSES)


@st.composite
def batches(draw):
    """-> counts (K,), logits (B, K), hard targets (B,), soft targets (B, K); all targets have training images"""
    counts = draw(st.lists(st.one_of(st.just(0), st.integers(1, 10), st.integers(1, 100_000)), min_size=2, max_size=6).filter(any))
    size, present = draw(st.integers(1, 6)), np.flatnonzero(counts)
    logits = draw(arrays.arrays(np.float32, (size, len(counts)), elements=st.floats(-90, 90, width=32)))
    hard = draw(st.lists(st.sampled_from(present.tolist()), min_size=size, max_size=size))
    mixed_with = draw(st.lists(st.sampled_from(present.tolist()), min_size=size, max_size=size))
    share = draw(arrays.arrays(np.float32, (size, 1), elements=st.floats(0, 1, width=32)))
    one_hot = torch.eye(len(counts))
    soft = torch.from_numpy(share) * one_hot[hard] + torch.from_numpy(1 - share) * one_hot[mixed_with]
    return counts, torch.from_numpy(logits), torch.tensor(hard), soft


@every_loss
@QUICK
@given(batches())
def test_loss_and_gradient_are_finite(name, batch):
    counts, logits, hard, soft = batch
    for targets in (hard, soft):
        z = logits.clone().requires_grad_()
        loss = get_loss_fn(name, counts)(z, targets)
        loss.backward()
        assert loss.isfinite() and z.grad.isfinite().all()
        assert loss >= -1e-4 or name == 'LADE'  # its regulariser may be negative


@every_loss
@QUICK
@given(batches())
def test_one_hot_targets_are_hard_targets(name, batch):
    counts, logits, hard, _ = batch
    loss_fn = get_loss_fn(name, counts, **PARAMS.get(name, {}))
    torch.testing.assert_close(loss_fn(logits, hard), loss_fn(logits, F.one_hot(hard, len(counts)).float()))


@every_loss
@QUICK
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter(name, batch, random):
    counts, logits, hard, soft = batch
    loss_fn, order = get_loss_fn(name, counts, **PARAMS.get(name, {})), list(range(len(hard)))
    random.shuffle(order)
    for targets in (hard, soft):
        torch.testing.assert_close(loss_fn(logits[order], targets[order]), loss_fn(logits, targets), rtol=1e-5, atol=1e-4)
