"""csv -> dataset -> loader. Worker processes only decode and resize; everything random happens elsewhere."""
import os
import shutil
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.combo_loader import ComboLoader
from utils.common import InputError, counted
from utils.data.bad_images import leave_out_bad_images, refuse_bad_images
from utils.data.check_data import check_data, patient_notes, refuse_problems
from utils.data.dataset import ClassDataset
from utils.data.image_cache import use_cache
from utils.data.label_column import describe_label_column
from utils.data.sampling import EpochSampler, draw_stratified, get_sampling_probabilities  # noqa: F401  the last for users of the original

EVAL_FACTOR = 4
SHARED_MEMORY = '/dev/shm'  # where worker processes put their batches on Linux


class Loaders(NamedTuple):
    train: DataLoader
    val: DataLoader


def fitting_workers(num_workers: int, batch_size: int, im_size: tuple) -> int:
    """`num_workers`, or 0, with a line that says so, where shared memory cannot hold the batches that they prepare.

    `batch_size`: images in a batch of the largest loader, of all processes that share the memory; `im_size`: (height, width) in pixels.
    Containers often have 64 MB of shared memory: there the workers would hang or die.
    """
    if not num_workers or not os.path.isdir(SHARED_MEMORY):
        return num_workers
    n_bytes = (2 * num_workers + 2) * batch_size * 3 * im_size[0] * im_size[1]  # two batches a worker, and two in use
    free = shutil.disk_usage(SHARED_MEMORY).free
    if n_bytes < free:
        return num_workers
    print(f'* Decoding without worker processes: {num_workers} of them need {n_bytes / 1e6:,.0f} MB of shared memory, {SHARED_MEMORY} has '
          f'{free / 1e6:,.0f} MB free (docker run --shm-size, or a smaller --batch_size or --num_workers)')
    return 0


def _own_group(worker):
    """A terminal's Ctrl-C and the SIGTERM of `timeout` go to a whole process group: the main process alone decides what to do with
    them, and still needs its workers to finish the step. It can end them as before."""
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)


def _make_loader(dataset, batch_size, num_workers, sampler, drop_last=False):
    # The dataset gives whole batches. A generator of its own: a loader draws a seed for its workers, which must not move the
    # global random stream.
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers, drop_last=drop_last, collate_fn=tuple,
                      pin_memory=torch.cuda.is_available(), persistent_workers=num_workers > 0, generator=torch.Generator(),
                      worker_init_fn=_own_group)


