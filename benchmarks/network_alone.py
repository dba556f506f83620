"""Training step on one batch that stays on the device: an upper limit for the speed of any training loop."""
import time

import torch

from models.get_model import get_arch
from utils.losses import get_loss_fn
from utils.reproducibility import set_backends
from utils.training.optim import OPTIMIZERS
from utils.training.two_stage import train_mode


class NetworkAlone:
    """Repeats the training step on the same batch.

    `args`: arguments of the train script for a run without mixing. `accelerator`: device and precision. Kernels are chosen as in
    training. With `trial=False`, cuDNN chooses its convolutions without benchmarking them.
    """

    def __init__(self, args, accelerator, warm_up=10, trial=True):
        device = accelerator.device
        set_backends(args.deterministic, device.type == 'cuda', one_size=trial)
        model = get_arch(args.model_name, args.n_classes, im_size=args.im_size).model.to(device, memory_format=torch.channels_last)
        self.model, self.optimizer = accelerator.prepare(model, OPTIMIZERS[args.optimizer](model, args))
        train_mode(accelerator.unwrap_model(self.model))
        self.criterion = get_loss_fn('CE', [1] * args.n_classes).to(device)
        self.inputs = torch.randn(args.batch_size, 3, *args.im_size, device=device).contiguous(memory_format=torch.channels_last)
        self.targets = torch.arange(args.batch_size, device=device) % args.n_classes
        self.accelerator = accelerator
        self.seconds(warm_up)

    def seconds(self, n_steps):
        """-> seconds of `n_steps` steps"""
        start = time.perf_counter()
        for _ in range(n_steps):
            loss = self.step()
        loss.item()  # waits for the device
        return time.perf_counter() - start

    def step(self):
        """Do one training step. -> its loss, on the device"""
        with self.accelerator.autocast():
            logits = self.model(self.inputs)
        loss = self.criterion(logits, self.targets)
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss
