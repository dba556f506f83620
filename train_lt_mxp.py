"""Train a classifier on long-tailed images: re-sampling, mixing, re-balancing losses, one or two stages."""
import utils  # noqa: F401  first of all: how threads wait has to be set before torch is imported

# isort: split
import argparse
import math
import os
import shlex
import time
from datetime import datetime
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from models.get_model import ARCHS, get_arch
from models.weights import load_weights
from utils.batches import MIXING, Normalise, Plain
from utils.common import InputError, file_sha256, parse_im_size, parse_parameter, run_script, str2bool
from utils.evaluation import METRICS, evaluate_multi_cls, performance_text, training_is_ahead
from utils.get_loaders import SAMPLING, get_eval_loader, get_train_val_cls_loaders
from utils.inference import predict
from utils.losses import LOSSES, get_loss_fn, loss_parameters
from utils.method import Method, corrects_twice
from utils.optimisation import OPTIMIZERS, SCHEDULES, Schedule, average_weights
from utils.policies import AUGMENT
from utils.recipes import RECIPES, RecipeParser
from utils.reproducibility import set_seeds
from utils.run_folder import RunFolder
from utils.two_stage import describe_start, get_stage_two, set_trainable, train_mode

CHECK_EVERY = 10  # batches between two looks at the running loss, each of which waits for the device


def get_parser():
    parser = RecipeParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = parser.add_argument_group('data')
    data.add_argument('--csv_train', default='data/train_eyepacs.csv', help='training csv: column image_id, last column the class')
    data.add_argument('--csv_val', help='validation csv (default: the name of csv_train with train -> val)')
    data.add_argument('--data_path', default='data/eyepacs_all_ims/', help='folder of the images')
    data.add_argument('--n_classes', type=int, default=5, help='number of classes')
    data.add_argument('--im_size', default='512,512', type=parse_im_size, help='input size in pixels: 512 or height,width')
    data.add_argument('--num_workers', type=int, default=8, help='processes that decode images, at most one per CPU core')
    data.add_argument('--skip_bad_images', action='store_true', help='leave out images that cannot be read; lists them in skipped.csv')
    data.add_argument('--allow_outside_data_path', action='store_true', help='csvs may name images outside of data_path')
    method = parser.add_argument_group('method')
    method.add_argument('--recipe', choices=RECIPES, help='a named set of flags; those given by hand win')
    method.add_argument('--sampling', default='instance', choices=SAMPLING, help='how training images are drawn')
    method.add_argument('--mixing', default='none', choices=MIXING, help='how images and labels of a batch are mixed')
    method.add_argument('--mix_alpha', type=float, metavar='A', help='of the Beta distribution of the mixing (default: as published)')
    method.add_argument('--do_mixup', type=float, default=0., metavar='ALPHA',
                        help='Balanced-MixUp with Beta(ALPHA, 1): --mixing balanced_mixup --mix_alpha ALPHA; 0 is off')
    method.add_argument('--mixup_off_epochs', type=int, default=0, metavar='N', help='mix nothing in the last N epochs')
    method.add_argument('--augment', default='original', choices=AUGMENT, help='random changes of each image')
    method.add_argument('--loss_fn', '--weighting', dest='loss_fn', type=str.upper, default='CE', choices=LOSSES, help='training loss')
    method.add_argument('--loss_params', nargs='*', default=[], type=parse_parameter, metavar='NAME=VALUE',
                        help='its parameters, such as gamma=2 tau=1 (default: as published)')
    method.add_argument('--cdt_gamma', type=float, help='the same as --loss_params gamma=... of CDT')
    method.add_argument('--defer', type=float, default=0., metavar='FRACTION',
                        help='begin re-balancing, by loss (DRW) or sampler (DRS), after this share of the epochs')
    method.add_argument('--pretrained_weights', metavar='PATH', help='stage two: start from this checkpoint or run folder')
    method.add_argument('--trainable', default='all', choices=('all', 'classifier', 'scale'),
                        help='classifier: freeze the backbone, initialise the last layer anew (cRT); scale: one factor per class (LWS)')
    model = parser.add_argument_group('network and optimisation')
    model.add_argument('--model_name', default='bit_resnext50_1', help=f"{', '.join(ARCHS)}, or a timm model")
    model.add_argument('--init', default='imagenet', help='imagenet, none, or the path of a local state dict')
    model.add_argument('--optimizer', default='sgd', choices=OPTIMIZERS, help='optimizer')
    model.add_argument('--lr', type=float, default=.01, help='learning rate')
    model.add_argument('--schedule', default='plateau', choices=SCHEDULES, help='course of the learning rate')
    model.add_argument('--warmup', type=float, metavar='FRACTION',
                       help='share of the training in which the rate rises (default: 0, cosine .05, onecycle .3)')
    model.add_argument('--min_lr', type=float, default=-1, help='plateau: stop after training at it; cosine: the last rate (-1: lr / 1000)')
    model.add_argument('--patience', type=int, default=2, help='plateau: epochs without improvement before the rate is divided by 10')
    model.add_argument('--ema', type=float, default=0., metavar='DECAY', help='test and save the moving average of the weights; 0 is off')
    model.add_argument('--momentum', type=float, default=0., help='of sgd')
    model.add_argument('--wd', type=float, default=0., help='weight decay')
    model.add_argument('--batch_size', type=int, default=8, help='images of a training step')
    model.add_argument('--n_epochs', type=int, default=7, help='epochs')
    model.add_argument('--precision', default='auto', choices=('auto', 'fp32', 'bf16'), help='auto: bf16 on CUDA, fp32 elsewhere')
    run = parser.add_argument_group('run')
    run.add_argument('--metric', default='auc', choices=METRICS, help='validation metric that picks the best epoch and lowers the rate')
    run.add_argument('--train_eval', default='sample', choices=('sample', 'full', 'off'),
                     help='training images scored each epoch, augmented: a fixed sample as large as the validation set, all, none')
    run.add_argument('--seed', type=int, default=0, help='random seed')
    run.add_argument('--save_path', default='date_time', help='name of the run, below experiments/')
    run.add_argument('--n_checkpoints', type=int, default=1, help='how many of the best epochs to keep')
    run.add_argument('--do_not_save', type=str2bool, nargs='?', const=True, default=False, help='write nothing')
    run.add_argument('--resume', action='store_true', help='continue an interrupted run')
    run.add_argument('--overwrite', action='store_true', help='replace a run of the same name')
    return parser


