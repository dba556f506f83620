"""Training and evaluation of one epoch."""
import contextlib
import math
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from torch.utils.data import DataLoader

from utils.common import InputError, preview, progress
from utils.evaluation import METRICS, evaluate_multi_cls, performance_text, training_is_ahead
from utils.get_loaders import ClassDataset
from utils.prediction.inference import predict
from utils.training.batches import BatchTransform
from utils.training.data import TrainingData
from utils.training.network import Network
from utils.training.plan import Epoch
from utils.training.signals import StopSignal
from utils.training.state import TrainState
from utils.training.two_stage import train_mode

CHECK_EVERY = 10  # steps between reads of the running loss; each read waits for the device


def train_one_epoch(state: TrainState, epoch: Epoch, accelerator: Accelerator, stop: StopSignal) -> dict[str, float]:
    """Train to the end of `epoch`, with an optimizer step after every `epoch.accumulate` batches.

    -> {'lr': at the start, 'training_loss': mean over the batches, 'images_per_second'}. Raises `InputError` if the loss is not finite.
    Raises `Interrupted` between two steps; `epoch` then holds the progress.
    """
    train_mode(state.trained)
    if epoch.lr is None:
        epoch.lr = state.lr
    epoch.total = torch.full((), epoch.total, device=accelerator.device)
    recent: list[tuple[torch.Tensor, list[str]]] = []
    first, n_batches = epoch.loader.loaders[0], len(epoch.loader)
    n_images = first.batch_size * accelerator.num_processes
    batches = iter(epoch.loader)
    with progress(n_batches * n_images, epoch.title, epoch.batches * n_images) as bar:
        for _ in range(epoch.batches, n_batches, epoch.accumulate):
            with stop.waiting(accelerator):
                step = list(islice(batches, epoch.accumulate))
            for batch in step:
                epoch.batches += 1
                loss = backward(state, epoch, batch, accelerator)
                epoch.total += loss
                recent.append((loss, batch[0][2]))
            state.step()
            look = (epoch.batches // epoch.accumulate) % CHECK_EVERY == 0 or epoch.batches == n_batches
            pending = stop.is_pending(accelerator, look)
            if look or pending:
                check_finite(recent, epoch, state.lr, first.dataset)
                bar.set_postfix(loss=f'{epoch.total.item() / epoch.batches:.4f}', lr=f'{state.lr:g}', refresh=False)
                del recent[:-1]  # the last batch may be the cause if the next loss is not finite
            bar.update(n_images * len(step))
            if pending:
                stop.check()
    epoch.total = accelerator.reduce(epoch.total, 'mean').item()
    images_per_second = n_batches * n_images / epoch.seconds
    broadcast(list(state.evaluated.buffers()))  # each process has its own running statistics of BatchNorm
    return {'lr': epoch.lr, 'training_loss': epoch.total / n_batches, 'images_per_second': images_per_second}


def backward(state: TrainState, epoch: Epoch, batch: tuple, accelerator: Accelerator) -> torch.Tensor:
    """Forward and backward pass of one batch -> its loss. Processes exchange gradients only in the last batch of a step."""
    inputs, targets = epoch.transform(batch)
    is_last = epoch.batches % epoch.accumulate == 0
    with contextlib.nullcontext() if is_last else accelerator.no_sync(state.model):
        with accelerator.autocast():
            logits = state.model(inputs)
        loss = epoch.criterion(logits, targets)
        accelerator.backward(loss / epoch.accumulate)
    return loss.detach()


def check_finite(recent: list[tuple[torch.Tensor, list[str]]], epoch: Epoch, lr: float, dataset: ClassDataset) -> None:
    """Raise `InputError` if a loss is not finite, and name the images of the first such batch.

    `recent`: (loss, image ids) of the last batches of `epoch`. If a batch up to there has only images of one colour, its images are named
    instead: such a batch has no variance, and the gradients of BatchNorm overflow.
    """
    finite = torch.stack([loss for loss, _ in recent]).isfinite()
    if not finite.all():
        first = int(finite.int().argmin())
        images, advice = recent[first][1], 'a lower --lr usually helps'
        for _, image_ids in recent[:first + 1]:
            if dataset.are_of_one_colour(image_ids):
                images, advice = image_ids, f'these images are of one colour: leave them out of {dataset.csv_path}'
        number = epoch.batches - len(recent) + first + 1
        raise InputError(f'{epoch.title}: the training loss is {recent[first][0].item()} at batch {number} of {len(epoch.loader)} '
                         f'(lr {lr:g}; images {preview(images, 8)}): {advice}')


class Scores(NamedTuple):
    train: dict[str, Any]  # METRICS and per-class values; all NaN with --train_eval off
    val: dict[str, Any]
    train_report: Callable[..., str] | None  # the original's report, as a function of the class names
    val_report: Callable[..., str]  # of class names and learning rate
    plateau_value: float | None  # --metric on validation, for the plateau schedule; None: skip this epoch


class Evaluator:
    """Scores the training images of --train_eval, with augmentation, and the validation images: evaluator(model, epoch) -> `Scores`."""

    def __init__(self, args: Namespace, data: TrainingData, network: Network, accelerator: Accelerator):
        self.args, self.data, self.normalise, self.accelerator = args, data, network.normalise, accelerator
        self.as_trained = BatchTransform(network.normalise, args.augment, args.seed, accelerator.process_index,
                                world_size=accelerator.num_processes, stream=3)

    def __call__(self, model: nn.Module, epoch: int) -> Scores:
        title, train, train_report = f'Epoch {epoch + 1}/{self.args.n_epochs}', dict.fromkeys(METRICS, math.nan), None
        if self.data.train_eval_loader:
            self.as_trained.set_epoch(epoch)
            train, train_report = self._score(model, self.data.train_eval_loader, self.as_trained.inputs, f'{title} train')
        val, val_report = self._score(model, self.data.val_loader, self.normalise, f'{title} val')
        metric = self.args.metric
        ahead = train_report is None or training_is_ahead(metric, train[metric], val[metric], self.data.n_train_eval,
                                                          n_val=len(self.data.val))
        return Scores(train, val, train_report, val_report, plateau_value=val[metric] if ahead else None)

    def _score(self, model: nn.Module, loader: DataLoader, transform: Callable, title: str):
        predictions = predict(model, loader, transform, self.accelerator.autocast, desc=title)
        assert predictions.labels is not None  # both csvs of a training have labels
        metrics = evaluate_multi_cls(predictions.labels, predictions.preds, predictions.probs)
        values = vars(metrics) | {'loss': predictions.loss, 'n_predicted': len(np.unique(predictions.preds))}
        return values, partial(performance_text, metrics, predictions)
