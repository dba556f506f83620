r"""Train a classifier on long-tailed images: re-sampling, mixing, re-balancing losses, one or two stages. The run, with its best
checkpoint, is written to experiments/<save_path>/.

Examples, with the demo set (python -m tools.prepare_demo_data makes it); the second is stage two of the first:

  python train_lt_mxp.py --csv_train data/demo/train_demo.csv --data_path data/demo/images --n_classes 5 --im_size 64 \
      --model_name regnetx_002 --init none --batch_size 32 --optimizer adamw --lr 0.004 --schedule onecycle --n_epochs 5 --metric bacc \
      --save_path first/plain
  python train_lt_mxp.py --csv_train data/demo/train_demo.csv --data_path data/demo/images --n_classes 5 --im_size 64 \
      --model_name regnetx_002 --loss_fn BSCE --batch_size 32 --optimizer adamw --lr 0.002 --schedule onecycle --n_epochs 3 \
      --metric bacc --save_path first/2stage --pretrained_weights experiments/first/plain
"""
import utils  # noqa: F401  first of all: how threads wait has to be set before torch is imported

# isort: split
import contextlib
import math
import os
import sys
import time
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import broadcast

from models.get_model import Arch, get_arch
from utils.cli import duration, how_to_resume, say_next, script_parser, to_test
from utils.common import InputError, Interrupted, file_sha256, progress, run_script
from utils.data.check_data import some
from utils.data.image_hashes import seen_images
from utils.data.images import DECODER
from utils.data.leakage import describe_leak
from utils.data.permissions import keep_private, private_flag
from utils.data.read_csv import check_csv_exists
from utils.environment import describe_environment
from utils.evaluation import METRICS, evaluate_multi_cls, performance_text, training_is_ahead
from utils.get_loaders import get_eval_loader, get_train_val_cls_loaders
from utils.losses import LOSSES
from utils.prediction.accelerator import build_accelerator
from utils.prediction.inference import predict
from utils.reproducibility import random_state, set_backends, set_random_state, set_seeds
from utils.runs.formats import FORMAT
from utils.statistics.weighted_metrics import is_ordered
from utils.training.batches import Normalise, Plain
from utils.training.flags import WITHOUT_EFFECT, add_flags, resolve
from utils.training.forward_check import check_forward
from utils.training.frozen_features import sees_the_same, use_features
from utils.training.memory import LESS, explain_full_memory
from utils.training.plan import Method
from utils.training.recipes import RecipeParser
from utils.training.run_folder import RunFolder
from utils.training.signals import Interrupt
from utils.training.state import Training
from utils.training.tensorboard import get_watch
from utils.training.two_stage import StageOne, describe_start, get_stage_two, set_trainable, train_mode
from utils.without_effect import warn

CHECK_EVERY = 10  # batches between two looks at the running loss, each of which waits for the device


def get_parser():
    return add_flags(script_parser(__doc__, RecipeParser))