def resolve(args):
    """Fill in what depends on other flags, and refuse what cannot work. Changes `args`."""
    for name in ('n_classes', 'batch_size', 'n_epochs', 'n_checkpoints', 'lr'):
        if not getattr(args, name) > 0:
            raise InputError(f'--{name} must be positive, not {getattr(args, name)}')
    for name in ('do_mixup', 'num_workers', 'patience', 'momentum', 'wd', 'seed', 'mixup_off_epochs'):
        if not getattr(args, name) >= 0:
            raise InputError(f'--{name} must not be negative, got {getattr(args, name)}')
    for name in ('defer', 'warmup', 'ema'):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < 1:
            raise InputError(f'--{name} must lie in 0..1 (1 excluded), got {getattr(args, name)}')
    if args.csv_val is None:
        folder, name = os.path.split(args.csv_train)
        if 'train' not in name:
            raise InputError(f"the validation csv cannot be guessed from the name '{name}': give it with --csv_val")
        args.csv_val = os.path.join(folder, name.replace('train', 'val'))
    if args.trainable == 'classifier' and args.init == 'none' and not args.pretrained_weights:
        raise InputError('--trainable classifier would freeze a random backbone: give --pretrained_weights or --init')
    resolve_method(args)
    args.warmup = SCHEDULES[args.schedule] if args.warmup is None else args.warmup
    if args.save_path == 'date_time':
        args.save_path = datetime.now().strftime('%Y-%m-%d-%H-%M-%S')
    args.num_workers = min(args.num_workers, os.cpu_count() or 1)
    args.min_lr = args.lr * 1e-3 if args.min_lr == -1 else args.min_lr


def resolve_method(args):
    """The part of `resolve` about loss and mixing, with published defaults written out."""
    if args.do_mixup > 0:
        if args.mixing not in ('none', 'balanced_mixup'):
            raise InputError(f'--do_mixup is Balanced-MixUp: leave it out with --mixing {args.mixing} (--mix_alpha sets its alpha)')
        args.mixing, args.mix_alpha = 'balanced_mixup', args.do_mixup
    if args.mixing != 'none':
        args.mix_alpha = MIXING[args.mixing].alpha if args.mix_alpha is None else args.mix_alpha
        if not args.mix_alpha > 0:
            raise InputError(f'--mix_alpha must be positive, got {args.mix_alpha}')
    given = dict(args.loss_params)
    if args.cdt_gamma is not None and args.loss_fn == 'CDT':
        given.setdefault('gamma', args.cdt_gamma)
    get_loss_fn(args.loss_fn, [1] * args.n_classes, **given)  # refuses unknown names and values without meaning
    args.loss_params = loss_parameters(args.loss_fn) | given
    if args.trainable == 'scale' and LOSSES[args.loss_fn].head != 'linear':
        raise InputError(f'--trainable scale scales the last layer as it is, but {args.loss_fn} needs a cosine classifier')
    if args.trainable == 'scale' and not args.pretrained_weights:
        raise InputError('--trainable scale (LWS) belongs to stage two: give --pretrained_weights')
    if warning := corrects_twice(args):
        print(f'* Warning: {warning}')


