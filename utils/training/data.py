"""Training and validation data of a run: data loaders, class counts and names, image hashes."""
from argparse import Namespace
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from utils.common import InputError
from utils.data.dataset import ClassLoader
from utils.data.image_hashes import seen_images
from utils.data.leakage import describe_leak
from utils.get_loaders import ClassDataset, get_eval_loader, get_train_val_cls_loaders
from utils.training.two_stage import StageOne


class TrainingData(NamedTuple):
    train_loader: ClassLoader  # instance sampling; batches of this process, as split by --accumulate
    val_loader: ClassLoader  # this process's share
    train_eval_loader: ClassLoader | None  # training images scored after each epoch; None with --train_eval off
    n_train_eval: int  # number of these images, over all processes
    class_count: np.ndarray  # training images of each class, int64 (K,)
    class_names: list[str]
    image_hashes: torch.Tensor | None  # of all images the network has seen (`seen_images`); None except in the first process

    @property
    def train(self) -> ClassDataset:
        return self.train_loader.dataset

    @property
    def val(self) -> ClassDataset:
        return self.val_loader.dataset


def load_data(args: Namespace, accelerator: Accelerator, stage_one: StageOne) -> TrainingData:
    """Read and check both csvs, decode the images into the cache, and print the class table and warnings.

    Raises `InputError` for invalid csvs or images, and if --metric is undefined on the validation set.
    """
    rank, n_processes = accelerator.process_index, accelerator.num_processes
    with accelerator.main_process_first():  # it writes the image cache for the others
        train_loader, val_loader = get_train_val_cls_loaders(
            args.csv_train, args.csv_val, args.data_path, args.batch_size, im_size=args.im_size, n_classes=args.n_classes,
            num_workers=args.num_workers, seed=args.seed, n_epochs=args.n_epochs, cache_dir=None if args.no_cache else args.cache_dir,
            rank=rank, world_size=n_processes, accumulate=args.accumulate, skip_bad_images=args.skip_bad_images,
            allow_outside=args.allow_outside_data_path, label_column=args.label_column, known_names=stage_one.class_names,
            device=accelerator.device)
    train, val = train_loader.dataset, val_loader.dataset
    if args.metric == 'auc' and len(np.unique(val.labels)) < 2:
        raise InputError(f'--metric auc is undefined: {args.csv_val} has images of one class only')
    n_train_eval = {'full': len(train), 'sample': min(len(val), len(train)), 'off': 0}[args.train_eval]
    train_eval_loader = get_eval_loader(train, train_loader.batch_size, train_loader.num_workers, n_images=n_train_eval, seed=args.seed,
                                        rank=rank, world_size=n_processes, device=accelerator.device) if n_train_eval else None
    image_hashes = find_image_hashes(args, train, val, stage_one) if accelerator.is_main_process else None
    return TrainingData(train_loader, val_loader, train_eval_loader, n_train_eval,
                        class_count=np.bincount(train.labels, minlength=args.n_classes),
                        class_names=train.class_names(args.n_classes), image_hashes=image_hashes)


def find_image_hashes(args: Namespace, train: ClassDataset, val: ClassDataset, stage_one: StageOne) -> torch.Tensor:
    """Hashes of all images the network has seen, including those of stage one. Prints a warning if `val` contains training images."""
    of_train, of_val = (dataset.content_hashes(args.num_workers) for dataset in (train, val))
    image_hashes = seen_images(of_train, of_val, stage_one.image_hashes)
    if stage_one.facts and stage_one.image_hashes is None:
        print('* Note: stage one has no list of its training images, so overlap with test images cannot be detected')
    if leak := describe_leak(val, image_hashes):
        print(f'* Warning: {leak}')
    return image_hashes
