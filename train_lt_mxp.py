"""Train a classifier on long-tailed images: re-sampling, Balanced-MixUp, re-weighted losses, one or two stages."""
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
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from models.get_model import ARCHS, get_arch
from models.weights import load_weights
from utils.batches import BalancedMixUp, Normalise, Plain
from utils.combo_loader import ComboLoader
from utils.common import InputError, file_sha256, parse_im_size, run_script, str2bool
from utils.evaluation import METRICS, SMALLER_IS_BETTER, evaluate_multi_cls, performance_text, training_is_ahead
from utils.get_loaders import SAMPLING, get_combo_loader, get_eval_loader, get_train_val_cls_loaders, modify_loader
from utils.inference import predict
from utils.losses import LOSSES, get_loss_fn
from utils.reproducibility import set_seeds
from utils.run_folder import RunFolder
from utils.two_stage import describe_start, load_stage_one, set_trainable, train_mode
from utils.watch import get_watch

OPTIMIZERS = {
    'sgd': lambda parameters, args: torch.optim.SGD(parameters, args.lr, momentum=args.momentum, weight_decay=args.wd),
    'adam': lambda parameters, args: torch.optim.Adam(parameters, args.lr, weight_decay=args.wd),
}
CHECK_EVERY = 10  # batches between two looks at the running loss, each of which waits for the device


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = parser.add_argument_group('data')
    data.add_argument('--csv_train', default='data/train_eyepacs.csv', help='training csv: column image_id, last column the class')
    data.add_argument('--csv_val', help='validation csv (default: the name of csv_train with train -> val)')
    data.add_argument('--data_path', default='data/eyepacs_all_ims/', help='folder of the images')
    data.add_argument('--n_classes', type=int, default=5, help='number of classes')
    data.add_argument('--im_size', default='512,512', type=parse_im_size, help='input size in pixels: 512 or height,width')
    data.add_argument('--num_workers', type=int, default=8, help='processes that decode images, at most one per CPU core')
    method = parser.add_argument_group('method')
    method.add_argument('--sampling', default='instance', choices=SAMPLING, help='how training images are drawn')
    method.add_argument('--do_mixup', type=float, default=0., metavar='ALPHA', help='Balanced-MixUp with Beta(ALPHA, 1), 0 is off')
    method.add_argument('--loss_fn', '--weighting', dest='loss_fn', type=str.upper, default='CE', choices=LOSSES, help='training loss')
    method.add_argument('--cdt_gamma', type=float, default=.2, help='exponent of the temperatures of CDT')
    method.add_argument('--pretrained_weights', metavar='PATH', help='stage two: start from this checkpoint or run folder')
    method.add_argument('--trainable', default='all', choices=('all', 'classifier'),
                        help='classifier: freeze the backbone, initialise the last layer anew (cRT)')
    model = parser.add_argument_group('network and optimisation')
    model.add_argument('--model_name', default='bit_resnext50_1', help=f"{', '.join(ARCHS)}, or a timm model")
    model.add_argument('--init', default='imagenet', help='imagenet, none, or the path of a local state dict')
    model.add_argument('--optimizer', default='sgd', choices=OPTIMIZERS, help='optimizer')
    model.add_argument('--lr', type=float, default=.01, help='learning rate')
    model.add_argument('--min_lr', type=float, default=-1, help='stop after training at this rate (-1: lr / 1000)')
    model.add_argument('--patience', type=int, default=2, help='epochs without improvement before the rate is divided by 10')
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
    run.add_argument('--tensorboard', action='store_true', help='write the numbers of log.jsonl for TensorBoard into the run folder, too')
    run.add_argument('--resume', action='store_true', help='continue an interrupted run')
    run.add_argument('--overwrite', action='store_true', help='replace a run of the same name')
    return parser


def resolve(args):
    """Fill in what depends on other flags, and refuse what cannot work. Changes `args`."""
    for name in ('n_classes', 'batch_size', 'n_epochs', 'n_checkpoints', 'lr'):
        if not getattr(args, name) > 0:
            raise InputError(f'--{name} must be positive, not {getattr(args, name)}')
    for name in ('do_mixup', 'cdt_gamma', 'num_workers', 'patience', 'momentum', 'wd', 'seed'):
        if not getattr(args, name) >= 0:
            raise InputError(f'--{name} must not be negative, got {getattr(args, name)}')
    if args.csv_val is None:
        folder, name = os.path.split(args.csv_train)
        if 'train' not in name:
            raise InputError(f"the validation csv cannot be guessed from the name '{name}': give it with --csv_val")
        args.csv_val = os.path.join(folder, name.replace('train', 'val'))
    if args.trainable == 'classifier' and args.init == 'none' and not args.pretrained_weights:
        raise InputError('--trainable classifier would freeze a random backbone: give --pretrained_weights or --init')
    if args.loss_fn == 'BSCE' and args.sampling == 'class' and not args.do_mixup:
        print('* Note: BSCE with --sampling class corrects for the imbalance twice')
    if args.save_path == 'date_time':
        args.save_path = datetime.now().strftime('%Y-%m-%d-%H-%M-%S')
    args.num_workers = min(args.num_workers, os.cpu_count() or 1)
    args.min_lr = args.lr * 1e-3 if args.min_lr == -1 else args.min_lr