def run_one_epoch(loader, model, prepare, criterion, optimizer, after_step, accelerator, desc):
    """One pass of training. -> mean training loss; raises `InputError` when it is not finite."""
    train_mode(accelerator.unwrap_model(model))
    total, lr = torch.zeros((), device=accelerator.device), optimizer.param_groups[0]['lr']
    batch_size = loader.loaders[0].batch_size
    with tqdm(total=len(loader) * batch_size, desc=desc, unit='img', leave=False, disable=None) as bar:
        for step, batch in enumerate(loader, start=1):
            inputs, targets = prepare(batch)
            with accelerator.autocast():
                logits = model(inputs)
            loss = criterion(logits, targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            after_step()
            total += loss.detach()
            if step % CHECK_EVERY == 0 or step == len(loader):
                mean = total.item() / step
                if not math.isfinite(mean):
                    raise InputError(f'{desc}: the training loss is {mean} at batch {step} of {len(loader)} (lr {lr:g}): '
                                     'a lower --lr usually helps')
                bar.set_postfix(loss=f'{mean:.4f}', lr=f'{lr:g}', refresh=False)
            bar.update(batch_size)
    return mean


def evaluate(model, loader, normalise, accelerator, desc):
    """-> (values of METRICS and per class as a dictionary, the original's report as a function of the class names)"""
    predictions = predict(model, loader, normalise, accelerator.autocast, desc=desc)
    metrics = evaluate_multi_cls(predictions.labels, predictions.preds, predictions.probs)
    return metrics._asdict() | {'loss': predictions.loss}, partial(performance_text, metrics, predictions)


def reached_min_lr(history, args):
    """True when the last epoch was trained at the minimum rate, to which the rate was lowered from a higher one."""
    return args.schedule == 'plateau' and bool(history) and history[-1]['lr'] <= args.min_lr * (1 + 1e-6) < args.lr


def epoch_line(record, n_epochs):
    t, v = record['train'], record['val']
    scores = ' - '.join(f'{name}: {100 * t[key]:.2f}||{100 * v[key]:.2f}'
                        for name, key in (('K', 'kappa'), ('mAUC', 'auc'), ('MCC', 'mcc'), ('BACC', 'bacc')))
    return (f"Epoch {record['epoch']}/{n_epochs} Train||Val Loss: {t['loss']:.4f}||{v['loss']:.4f} - {scores} - LR: {record['lr']:g} - "
            f"{record['images_per_second']:.0f} img/s - {record['seconds']:.1f} s")


def test_command(args, run_path):
    """The test csv beside the training csv if there is one, else the validation csv."""
    csv_test = os.path.join(os.path.dirname(args.csv_train), os.path.basename(args.csv_train).replace('train', 'test'))
    script, flag, csv = ('endo', '--csv_val', args.csv_val)
    if os.path.isfile(csv_test) and csv_test != args.csv_train:
        script, flag, csv = ('eyepacs', '--csv_test', csv_test)
    return shlex.join(['python', f'test_with_labels_{script}.py', '--load_path', run_path, '--data_path', args.data_path, flag, csv])


def main(args):
    resolve(args)
    bf16 = args.precision == 'bf16' or (args.precision == 'auto' and torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    accelerator = Accelerator(mixed_precision='bf16' if bf16 else 'no')
    if accelerator.num_processes > 1:
        raise InputError('training in several processes is not supported: start one process')
    run_path = None if args.do_not_save else os.path.join('experiments', args.save_path)
    run = RunFolder(run_path, args.metric, args.n_checkpoints, vars(args), args.resume, args.overwrite)
    use_cuda = accelerator.device.type == 'cuda'
    set_seeds(args.seed, use_cuda)

    train_loader, val_loader = get_train_val_cls_loaders(
        args.csv_train, args.csv_val, args.data_path, args.batch_size, args.im_size, args.n_classes, args.num_workers,
        args.seed, args.n_epochs, skip_bad_images=args.skip_bad_images, allow_outside=args.allow_outside_data_path)
    train_set, val_set = train_loader.dataset, val_loader.dataset
    if args.metric == 'auc' and len(np.unique(val_set.dr)) < 2:
        raise InputError(f'--metric auc is undefined: {args.csv_val} has images of one class only')
    sample = len(val_set) if args.train_eval == 'sample' else None
    train_eval_loader = get_eval_loader(train_set, args.batch_size, args.num_workers, sample, args.seed)
    n_train_eval = len(train_eval_loader.dataset)
    class_count = np.bincount(train_set.dr, minlength=args.n_classes)
    class_names = train_set.class_names(args.n_classes)

    head = 'scaled' if args.trainable == 'scale' else LOSSES[args.loss_fn].head
    if args.pretrained_weights:
        arch, parent = get_stage_two(args.pretrained_weights, args.model_name, args.n_classes, args.im_size, head)
    else:
        arch, parent = get_arch(args.model_name, args.n_classes, args.init, args.im_size, head), None
    model, mean, std = arch
    frozen, reinitialised = set_trainable(model, args.trainable)
    print(f'* {args.model_name}: {sum(p.numel() for p in model.parameters() if p.requires_grad):,} trainable parameters; '
          + describe_start(args.init, parent, frozen, reinitialised))
    config = vars(args) | {
        'head': head,
        'class_names': class_names, 'class_count': class_count.tolist(), 'parent': parent, 'frozen': frozen,
        'reinitialised': reinitialised, 'csv_sha256': {'train': file_sha256(args.csv_train), 'val': file_sha256(args.csv_val)},
        'torch': str(torch.__version__), 'device': accelerator.device.type, 'mixed_precision': accelerator.mixed_precision}
    run.start(config, (train_set, val_set))

    model = model.to(accelerator.device, memory_format=torch.channels_last)
    normalise = Normalise(accelerator.device, mean, std)
    method = Method(args, train_loader, class_count, normalise)
    as_trained = Plain(normalise, args.augment, args.seed, stream=3)
    optimizer = OPTIMIZERS[args.optimizer](model, args)
    schedule = Schedule(args.schedule, optimizer, args.warmup, args.n_epochs * len(train_loader), args.lr, args.min_lr, args.patience,
                        args.metric)
    averaged = average_weights(model, args.ema) if args.ema else None
    trained, evaluated = model, averaged.module if averaged else model
    model, optimizer = accelerator.prepare(model, optimizer)
    if run.state:
        load_weights(evaluated, run.state['state_dict'], run.state['folder'])
        if averaged:
            load_weights(trained, run.state['trained'], run.state['folder'])
            averaged.n_averaged.copy_(run.state['n_averaged'])
        optimizer.load_state_dict(run.state['optimizer'])
        schedule.load_state_dict(run.state['schedule'])
        print(f"* Resuming {run_path} after epoch {run.state['epoch']}")

    def after_step():
        schedule.after_step()
        if averaged:
            averaged.update_parameters(trained)

    for epoch in range(len(run.history), args.n_epochs):
        if reached_min_lr(run.history, args):
            print(f'* Early stopping: trained at the minimum learning rate {args.min_lr:g}')
            break
        start, lr = time.perf_counter(), optimizer.param_groups[0]['lr']
        set_seeds([args.seed, epoch], use_cuda)
        phase = method.phase(epoch)
        desc = f'Epoch {epoch + 1}/{args.n_epochs}'
        train_loss = run_one_epoch(phase.loader, model, phase.prepare, phase.criterion, optimizer, after_step, accelerator, desc)
        images_per_second = len(phase.loader) * args.batch_size / (time.perf_counter() - start)
        train, train_report = dict.fromkeys(METRICS, math.nan), None
        if args.train_eval != 'off':
            as_trained.set_epoch(epoch)
            train, train_report = evaluate(evaluated, train_eval_loader, as_trained.inputs, accelerator, f'{desc} train')
        val, val_report = evaluate(evaluated, val_loader, normalise, accelerator, f'{desc} val')
        ahead = train_report is None or training_is_ahead(args.metric, train[args.metric], val[args.metric], n_train_eval, len(val_set))
        schedule.after_epoch(val[args.metric] if ahead else None)
        record = {'epoch': epoch + 1, 'lr': lr, 'training_loss': train_loss, 'train': train, 'val': val,
                  'images_per_second': images_per_second, 'seconds': time.perf_counter() - start}
        checkpoint = {'model_name': args.model_name, 'class_names': class_names, 'class_count': class_count.tolist(),
                      'im_size': args.im_size, 'mean': mean, 'std': std, 'epoch': epoch + 1, 'metrics': val, 'config': config,
                      'state_dict': evaluated.state_dict()}
        reports = [train_report(class_names) if train_report else 'training set not evaluated\n', val_report(class_names, lr)]
        state = {'optimizer': optimizer.state_dict(), 'schedule': schedule.state_dict()}
        if averaged:
            state |= {'trained': trained.state_dict(), 'n_averaged': averaged.n_averaged}
        run.end_epoch(record, '\n'.join(reports), checkpoint, state)
        best = f' - best {args.metric} so far' if run.best_epoch() == epoch + 1 else ''
        print(epoch_line(record, args.n_epochs) + best, flush=True)

    run.finish()
    best = run.best_epoch()
    print(f"* Best epoch {best}: {args.metric} {run.score(best) if args.metric == 'loss' else 100 * run.score(best):.2f}")
    if run_path:
        print(f'* Saved in {run_path}; test it with\n  {test_command(args, run_path)}')


if __name__ == '__main__':
    run_script(lambda: main(get_parser().parse_args()))
