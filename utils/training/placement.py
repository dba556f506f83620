"""Where the decoded images stay during training: in GPU memory if they fit beside a training step, otherwise in the image cache."""
import copy
import gc
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from utils.common import counted, gigabytes, out_of_memory
from utils.data.device_images import copy_to_device, n_bytes_of
from utils.data.image_cache import CachedImages
from utils.data.prefetch import WITH_OWN_MEMORY
from utils.get_loaders import EVAL_FACTOR, with_batch_size
from utils.prediction.inference import Transform
from utils.training.data import TrainingData
from utils.training.plan import TrainingPlan
from utils.training.state import TrainState
from utils.training.two_stage import train_mode

MARGIN = .1  # share of the GPU memory to leave free: for fragmentation, kernels that are loaded later, and other programs
MOST_EVALUATED = 256  # images in an evaluation batch; more would not be faster


class Trial(NamedTuple):
    """Memory of a GPU in bytes."""
    total: int
    left: int  # beside the network, the optimizer and a training step
    step: int  # for a training step
    evaluation: int  # for an evaluation batch of EVAL_FACTOR times the training batch

    @property
    def room(self) -> int:
        """Memory that images may take."""
        return max(int(self.left - MARGIN * self.total), 0)

    def eval_batch_size(self, batch_size: int) -> int:
        """Size of evaluation batches that need no more memory than a training step of `batch_size` images.

        It is EVAL_FACTOR times a power of 2, so that it does not change with small differences in memory.
        """
        smallest = EVAL_FACTOR * batch_size
        times = min(self.step / max(self.evaluation, 1), MOST_EVALUATED / smallest)
        return smallest * 2 ** math.floor(math.log2(max(times, 1)))


def place_data(data: TrainingData, plan: TrainingPlan, state: TrainState, accelerator: Accelerator) -> TrainingData:
    """Copy the images of both data sets to the GPU if they fit in every process, and print the decision in one line.

    Validation batches become as large as the memory of a training step allows. Those of training images, which are augmented, keep their
    size, because the random numbers of an image depend on its batch. Without a GPU or an image cache, `data` stays as it is.
    """
    if accelerator.device.type not in WITH_OWN_MEMORY or not isinstance(data.train.cache, CachedImages):
        return data
    print('* Measuring the memory of a training step', flush=True)
    trial = measure_step(data, plan, state, accelerator)
    n_bytes, room = n_bytes_of(data.train, data.val), min(gather_object([trial.room]))
    images = f"* Data: {counted(len(data.train) + len(data.val), 'image')} ({gigabytes(n_bytes)})"
    if plan.args.data_device == 'host':
        print(f'{images} in host memory (--data_device host)')
    elif n_bytes > room:
        print(f'{images} in host memory: a training step leaves only {gigabytes(room)} of GPU memory for them')
    else:
        print(f'{images} in GPU memory, beside {gigabytes(trial.step)} for a training step (--data_device host: host memory)', flush=True)
        if n_bytes > gpu_memory(accelerator.device)[0]:  # PyTorch would give up the memory of the step for them
            print('* Data: another program has filled the GPU memory by now, so the images stay in host memory')
        else:
            copy_to_device((data.train, data.val), accelerator.device, max(plan.args.num_workers, 1))
    batch_size = min(gather_object([trial.eval_batch_size(data.train_loader.batch_size)]))
    return data._replace(val_loader=with_batch_size(data.val_loader, batch_size))


def measure_step(data: TrainingData, plan: TrainingPlan, state: TrainState, accelerator: Accelerator) -> Trial:
    """Measure the memory of a training step and of an evaluation batch, on a copy of the network.

    The training does not change: each epoch starts its random streams itself. PyTorch keeps the memory of the step, so that runs
    that start at the same time on one GPU see that it is taken. If memory is full, the training will report the error.
    """
    try:
        step, scoring, evaluation = peaks(copy.deepcopy(state.trained), data, plan, accelerator)
    except RuntimeError as err:
        if not out_of_memory(err) or accelerator.num_processes > 1:  # the other processes wait for this one in a collective operation
            raise
        total = gpu_memory(accelerator.device)[1]
        return Trial(total, left=0, step=total, evaluation=total)
    gc.collect()  # the copy of the network is part of a reference cycle if accelerate has changed its `forward`
    left, total = gpu_memory(accelerator.device)
    # The optimizer gets its state, up to two values a parameter, in the first step of the training.
    left -= 2 * sum(p.numel() * p.element_size() for p in state.trained.parameters() if p.requires_grad)
    return Trial(total, left - max(scoring - step, 0), step, evaluation)


def peaks(model: torch.nn.Module, data: TrainingData, plan: TrainingPlan, accelerator: Accelerator) -> tuple[int, int, int]:
    """Bytes of GPU memory that `model` needs for a training step, for a batch of training images to score, and for one of validation.

    cuDNN tries its convolutions once for each batch size, in the first step here. Evaluation is measured with the same batch size and
    multiplied, because larger batches may still grow, and their trial would take long.
    """
    train_once(model, data, plan, accelerator)  # the trial needs more memory than later steps
    scoring, evaluation = (EVAL_FACTOR * peak_of(partial(evaluate_once, model, data, prepare, accelerator), accelerator.device)
                           for prepare in (plan.plain.inputs, plan.plain.normalise))
    return peak_of(partial(train_once, model, data, plan, accelerator), accelerator.device), scoring, evaluation


def peak_of(function: Callable[[], None], device: torch.device) -> int:
    """Bytes of GPU memory that PyTorch reserves for a call of `function`, and keeps."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_reserved(device) - before


def gpu_memory(device: torch.device) -> tuple[int, int]:
    """Bytes of GPU memory: not in use, total."""
    return torch.cuda.mem_get_info(device)


def train_once(model: torch.nn.Module, data: TrainingData, plan: TrainingPlan, accelerator: Accelerator) -> None:
    """Forward and backward pass of a batch of the size, mixing and loss of the last epochs."""
    train_mode(model)
    inputs, targets = plan.mixed((some_images(data, accelerator),) * plan.mixed.n_loaders)
    with accelerator.autocast():
        logits = model(inputs)
    plan.losses[-1](logits, targets).backward()
    model.zero_grad()


def evaluate_once(model: torch.nn.Module, data: TrainingData, prepare: Transform, accelerator: Accelerator) -> None:
    """Forward pass of a batch of the training size, in evaluation mode."""
    model.eval()
    images, _, _ = some_images(data, accelerator)
    with torch.inference_mode():
        inputs = prepare(images)
        with accelerator.autocast():
            model(inputs)


def some_images(data: TrainingData, accelerator: Accelerator) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """A training batch of black images, with labels that occur."""
    labels = torch.tensor(data.train.labels[:data.train_loader.batch_size])
    return torch.zeros((len(labels), 3, *data.train.im_size), dtype=torch.uint8, device=accelerator.device), labels, []
