"""Data loaders for csvs: instance-sampled, re-sampled or paired for training, in order for evaluation.

Worker processes only decode and resize. All randomness is in the samplers and in the batch transforms.
"""
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.combo_loader import ComboLoader
from utils.common import InputError, counted
from utils.data.bad_images import leave_out_bad_images, refuse_bad_images
from utils.data.check_data import check_data, patient_notes, refuse_problems
from utils.data.dataset import ClassDataset, ClassLoader, accept_tg_size
from utils.data.image_cache import use_cache
from utils.data.label_column import describe_label_column
from utils.data.sampling import EpochSampler, draw_stratified, get_sampling_probabilities  # noqa: F401  the last one for users of the original

EVAL_FACTOR = 4  # evaluation batch size / training batch size
SHARED_MEMORY = '/dev/shm'  # where worker processes store their batches on Linux


class Loaders(NamedTuple):
    train: ClassLoader
    val: ClassLoader


def fitting_workers(num_workers: int, batch_size: int, im_size: tuple[int, int]) -> int:
    """Return `num_workers`, or 0 if shared memory cannot hold the batches that the workers prepare, and print the reason.

    `batch_size`: batch size of the largest loader, summed over the processes that share the memory; `im_size`: (height, width) in pixels.
    Containers often have 64 MB of shared memory, in which workers would hang or die.
    """
    if not num_workers or not os.path.isdir(SHARED_MEMORY):
        return num_workers
    n_bytes = (2 * num_workers + 2) * batch_size * 3 * im_size[0] * im_size[1]  # two batches per worker, and two in use
    free = shutil.disk_usage(SHARED_MEMORY).free
    if n_bytes < free:
        return num_workers
    print(f'* Loading images without worker processes: {num_workers} workers need {n_bytes / 1e6:,.0f} MB of shared memory, but '
          f'{SHARED_MEMORY} has {free / 1e6:,.0f} MB free (use docker run --shm-size, or lower --batch_size or --num_workers)')
    return 0


def _own_group(worker: int) -> None:
    """Move a worker process out of the process group of the main process.

    Ctrl-C in a terminal and SIGTERM from `timeout` go to the whole group. Only the main process should handle them, and it needs its
    workers to finish the step. It can still terminate them.
    """
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)


def _make_loader(dataset: ClassDataset, device: torch.device | None, sampler: Iterable[int], **options: Any) -> ClassLoader:
    # The dataset returns whole batches. The loader has its own generator, because the seed that it draws for its workers must not
    # advance the global random state.
    return ClassLoader(dataset, device, sampler=sampler, collate_fn=tuple, persistent_workers=options['num_workers'] > 0,
                       generator=torch.Generator(), worker_init_fn=_own_group, **options)