def get_train_val_cls_loaders(csv_path_train, csv_path_val, data_path=None, batch_size=4, tg_size=(512, 512), n_classes=5,
                              num_workers=0, seed=0, n_epochs=1, see_classes=True, cache_dir=None, rank=0, world_size=1, accumulate=1,
                              skip_bad_images=False, allow_outside=False, label_column=None, known_names=None):
    """The instance-sampled training loader (whole batches only) and the validation loader (every image once, in order; with
    several processes the images rank, rank + world_size, ...). `batch_size` are the images of a training step, in batches of
    batch_size / (world_size x accumulate).
    Raises `InputError` with everything that is wrong with the csvs (`check_data`), or with images that cannot be decoded, unless
    `skip_bad_images`; images outside of `data_path` only where `allow_outside`. Prints the class table. `cache_dir`: read images
    from an array there (`use_cache`). `label_column`: see `find_label_column`; `known_names`: see `check_data`."""
    train = ClassDataset(csv_path_train, data_path, tg_size, allow_outside=allow_outside, label_column=label_column)
    val = ClassDataset(csv_path_val, data_path, tg_size, allow_outside=allow_outside, label_column=label_column or train.label_column)
    if skip_bad_images:
        leave_out_bad_images([train, val], num_workers, cache_dir)
    refuse_problems(check_data({'train': train, 'val': val}, n_classes, known_names), patient_notes([train, val]))
    if len(train) < batch_size:
        raise InputError(f"{csv_path_train} has {counted(len(train), 'image')}, less than one batch of {batch_size} (--batch_size)")
    if see_classes:
        print(describe_label_column(csv_path_train, train.label_column))
        print(describe_label_column(csv_path_val, val.label_column))
        names, counts = train.class_names(n_classes), [np.bincount(d.dr, minlength=n_classes) for d in (train, val)]
        for c in range(n_classes):
            print(f'Found {counts[0][c]:d}/{counts[1][c]:d} train/val examples of class {c} ({names[c]})')
    num_workers = _cached_or_verified([train, val], cache_dir, num_workers, skip_bad_images or rank > 0)
    num_workers = fitting_workers(num_workers, EVAL_FACTOR * batch_size // accumulate, tg_size)  # batch_size is that of all processes
    sampler = EpochSampler(train.dr, n_epochs=n_epochs, seed=seed, rank=rank, world_size=world_size, step=batch_size)
    batch_size //= world_size * accumulate
    return Loaders(_make_loader(train, batch_size, num_workers, sampler, drop_last=True),
                   get_eval_loader(val, batch_size, num_workers, rank=rank, world_size=world_size))


def _cached_or_verified(datasets, cache_dir, num_workers, verified):
    """`use_cache`, which decodes every image, or where there is no cache a look at each, unless they are `verified`, by the first
    process for all. -> processes that loaders still need"""
    try:
        n = use_cache(datasets, cache_dir, num_workers)
    except InputError:  # names one image: name them all
        refuse_bad_images(datasets, num_workers)
        raise
    if datasets[0].cache is None and not verified:
        refuse_bad_images(datasets, num_workers)
    return n


def modify_loader(loader, mode, ep=None, n_eps=None, stream=0):
    """The training loader `loader` with another sampling `mode` (a key of SAMPLING), beginning at epoch `ep`."""
    old = loader.sampler
    sampler = EpochSampler(old.labels, mode, n_eps or old.n_epochs, old.seed, stream, old.rank, old.world_size, old.step)
    sampler.set_epoch(ep or 0)
    return _make_loader(loader.dataset, loader.batch_size, loader.num_workers, sampler, drop_last=True)


def get_combo_loader(loader, base_sampling='instance'):
    """Pairs a loader of `base_sampling` with a class-balanced one; their random streams are independent."""
    return ComboLoader([modify_loader(loader, base_sampling), modify_loader(loader, 'class', stream=1)])


def get_eval_loader(dataset, batch_size=8, num_workers=0, n_images=None, seed=0, rank=0, world_size=1):
    """Loader of every image once, in order; or of a fixed random sample of `n_images` in which each class keeps its share.

    With several processes it yields the images rank, rank + world_size, ... of these (`inference.gather` puts them together). `dataset`
    stays whole: `loader.sampler` holds the indices of the images that the loader yields. Batches are EVAL_FACTOR times the training
    ones: without gradients they need less memory, and their size does not change the result.
    """
    sample = n_images is not None and n_images < len(dataset)
    indices = draw_stratified(dataset.dr, n_images, seed) if sample else range(len(dataset))
    return _make_loader(dataset, EVAL_FACTOR * batch_size, num_workers, indices[rank::world_size])


def get_test_cls_loader(csv_path_test, data_path=None, batch_size=8, tg_size=(512, 512), num_workers=0, test=False, n_classes=None,
                        cache_dir=None, allow_outside=False, skip_bad_images=False, label_column=None, known_names=None):
    """Loader of a test csv; `test=True` reads no labels even if there are some. `n_classes`: check it first. The others: as for
    training."""
    dataset = ClassDataset(csv_path_test, data_path, tg_size, test, allow_outside, label_column)
    if skip_bad_images:
        leave_out_bad_images([dataset], num_workers, cache_dir)
    if n_classes:
        refuse_problems(check_data({'test': dataset}, n_classes, known_names))
    num_workers = fitting_workers(use_cache([dataset], cache_dir, num_workers), EVAL_FACTOR * batch_size, tg_size)
    return get_eval_loader(dataset, batch_size, num_workers)
