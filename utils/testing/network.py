"""The network of a test, with its flags, checkpoint, device and results folder."""
import argparse
import os
from typing import NamedTuple

import torch
from accelerate import Accelerator

from utils.common import file_sha256
from utils.data.bad_images import write_skipped
from utils.data.dataset import ClassLoader
from utils.data.label_column import NO_LABELS, describe_label_column
from utils.data.read_csv import check_csv_exists, read_csv
from utils.get_loaders import ClassDataset, get_test_cls_loader
from utils.model_saving_loading import LoadedModel
from utils.prediction.accelerator import build_accelerator
from utils.prediction.inference import Logits, Normalise, collect_logits
from utils.prediction.predictions import anonymous
from utils.prediction.tta import get_views


def get_accelerator(loaded: LoadedModel, device: str) -> Accelerator:
    """Move the network to `device`, one of DEVICES. -> its accelerator, with the precision used in training"""
    bf16 = loaded.info['config']['mixed_precision'] == 'bf16' and device != 'cpu' and torch.cuda.is_available()
    accelerator = build_accelerator(device, 'bf16' if bf16 else 'fp32')
    loaded.model.to(accelerator.device)
    return accelerator


def source_of(csv: str, args: argparse.Namespace, config: dict, is_tuned_on: bool = False) -> tuple[str, str | None]:
    """Return the image folder of `csv` and the name of its label column. By default, these are --data_path, and --label_column or the
    column used in training (None if unknown, for runs of version 0.1).

    A csv that was used in training may need other values than the test csv, which these flags are for. If it `is_tuned_on`, the folder (if
    it still exists) and the column are those of training. If it is reported and lacks the column of --label_column, the column is that of
    training.
    """
    data_path, learnt, given = args.data_path, config.get('class_column'), args.label_column
    check_csv_exists(csv)
    if file_sha256(csv) in config['csv_sha256'].values():
        if is_tuned_on:
            return config['data_path'] if os.path.isdir(config['data_path']) else data_path, learnt
        if given not in (None, NO_LABELS) and given.strip() not in read_csv(csv)[0]:
            given = None
    return data_path, learnt if given is None else given


class NetworkUnderTest(NamedTuple):
    """A network on its device, with the settings of the test."""
    args: argparse.Namespace  # flags of the test script, with data_path filled in
    loaded: LoadedModel
    accelerator: Accelerator
    folder: str  # results folder

    @property
    def info(self) -> dict:
        """Facts of the checkpoint."""
        return self.loaded.info

    def loader(self, csv: str, is_tuned_on: bool = False) -> ClassLoader:
        """Return the data loader for the images of `csv`, except skipped ones. `is_tuned_on`: the images are used to choose something, not
        to report scores."""
        args, info = self.args, self.info
        data_path, label_column = source_of(csv, args, info['config'], is_tuned_on)
        loader = get_test_cls_loader(
            csv, data_path, args.batch_size, info['im_size'], num_workers=min(args.num_workers, os.cpu_count() or 1),
            n_classes=len(info['class_names']), cache_dir=args.cache_dir, allow_outside=args.allow_outside_data_path,
            skip_bad_images=args.skip_bad_images, label_column=label_column, known_names=info['class_names'],
            device=self.accelerator.device)
        print(describe_label_column(csv, loader.dataset.label_column))
        return loader

    def logits(self, loader: ClassLoader, split: str) -> Logits:
        """Return the logits of all images of `loader`, and write skipped_<split>.csv."""
        args, info = self.args, self.info
        data: ClassDataset = loader.dataset  # type: ignore[assignment]
        if args.salt:  # system errors end with the path, which names the image
            data.skipped = [(csv, row, *anonymous([image_id], args.salt), reason.split(": '")[0])
                            for csv, row, image_id, reason in data.skipped]
        write_skipped(os.path.join(self.folder, f'skipped_{split}.csv'), [data])
        normalise = Normalise(self.accelerator.device, info['mean'], info['std'])
        return collect_logits(self.loaded.model, loader, normalise, self.accelerator.autocast, desc=split, views=get_views(args))