@accept_tg_size
def get_train_val_cls_loaders(csv_path_train: str, csv_path_val: str, data_path: str | None = None, batch_size: int = 4,
                              im_size: tuple[int, int] = (512, 512), n_classes: int = 5, num_workers: int = 0, seed: int = 0,
                              n_epochs: int = 1, see_classes: bool = True, *, cache_dir: str | None = None, rank: int = 0,
                              world_size: int = 1, accumulate: int = 1, skip_bad_images: bool = False, allow_outside: bool = False,
                              label_column: str | None = None, known_names: Sequence[str] | None = None,
                              device: torch.device | None = None) -> Loaders:
    """Build the training loader (instance-sampled, whole batches only) and the validation loader (every image once, in order).

    `batch_size`: images per training step, in batches of batch_size / (world_size x accumulate).
    `im_size`: (height, width) in pixels; the keyword of the original, `tg_size`, works as well.
    `see_classes`: print the class counts. `rank`, `world_size`: see `get_eval_loader` and `EpochSampler`.
    `cache_dir`: folder of the image cache (`use_cache`). `skip_bad_images`: skip images that cannot be decoded.
    `allow_outside`: accept images outside `data_path`. `label_column`: see `find_label_column`. `known_names`: see `check_data`.
    `device`: see `ClassLoader`.

    Raises `InputError` with all problems of the csvs (`check_data`), or with all images that cannot be decoded.
    """
    train = ClassDataset(csv_path_train, data_path, im_size, allow_outside=allow_outside, label_column=label_column)
    val = ClassDataset(csv_path_val, data_path, im_size, allow_outside=allow_outside, label_column=label_column or train.label_column)
    if skip_bad_images:
        leave_out_bad_images([train, val], num_workers, cache_dir)
    refuse_problems(check_data({'train': train, 'val': val}, n_classes, known_names), patient_notes([train, val]))
    if len(train) < batch_size:
        raise InputError(f"{csv_path_train} has {counted(len(train), 'image')}, fewer than one batch of {batch_size} (--batch_size)")
    if see_classes:
        _print_classes(train, val, n_classes)
    pin = device is not None and device.type == 'cuda'
    num_workers = _cached_or_verified([train, val], cache_dir, num_workers, pin, verified=skip_bad_images or rank > 0)
    num_workers = fitting_workers(num_workers, EVAL_FACTOR * batch_size // accumulate, im_size)  # batch_size is summed over processes
    sampler = EpochSampler(train.labels, n_epochs=n_epochs, seed=seed, rank=rank, world_size=world_size, step=batch_size)
    batch_size //= world_size * accumulate
    return Loaders(_make_loader(train, device, sampler, batch_size=batch_size, num_workers=num_workers, drop_last=True),
                   get_eval_loader(val, batch_size, num_workers, rank=rank, world_size=world_size, device=device))


def _print_classes(train: ClassDataset, val: ClassDataset, n_classes: int) -> None:
    for data in (train, val):
        print(describe_label_column(data.csv_path, data.label_column))
    names, counts = train.class_names(n_classes), [np.bincount(data.labels, minlength=n_classes) for data in (train, val)]
    for c in range(n_classes):
        print(f'Found {counts[0][c]:d}/{counts[1][c]:d} train/val examples of class {c} ({names[c]})')


def _cached_or_verified(datasets: Sequence[ClassDataset], cache_dir: str | None, num_workers: int, pin: bool, *, verified: bool) -> int:
    """Decode every image once: into the image cache, or, without a cache, to find images that cannot be decoded.

    `verified`: skip the latter, because these images have been verified or another process does it. Returns the number of worker
    processes that the loaders still need.
    """
    try:
        needed = use_cache(datasets, cache_dir, num_workers, pin)
    except InputError:  # names the first bad image; the next line names all
        refuse_bad_images(datasets, num_workers)
        raise
    if datasets[0].cache is None and not verified:
        refuse_bad_images(datasets, num_workers)
    return needed


def modify_loader(loader: ClassLoader, mode: str, ep: int | None = None, n_eps: int | None = None, stream: int = 0) -> ClassLoader:
    """Build a copy of the training loader `loader` with another sampling `mode` (a key of SAMPLING), from epoch `ep` of `n_eps`.

    Loaders with different `stream` draw independently.
    """
    old = loader.sampler
    sampler = EpochSampler(old.labels, mode, n_epochs=n_eps or old.n_epochs, seed=old.seed, stream=stream, rank=old.rank,
                           world_size=old.world_size, step=old.step)
    sampler.set_epoch(ep or 0)
    return _make_loader(loader.dataset, loader.device, sampler, batch_size=loader.batch_size, num_workers=loader.num_workers,
                        drop_last=True)


def get_combo_loader(loader: ClassLoader, base_sampling: str = 'instance') -> ComboLoader:
    """Pair a loader with `base_sampling` and a class-balanced loader, with independent random streams."""
    return ComboLoader([modify_loader(loader, base_sampling), modify_loader(loader, 'class', stream=1)])


def get_eval_loader(dataset: ClassDataset, batch_size: int = 8, num_workers: int = 0, *, n_images: int | None = None, seed: int = 0,
                    rank: int = 0, world_size: int = 1, device: torch.device | None = None) -> ClassLoader:
    """Build a loader that yields every image once, in order, or a fixed stratified random sample of `n_images`.

    With several processes, it yields the images rank, rank + world_size, ... of these; `inference.gather` collects the results.
    `loader.dataset` is always the whole `dataset`, and `loader.sampler` holds the indices that this loader yields.
    Batches have EVAL_FACTOR x `batch_size` images, since evaluation needs less memory and the batch size does not change its result.
    `device`: see `ClassLoader`.
    """
    indices: Sequence[int] = range(len(dataset))
    if n_images is not None and n_images < len(dataset):
        indices = draw_stratified(dataset.labels, n_images, seed)
    return _make_loader(dataset, device, indices[rank::world_size], batch_size=EVAL_FACTOR * batch_size, num_workers=num_workers)


def with_batch_size(loader: ClassLoader, batch_size: int) -> ClassLoader:
    """Build a copy of the evaluation loader `loader` with another batch size."""
    return _make_loader(loader.dataset, loader.device, loader.sampler, batch_size=batch_size, num_workers=loader.num_workers)


@accept_tg_size
def get_test_cls_loader(csv_path_test: str, data_path: str | None = None, batch_size: int = 8, im_size: tuple[int, int] = (512, 512),
                        num_workers: int = 0, test: bool = False, n_classes: int | None = None, *, cache_dir: str | None = None,
                        allow_outside: bool = False, skip_bad_images: bool = False, label_column: str | None = None,
                        known_names: Sequence[str] | None = None, device: torch.device | None = None) -> ClassLoader:
    """Build the loader of a test csv, which yields every image once, in order.

    `test`: ignore the labels. `n_classes`: check the csv for this number of classes first. For other parameters and errors, see
    `get_train_val_cls_loaders`.
    """
    dataset = ClassDataset(csv_path_test, data_path, im_size, test, allow_outside=allow_outside, label_column=label_column)
    if skip_bad_images:
        leave_out_bad_images([dataset], num_workers, cache_dir)
    if n_classes:
        refuse_problems(check_data({'test': dataset}, n_classes, known_names))
    num_workers = use_cache([dataset], cache_dir, num_workers, pin=device is not None and device.type == 'cuda')
    return get_eval_loader(dataset, batch_size, fitting_workers(num_workers, EVAL_FACTOR * batch_size, im_size), device=device)
