"""Measure what it costs to prepare one batch on the device: copy, augment, mix and normalise.

There is one row for each policy of --augment, and one for Balanced-MixUp with the policy `original`, which prepares two batches. Launches
are the operator calls that a GPU runs as a kernel or a copy, and GB is the size of their inputs and outputs. Both are counted without
running anything, so they do not depend on the machine. Milliseconds are medians on this machine.

Example:

  python -m benchmarks.batch_transform --batch_size 64 --im_size 512
"""
from utils.cli import tune_process

tune_process()  # before torch is imported

import statistics
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.arch import IMAGENET
from utils.cli import parse_im_size, say_next, script_parser
from utils.common import run_script
from utils.prediction.inference import Normalise
from utils.training.augmentation import AUGMENT
from utils.training.batches import BatchTransform
from utils.training.mixing import BalancedMixUp


class Launches(TorchDispatchMode):
    """Counts the operator calls that read or write memory of the device 'meta', and their bytes."""

    def __init__(self):
        super().__init__()
        self.count = self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = tree_leaves((args, {name: value for name, value in kwargs.items() if name != 'out'}))
        tensors = [value for value in [*read, *tree_leaves(result)] if isinstance(value, torch.Tensor) and value.is_meta]
        if tensors and not func.is_view and 'empty' not in func.name():
            self.count += 1
            self.n_bytes += sum(tensor.nbytes for tensor in tensors)
        return result


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('--batch_size', type=int, default=8, metavar='N', help='batch size')
    parser.add_argument('--im_size', type=parse_im_size, default='128', metavar='PIXELS',
                        help='size of the images: height,width or one number for both')
    parser.add_argument('--repeats', type=int, default=20, metavar='N', help='number of timed batches of each row')
    return parser


def transforms(device):
    """-> {name: batch transform}"""
    normalise = Normalise(device, *IMAGENET)
    rows = {f'--augment {name}': BatchTransform(normalise, name) for name in AUGMENT}
    return rows | {'Balanced-MixUp': BalancedMixUp(normalise, [1, 1])}


def launches(batch):
    """-> {name: (launches, bytes)}, means of ten batches, because some policies call other operators for each batch"""
    counted = {}
    for name, prepare in transforms('meta').items():
        with Launches() as counter:
            for _ in range(10):
                prepare(batch)
        counted[name] = counter.count / 10, counter.n_bytes / 10
    return counted


def milliseconds(batch, device, repeats):
    """-> {name: median}. All rows take turns. The first two batches of each are warm-up."""
    rows = transforms(device)
    times = {name: [] for name in rows}
    for _ in range(2 + repeats):
        for name, prepare in rows.items():
            start = time.perf_counter()
            inputs, _ = prepare(batch)
            inputs[0, 0, 0, 0].item()  # waits for the device
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def main(argv=None):
    args = get_parser().parse_args(argv)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    images = torch.randint(256, (args.batch_size, 3, *args.im_size), dtype=torch.uint8)
    labels = torch.arange(args.batch_size) % 2
    if device.type == 'cuda':
        images, labels = images.pin_memory(), labels.pin_memory()  # as the loader does
    batch = [(images, labels, None)] * 2
    counted, times = launches(batch), milliseconds(batch, device, args.repeats)
    where = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    print(f'* {where}, {args.batch_size} images of {args.im_size[0]}x{args.im_size[1]}')
    print(f"{'':<22}  launches      GB        ms")
    for name, (count, n_bytes) in counted.items():
        print(f'{name:<22}  {count:>8.1f}  {n_bytes / 1e9:>6.3f}  {times[name]:>8.2f}')
    say_next('compare whole training steps with the network alone', 'python', '-m', 'benchmarks.throughput')


if __name__ == '__main__':
    run_script(main, 'use a smaller --batch_size')
