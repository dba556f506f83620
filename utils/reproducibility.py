import os
import random

import numpy as np
import torch


def set_seeds(seed, use_cuda=False):
    """Seed python, numpy and torch. `seed` is an integer or a sequence of integers such as (seed, epoch): every epoch
    has its own stream, so that a resumed run draws what the uninterrupted one would have drawn."""
    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)
    if use_cuda:
        torch.cuda.manual_seed_all(state)


def random_state(use_cuda=False):
    """The state of torch's streams, which `set_random_state` puts back; training draws from no other global one."""
    return {'cpu': torch.get_rng_state()} | ({'cuda': torch.cuda.get_rng_state()} if use_cuda else {})


def set_random_state(state):
    torch.set_rng_state(state['cpu'])
    if 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'])


def set_backends(deterministic, use_cuda, one_size=True):
    """Choose the kernels of CUDA; on the CPU runs repeat bit for bit in any case.

    With `deterministic`: only operations with the same result in every run (slower). Otherwise TF32 for what bf16 leaves in float32, and,
    where all batches have `one_size`, the fastest convolutions by trial. A trial takes 10 to 30 s for each size (docs/performance.md).
    Growing images have another size in nearly every epoch.
    """
    if not use_cuda:
        return
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not deterministic
    torch.backends.cudnn.benchmark = one_size and not deterministic
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # without it cuBLAS refuses
        torch.use_deterministic_algorithms(True, warn_only=True)  # resampling has no deterministic backward, and needs none here