def run_one_epoch(loader, model, prepare, criterion, optimizer, accelerator, desc):
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
    return bool(history) and history[-1]['lr'] <= args.min_lr * (1 + 1e-6) < args.lr


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
    watch = get_watch(args.tensorboard, run)
    use_cuda = accelerator.device.type == 'cuda'
    set_seeds(args.seed, use_cuda)

    train_loader, val_loader = get_train_val_cls_loaders(
        args.csv_train, args.csv_val, args.data_path, args.batch_size, args.im_size, args.n_classes, args.num_workers,
        args.seed, args.n_epochs)
    train_set, val_set = train_loader.dataset, val_loader.dataset
    if args.metric == 'auc' and len(np.unique(val_set.dr)) < 2:
        raise InputError(f'--metric auc is undefined: {args.csv_val} has images of one class only')
    sample = len(val_set) if args.train_eval == 'sample' else None
    train_eval_loader = get_eval_loader(train_set, args.batch_size, args.num_workers, sample, args.seed)
    n_train_eval = len(train_eval_loader.dataset)
    if args.do_mixup > 0:
        loader = get_combo_loader(train_loader, args.sampling)
    else:
        loader = ComboLoader([modify_loader(train_loader, args.sampling)])
    class_count = np.bincount(train_set.dr, minlength=args.n_classes)
    class_names = train_set.class_names(args.n_classes)

    model, mean, std = get_arch(args.model_name, args.n_classes, 'none' if args.pretrained_weights else args.init, args.im_size)
    parent = load_stage_one(model, args.pretrained_weights, args.model_name, args.n_classes) if args.pretrained_weights else None
    frozen, reinitialised = set_trainable(model, args.trainable)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    print(f'* {args.model_name}: {sum(p.numel() for p in trainable):,} trainable parameters; '
          + describe_start(args.init, parent, frozen, reinitialised))
    config = vars(args) | {
        'class_names': class_names, 'class_count': class_count.tolist(), 'parent': parent, 'frozen': frozen,
        'reinitialised': reinitialised, 'csv_sha256': {'train': file_sha256(args.csv_train), 'val': file_sha256(args.csv_val)},
        'torch': str(torch.__version__), 'device': accelerator.device.type, 'mixed_precision': accelerator.mixed_precision}
    run.start(config)

    model = model.to(accelerator.device, memory_format=torch.channels_last)
    model, optimizer = accelerator.prepare(model, OPTIMIZERS[args.optimizer](trainable, args))
    scheduler = ReduceLROnPlateau(optimizer, mode='min' if args.metric in SMALLER_IS_BETTER else 'max', factor=.1,
                                  patience=args.patience, min_lr=args.min_lr)
    if run.state:
        load_weights(accelerator.unwrap_model(model), run.state['state_dict'], run.state['folder'])
        optimizer.load_state_dict(run.state['optimizer'])
        scheduler.load_state_dict(run.state['scheduler'])
        print(f"* Resuming {run_path} after epoch {run.state['epoch']}")
    params = {'gamma': args.cdt_gamma} if args.loss_fn == 'CDT' else {}
    criterion = get_loss_fn(args.loss_fn, class_count, **params).to(accelerator.device)
    normalise = Normalise(accelerator.device, mean, std)
    prepare = BalancedMixUp(normalise, args.n_classes, args.do_mixup, args.seed) if args.do_mixup > 0 else Plain(normalise, args.seed)
    as_trained = Plain(normalise, args.seed, stream=3)

    for epoch in range(len(run.history), args.n_epochs):
        if reached_min_lr(run.history, args):
            print(f'* Early stopping: trained at the minimum learning rate {args.min_lr:g}')
            break
        start, lr = time.perf_counter(), optimizer.param_groups[0]['lr']
        set_seeds([args.seed, epoch], use_cuda)
        loader.set_epoch(epoch)
        prepare.set_epoch(epoch)
        desc = f'Epoch {epoch + 1}/{args.n_epochs}'
        train_loss = run_one_epoch(loader, model, prepare, criterion, optimizer, accelerator, desc)
        images_per_second = len(loader) * args.batch_size / (time.perf_counter() - start)
        train, train_report = dict.fromkeys(METRICS, math.nan), None
        if args.train_eval != 'off':
            as_trained.set_epoch(epoch)
            train, train_report = evaluate(model, train_eval_loader, as_trained.inputs, accelerator, f'{desc} train')
        val, val_report = evaluate(model, val_loader, normalise, accelerator, f'{desc} val')
        if train_report is None or training_is_ahead(args.metric, train[args.metric], val[args.metric], n_train_eval, len(val_set)):
            scheduler.step(val[args.metric])
        record = {'epoch': epoch + 1, 'lr': lr, 'training_loss': train_loss, 'train': train, 'val': val,
                  'images_per_second': images_per_second, 'seconds': time.perf_counter() - start}
        checkpoint = {'model_name': args.model_name, 'class_names': class_names, 'class_count': class_count.tolist(),
                      'im_size': args.im_size, 'mean': mean, 'std': std, 'epoch': epoch + 1, 'metrics': val, 'config': config,
                      'state_dict': accelerator.unwrap_model(model).state_dict()}
        reports = [train_report(class_names) if train_report else 'training set not evaluated\n', val_report(class_names, lr)]
        run.end_epoch(record, '\n'.join(reports), checkpoint,
                      {'optimizer': optimizer.state_dict(), 'scheduler': scheduler.state_dict()})
        watch(class_names, class_count)
        best = f' - best {args.metric} so far' if run.best_epoch() == epoch + 1 else ''
        print(epoch_line(record, args.n_epochs) + best, flush=True)

    run.finish()
    best = run.best_epoch()
    print(f"* Best epoch {best}: {args.metric} {run.score(best) if args.metric == 'loss' else 100 * run.score(best):.2f}")
    if run_path:
        print(f'* Saved in {run_path}; test it with\n  {test_command(args, run_path)}')


if __name__ == '__main__':
    run_script(lambda: main(get_parser().parse_args()))