def run_one_epoch(phase, training, accelerator, interrupt, desc, accumulate=1, batches=0, total=0.):
    """One pass of training, a step after each `accumulate` batches; the first `batches`, whose losses sum up to `total`, are done.
    -> sum of the batches' losses. Raises `InputError` when it is not finite, `Interrupted` between two steps when a signal asks for it."""
    train_mode(training.trained)
    total, recent = torch.full((), total, device=accelerator.device), []
    n_images, n_batches = phase.loader.loaders[0].batch_size * accelerator.num_processes, len(phase.loader)
    loader = (batch for batch in phase.loader)  # starts worker processes only when the first batch is asked for
    with progress(n_batches * n_images, desc, batches * n_images) as bar:
        for done in range(batches, n_batches, accumulate):
            try:
                with interrupt.waiting(accelerator):
                    step = list(islice(loader, accumulate))
            except Interrupted as stop:
                stop.batches, stop.total = done, total.item()
                raise
            for i, batch in enumerate(step, start=done + 1):
                inputs, targets = phase.prepare(batch)
                with contextlib.nullcontext() if i % accumulate == 0 else accelerator.no_sync(training.model):
                    with accelerator.autocast():
                        logits = training.model(inputs)
                    loss = phase.criterion(logits, targets)
                    accelerator.backward(loss / accumulate)
                total += loss.detach()
                recent.append((loss.detach(), batch[0][2]))
            training.step()
            look = (i // accumulate) % CHECK_EVERY == 0 or i == n_batches
            stop = interrupt.asked(accelerator, look)
            if look or stop:
                check_finite(recent, i, n_batches, desc, training.lr, phase.loader.loaders[0].dataset)
                bar.set_postfix(loss=f'{total.item() / i:.4f}', lr=f'{training.lr:g}', refresh=False)
                del recent[:-1]  # a batch can spoil the next one
            bar.update(n_images * len(step))
            if stop:
                raise Interrupted(interrupt.signal, i, total.item())
    return accelerator.reduce(total, 'mean').item()


def check_finite(recent, batch, n_batches, desc, lr, dataset):
    """`recent`: (loss, image ids) of the batches up to number `batch`, whose images are those of `dataset`. Raises `InputError` naming the
    first that is not finite. A batch of equal images, in which nothing varies, makes the gradients of BatchNorm overflow."""
    finite = torch.stack([loss for loss, _ in recent]).isfinite()
    if not finite.all():
        first = finite.int().argmin().item()
        number = batch - len(recent) + first + 1
        images, advice = recent[first][1], 'a lower --lr usually helps'
        for _, image_ids in recent[:first + 1]:
            if dataset.are_of_one_colour(image_ids):
                images, advice = image_ids, f'these images are of one colour: leave them out of {dataset.csv_path}'
        raise InputError(f'{desc}: the training loss is {recent[first][0].item()} at batch {number} of {n_batches} (lr {lr:g}; '
                         f'images {some(images, 8)}): {advice}')


def evaluate(model, loader, normalise, accelerator, desc):
    """-> (values of METRICS and per class as a dictionary, with the number of classes that are predicted at all, `n_predicted`; the
    original's report as a function of the class names)"""
    predictions = predict(model, loader, normalise, accelerator.autocast, desc=desc)
    metrics = evaluate_multi_cls(predictions.labels, predictions.preds, predictions.probs)
    values = vars(metrics) | {'loss': predictions.loss, 'n_predicted': len(np.unique(predictions.preds))}
    return values, partial(performance_text, metrics, predictions)


def reached_min_lr(history, args):
    """True when the last epoch was trained at the minimum rate, to which the rate was lowered from a higher one."""
    return args.schedule == 'plateau' and bool(history) and history[-1]['lr'] <= args.min_lr * (1 + 1e-6) < args.lr


def epoch_line(record, n_epochs, ordered=True):
    """`ordered`: the classes are grades, so that kappa (K) has a meaning."""
    remaining, evaluated = n_epochs - record['epoch'], {'Val': record['val']}
    if not math.isnan(record['train']['loss']):  # else it was not evaluated
        evaluated = {'Train': record['train']} | evaluated
    parts = ['||'.join(evaluated) + ' Loss: ' + '||'.join(f"{m['loss']:.4f}" for m in evaluated.values())]
    parts += [f"{name}: {'||'.join(f'{100 * m[key]:.2f}' for m in evaluated.values())}"
              for name, key in (('K', 'kappa'), ('mAUC', 'auc'), ('MCC', 'mcc'), ('BACC', 'bacc'), ('ACC', 'acc'))
              if ordered or key != 'kappa']
    return (f"Epoch {record['epoch']}/{n_epochs} {' - '.join(parts)} - LR: {record['lr']:g} - "
            f"{record['images_per_second']:.0f} img/s - {record['seconds']:.1f} s"
            + (f" - {duration(record['seconds'] * remaining)} left" if remaining else '')
            + (' - predicts one class only' if record['val']['n_predicted'] == 1 else ''))


class Network(NamedTuple):
    """What a run starts from."""
    arch: Arch
    head: str  # key of HEADS
    stage_one: StageOne
    frozen: list  # names of parameters
    reinitialised: list
    description: str


def build_network(args) -> Network:
    """Build the network that `args` name, with its first weights, on the CPU."""
    head = 'scaled' if args.trainable == 'scale' else LOSSES[args.loss_fn].head
    if args.pretrained_weights:
        arch, stage_one = get_stage_two(args.pretrained_weights, args.model_name, args.n_classes, args.im_size, head)
    else:
        arch, stage_one = get_arch(args.model_name, args.n_classes, args.init, args.im_size, head), StageOne()
    if args.grow_from < 1 and arch.model.fixed_size:
        raise InputError(f'--grow_from {args.grow_from:g}: {args.model_name} takes images of one size only, leave the flag out')
    frozen, reinitialised = set_trainable(arch.model, args.trainable)
    n_trainable = sum(p.numel() for p in arch.model.parameters() if p.requires_grad)
    description = (f'* {args.model_name}: {n_trainable:,} trainable parameters; '
                   + describe_start(arch.model.initial_weights, args.im_size, stage_one.facts, frozen, reinitialised))
    return Network(arch, head, stage_one, frozen, reinitialised, description)


def main(args, argv=None):
    """`argv`: the command line, to tell which flags have no effect and how an interrupted run goes on."""
    resolve(args)
    for csv in (args.csv_train, args.csv_val):
        check_csv_exists(csv)  # before weights are downloaded
    accelerator = build_accelerator(args.device, args.precision, args.compile)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    if args.batch_size % (world_size * args.accumulate):
        raise InputError(f'--batch_size {args.batch_size} cannot be cut into equal parts for {world_size} processes x --accumulate '
                         f'{args.accumulate}')
    if args.sync_bn and world_size > 1 and accelerator.device.type != 'cuda':
        raise InputError(f'--sync_bn needs CUDA, not {accelerator.device.type}: leave it out')
    if rank > 0:
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115  the first process speaks and writes for all
    if argv:
        warn(get_parser(), argv[1:], args, WITHOUT_EFFECT, n_processes=world_size, device_type=accelerator.device.type)
    run_path = None if args.do_not_save else os.path.join('experiments', args.save_path)
    keep_private(args.private, run_path, None if args.no_cache else args.cache_dir)
    run = RunFolder(run_path, args.metric, args.n_checkpoints, vars(args), args.resume, args.overwrite, writes=rank == 0)
    watch = get_watch(args.tensorboard and rank == 0, run)
    use_cuda = accelerator.device.type == 'cuda'
    set_backends(args.deterministic, use_cuda, one_size=args.grow_from == 1)
    set_seeds(args.seed, use_cuda)

    with accelerator.local_main_process_first():  # which downloads weights
        network = build_network(args)
    model, mean, std = network.arch
    check_forward(model, args, args.batch_size // args.accumulate // (1 if args.sync_bn else world_size))

    with accelerator.main_process_first():  # which makes the cache
        train_loader, val_loader = get_train_val_cls_loaders(
            args.csv_train, args.csv_val, args.data_path, args.batch_size, args.im_size, args.n_classes, args.num_workers, args.seed,
            args.n_epochs, True, None if args.no_cache else args.cache_dir, rank, world_size, args.accumulate,
            args.skip_bad_images, args.allow_outside_data_path, args.label_column,
            network.stage_one.class_names)
    train_set, val_set = train_loader.dataset, val_loader.dataset
    val_set = val_set.dataset if world_size > 1 else val_set  # the whole, of which each process scores a part
    num_workers = train_loader.num_workers  # fewer where images come from the cache
    if args.metric == 'auc' and len(np.unique(val_set.dr)) < 2:
        raise InputError(f'--metric auc is undefined: {args.csv_val} has images of one class only')
    sample = len(val_set) if args.train_eval == 'sample' else None
    train_eval_loader = get_eval_loader(train_set, train_loader.batch_size, num_workers, sample, args.seed, rank, world_size)
    n_train_eval = len(train_set) if args.train_eval == 'full' else min(len(val_set), len(train_set))
    class_count = np.bincount(train_set.dr, minlength=args.n_classes)
    class_names = train_set.class_names(args.n_classes)
    image_hashes = None
    if rank == 0:  # which writes
        hashes = [data.content_hashes(args.num_workers) for data in (train_set, val_set)]
        image_hashes = seen_images(*hashes, network.stage_one.image_hashes)
        if network.stage_one.facts and network.stage_one.image_hashes is None:
            print('* Note: stage one holds no list of its training images: an overlap with tested images cannot be found')
        if leak := describe_leak(val_set, image_hashes):
            print(f'* Warning: {leak}')
    print(network.description)
    config = vars(args) | {
        'format': FORMAT, 'head': network.head, 'initial_weights': model.initial_weights,
        'class_column': train_set.label_column, 'class_names': class_names, 'class_count': class_count.tolist(),
        'parent': network.stage_one.facts, 'frozen': network.frozen, 'reinitialised': network.reinitialised,
        'csv_sha256': {'train': file_sha256(args.csv_train), 'val': file_sha256(args.csv_val)},
        'decoder': DECODER, 'torch': str(torch.__version__), 'device_type': accelerator.device.type,
        'mixed_precision': accelerator.mixed_precision}
    accelerator.wait_for_everyone()  # all have looked at the folder before it is written to
    run.start(config, describe_environment(accelerator.device), (train_set, val_set), image_hashes)

    if args.sync_bn and world_size > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(accelerator.device, memory_format=torch.channels_last)
    normalise = Normalise(accelerator.device, mean, std)
    if sees_the_same(args):
        normalise = use_features(model, (train_set, val_set), normalise, accelerator.autocast, train_loader.batch_size, num_workers)
    method = Method(args, train_loader, class_count, normalise, rank, world_size)
    as_trained = Plain(normalise, args.augment, args.seed, rank, world_size, stream=3)
    training = Training(args, model, accelerator, args.n_epochs * (len(train_set) // args.batch_size))
    within = run.within or {}
    if run.within or run.state:
        training.load_state_dict(run.within or run.state)
        print(f'* Resuming {run_path} after epoch {len(run.history)}' + (f", batch {within['batches']}" if within else ''))

    def checkpoint(epoch, val):
        return {'model_name': args.model_name, 'class_names': class_names, 'class_count': class_count.tolist(), 'im_size': args.im_size,
                'mean': mean, 'std': std, 'image_hashes': image_hashes, 'epoch': epoch, 'metrics': val, 'config': config,
                'state_dict': training.evaluated.state_dict()} | training.state_dict()

    how = how_to_resume(argv, args.save_path, world_size) if run_path else ''
    with run, Interrupt(how) as interrupt, explain_full_memory(args, run, world_size):
        for epoch in range(len(run.history), args.n_epochs):
            if reached_min_lr(run.history, args):
                print(f'* Early stopping: trained at the minimum learning rate {args.min_lr:g}')
                break
            if interrupt.signal is not None:  # it came while the last epoch was saved
                raise Interrupted(interrupt.signal)
            interrupt.hold()
            start, lr = time.perf_counter() - within.get('seconds', 0), within.get('lr', training.lr)
            set_seeds([args.seed, epoch], use_cuda)
            phase, total = method.phase(epoch, within.get('batches', 0)), None
            if within:
                phase.prepare.load_state_dict(within['prepare'])
                set_random_state(within['random'])
            desc = f'Epoch {epoch + 1}/{args.n_epochs}'
            try:
                total = run_one_epoch(phase, training, accelerator, interrupt, desc, args.accumulate, within.get('batches', 0),
                                      within.get('total', 0.))
                within = {}
                images_per_second = len(train_set) // args.batch_size * args.batch_size / (time.perf_counter() - start)
                broadcast(list(training.evaluated.buffers()))  # BatchNorm's running statistics are each process's own
                interrupt.release()
                train, train_report = dict.fromkeys(METRICS, math.nan), None
                if args.train_eval != 'off':
                    as_trained.set_epoch(epoch)
                    train, train_report = evaluate(training.evaluated, train_eval_loader, as_trained.inputs, accelerator, f'{desc} train')
                val, val_report = evaluate(training.evaluated, val_loader, normalise, accelerator, f'{desc} val')
                interrupt.hold()
            except Interrupted as stop:
                if total is not None:  # during the evaluation
                    stop.batches, stop.total = len(phase.loader), total
                run.interrupt(checkpoint(epoch, {}) | {
                    'batches': stop.batches, 'total': stop.total, 'prepare': phase.prepare.state_dict(), 'lr': lr,
                    'random': random_state(use_cuda), 'seconds': time.perf_counter() - start})
                raise
            ahead = train_report is None or training_is_ahead(args.metric, train[args.metric], val[args.metric], n_train_eval, len(val_set))
            training.schedule.after_epoch(val[args.metric] if ahead else None)
            record = {'epoch': epoch + 1, 'lr': lr, 'training_loss': total / len(phase.loader), 'train': train, 'val': val,
                      'images_per_second': images_per_second, 'seconds': time.perf_counter() - start}
            reports = [train_report(class_names) if train_report else 'training set not evaluated\n', val_report(class_names, lr)]
            run.end_epoch(record, '\n'.join(reports), checkpoint(epoch + 1, val))
            watch(class_names, class_count)
            best = f' - best {args.metric} so far' if run.best_epoch() == epoch + 1 else ''
            print(epoch_line(record, args.n_epochs, is_ordered(class_names, args.metric)) + best, flush=True)
        run.finish()

    best = run.best_epoch()
    print(f"* Best epoch {best}: {args.metric} {run.score(best) if args.metric == 'loss' else 100 * run.score(best):.2f}")
    if run_path:
        print(f'* Saved in {run_path}')
        say_next(*to_test(run_path, args.csv_train, args.csv_val, args.data_path), *private_flag(args))


if __name__ == '__main__':
    run_script(lambda: main(get_parser().parse_args(), sys.argv), LESS)
