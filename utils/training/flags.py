"""The flags of the train script, the checks of their combinations, and warnings for flags without effect."""
import argparse
import os
from argparse import Namespace
from datetime import datetime

from accelerate import Accelerator

from models.get_model import ARCHS
from utils.cli import parse_im_size, parse_parameter, sibling_csv, str2bool
from utils.common import InputError
from utils.data.label_column import HELP as LABEL_HELP
from utils.data.permissions import add_private_flag
from utils.data.sampling import SAMPLING
from utils.evaluation import METRICS
from utils.losses import LOSSES, get_loss_fn, loss_parameters
from utils.prediction.accelerator import add_device_flag
from utils.training.augmentation import AUGMENT
from utils.training.mixing import MIXING
from utils.training.optim import OPTIMIZERS, SCHEDULES
from utils.training.phases import corrects_twice, n_deferred, n_mixed, size_in_epoch
from utils.training.recipes import RECIPES, STAGE_TWO, RecipeParser


def add_flags(parser: RecipeParser) -> RecipeParser:
    """Add the flags of the train script to `parser`."""
    data = parser.add_argument_group('data')
    data.add_argument('--csv_train', default='data/train_eyepacs.csv', metavar='CSV',
                      help='training csv with a column image_id; the last column is the class, 0 to K-1')
    data.add_argument('--label_column', metavar='COLUMN', help=LABEL_HELP)
    data.add_argument('--csv_val', metavar='CSV', help='validation csv (default: name of --csv_train with "train" replaced by "val")')
    data.add_argument('--data_path', default='data/eyepacs_all_ims/', metavar='FOLDER', help='image folder')
    data.add_argument('--n_classes', type=int, default=5, metavar='K', help='number of classes')
    data.add_argument('--im_size', default='512,512', type=parse_im_size, metavar='PIXELS',
                      help='size to resize images to: height,width or one number for both')
    data.add_argument('--num_workers', type=int, default=8, metavar='N',
                      help='workers (processes or threads) that decode images; at most one per CPU core is used')
    data.add_argument('--cache_dir', default='data/cache', metavar='FOLDER', help='folder of the image cache, which holds resized images')
    data.add_argument('--no_cache', action='store_true', help='decode the images again in each epoch instead of using the image cache')
    data.add_argument('--data_device', default='auto', choices=('auto', 'host'),
                      help='where decoded images stay: in GPU memory if they fit beside a training step (auto), or in host memory')
    data.add_argument('--skip_bad_images', action='store_true',
                      help="skip unreadable images and list them in the run's skipped.csv, instead of stopping with an error")
    data.add_argument('--allow_outside_data_path', action='store_true', help='allow csvs to name images outside --data_path')
    method = parser.add_argument_group('method')
    method.add_argument('--recipe', choices=RECIPES, metavar='NAME',
                        help=f"preset of flags; flags on the command line override it: {', '.join(RECIPES)}")
    method.add_argument('--sampling', default='instance', choices=SAMPLING,
                        help='sampling of the training images: each image once per epoch (instance), all classes equally often (class), '
                             'by the square or cube root of the class size (sqrt, cbrt), or from instance to class over the epochs (prog)')
    method.add_argument('--mixing', default='none', choices=MIXING, help='method that mixes the images and labels of a batch')
    method.add_argument('--mix_alpha', type=float, metavar='A',
                        help='parameter of the Beta distribution of --mixing (default: as published)')
    method.add_argument('--do_mixup', type=float, default=argparse.SUPPRESS, metavar='ALPHA',
                        help='Balanced-MixUp with Beta(ALPHA, 1), short for --mixing balanced_mixup --mix_alpha ALPHA; 0 is off')
    method.add_argument('--mixup_off_epochs', type=int, default=0, metavar='N', help='turn mixing off for the last N epochs')
    method.add_argument('--augment', default='original', choices=AUGMENT, help='random augmentation of the training images')
    method.add_argument('--loss_fn', '--weighting', dest='loss_fn', type=str.upper, default='CE', choices=LOSSES, metavar='LOSS',
                        help=f"training loss: {', '.join(LOSSES)}")
    method.add_argument('--loss_params', nargs='*', default=[], type=parse_parameter, metavar='NAME=VALUE',
                        help='parameters of the loss, for example gamma=2 tau=1 (default: as published)')
    method.add_argument('--cdt_gamma', type=float, metavar='GAMMA', help='same as --loss_params gamma=GAMMA, for --loss_fn CDT')
    method.add_argument('--defer', type=float, default=0., metavar='FRACTION',
                        help='start re-balancing by loss (DRW) or sampler (DRS) after this fraction of the epochs, 0 to 1')
    method.add_argument('--pretrained_weights', metavar='PATH', help='run folder or checkpoint to start stage two from')
    method.add_argument('--trainable', default='all', choices=('all', 'classifier', 'scale'),
                        help='weights to train: all, only the re-initialised classifier (cRT), or one scale per class (LWS)')
    network = parser.add_argument_group('network')
    network.add_argument('--model_name', default='bit_resnext50_1', metavar='NAME',
                         help=f"{', '.join(ARCHS)}, any timm model, or path/to/file.py:function")
    network.add_argument('--init', default='imagenet', metavar='imagenet|none|PATH',
                         help='initial weights: ImageNet (downloaded once), random, or a file, for example of RETFound or DINOv2')
    training = parser.add_argument_group('training')
    training.add_argument('--n_epochs', type=int, default=7, metavar='N', help='number of epochs')
    training.add_argument('--batch_size', type=int, default=8, metavar='N', help='images per training step, over all processes')
    training.add_argument('--accumulate', type=int, default=1, metavar='N', help='split each training step into N batches, to save memory')
    training.add_argument('--grow_from', type=float, default=1., metavar='FRACTION',
                          help='progressive resizing: start at this fraction of --im_size, reach all of it after 80 %% of the epochs')
    training.add_argument('--optimizer', default='sgd', choices=OPTIMIZERS, help='optimizer')
    training.add_argument('--lr', type=float, default=.01, metavar='RATE', help='learning rate')
    training.add_argument('--layer_decay', type=float, default=1., metavar='DECAY',
                          help='multiply the learning rate by this factor for each layer before the last one, for example 0.7; 1 is off')
    training.add_argument('--schedule', default='plateau', choices=SCHEDULES,
                          help='learning-rate schedule; plateau: divide by 10 after more than --patience epochs without improvement; '
                               'step: divide by 10 after 1/2 and 3/4 of the training')
    training.add_argument('--warmup', type=float, metavar='FRACTION',
                          help='fraction of the steps with a rising learning rate, 0 to 1 (default: plateau and step 0, cosine 0.05, '
                               'onecycle 0.3)')
    training.add_argument('--min_lr', type=float, default=-1, metavar='RATE',
                          help='minimum learning rate: plateau stops after an epoch at it, cosine ends at it; -1 means --lr / 1000')
    training.add_argument('--patience', type=int, default=2, metavar='N',
                          help='plateau: number of epochs without improvement to tolerate before dividing the rate by 10')
    training.add_argument('--ema', type=float, default=0., metavar='DECAY',
                          help='evaluate and save a moving average of the weights with this decay, for example 0.998; 0 is off')
    training.add_argument('--momentum', type=float, default=0., metavar='M',
                          help='momentum of sgd; onecycle varies it between 0.95 and 0.85')
    training.add_argument('--wd', type=float, default=0., metavar='W', help='weight decay')
    training.add_argument('--metric', default='auc', choices=METRICS,
                          help='validation metric that selects the best epoch and drives the plateau schedule')
    training.add_argument('--train_eval', default='sample', choices=('sample', 'full', 'off'),
                          help='augmented training images scored each epoch: a fixed sample as large as the validation set, all, or none')
    training.add_argument('--seed', type=int, default=0, metavar='N', help='random seed')
    add_device_flag(training)
    training.add_argument('--precision', default='auto', choices=('auto', 'fp32', 'bf16'),
                          help='numerical precision; auto: bf16 on CUDA, fp32 elsewhere')
    training.add_argument('--compile', action='store_true', help='use torch.compile: a slower first epoch, perhaps faster later ones')
    training.add_argument('--sync_bn', action='store_true', help='with several GPUs, compute BatchNorm statistics over the whole batch')
    training.add_argument('--deterministic', action='store_true', help='make runs on CUDA reproducible, at lower speed')
    run = parser.add_argument_group('run folder')
    run.add_argument('--save_path', default='date_time', metavar='NAME',
                     help='name of the run folder below experiments/; date_time is replaced by the start time')
    run.add_argument('--n_checkpoints', type=int, default=1, metavar='N', help='number of checkpoints to keep, from the best epochs')
    run.add_argument('--resume', action='store_true', help='resume an interrupted run')
    run.add_argument('--overwrite', action='store_true', help='overwrite a run of the same name')
    run.add_argument('--do_not_save', type=str2bool, nargs='?', const=True, default=False, metavar='yes|no',
                     help='do not write a run folder')
    run.add_argument('--tensorboard', action='store_true', help='also write the values of log.jsonl to the run folder as TensorBoard files')
    add_private_flag(run)
    return parser


# Flags that other flags leave without effect: see `warn_without_effect`. Conditions get the flags after `resolve`, n_processes and
# device_type. A flag that switches something off, such as --momentum 0, gets no warning.
WITHOUT_EFFECT = (
    ('cache_dir', 'with --no_cache', lambda a: a.no_cache),
    ('data_device', 'without CUDA', lambda a: a.data_device == 'host' and a.device_type != 'cuda'),
    ('data_device', 'with --no_cache', lambda a: a.data_device == 'host' and a.no_cache),
    ('mixing', 'with --mixup_off_epochs {mixup_off_epochs} of {n_epochs} epochs', lambda a: a.mixing != 'none' and not n_mixed(a)),
    ('do_mixup', 'with --mixup_off_epochs {mixup_off_epochs} of {n_epochs} epochs', lambda a: a.given['do_mixup'] and not n_mixed(a)),
    ('mix_alpha', 'without --mixing', lambda a: a.mixing == 'none'),
    ('mix_alpha', 'with --do_mixup {given[do_mixup]:g}, which sets it', lambda a: a.given.get('do_mixup')),
    ('mixup_off_epochs', 'without --mixing', lambda a: a.mixup_off_epochs and a.mixing == 'none'),
    ('cdt_gamma', 'with --loss_fn {loss_fn}', lambda a: a.loss_fn != 'CDT'),
    ('cdt_gamma', 'with --loss_params gamma={loss_params[gamma]:g}', lambda a: a.loss_params['gamma'] != a.cdt_gamma),
    ('defer', 'with {n_epochs} epochs: re-balancing begins in the first one', lambda a: a.defer and not n_deferred(a)),
    ('defer', 'with {n_epochs} epochs: re-balancing would begin after the last one',
     lambda a: n_deferred(a) == a.n_epochs and a.sampling == 'instance' and LOSSES[a.loss_fn].drw),
    ('sampling', 'with --defer {defer:g}, which covers all {n_epochs} epochs',
     lambda a: a.sampling != 'instance' and n_deferred(a) == a.n_epochs),
    ('loss_fn', 'on the class balance with --defer {defer:g}, which covers all {n_epochs} epochs',
     lambda a: not LOSSES[a.loss_fn].drw and n_deferred(a) == a.n_epochs),
    ('init', 'with --pretrained_weights', lambda a: a.pretrained_weights and a.init != 'none'),
    ('grow_from', 'with one epoch, which uses the full --im_size', lambda a: a.grow_from < 1 and a.n_epochs == 1),
    ('grow_from', 'with --im_size {im_size[0]},{im_size[1]}: smaller sizes are multiples of 16 pixels',
     lambda a: a.grow_from < 1 and size_in_epoch(a.im_size, a.grow_from, 0, a.n_epochs) == tuple(a.im_size)),
    ('layer_decay', 'with --trainable {trainable}, which trains the last layer alone',
     lambda a: a.layer_decay < 1 and a.trainable != 'all'),
    ('momentum', 'with --optimizer {optimizer}', lambda a: a.momentum and a.optimizer != 'sgd'),
    ('momentum', 'with --schedule onecycle, which varies the momentum between 0.95 and 0.85',
     lambda a: a.optimizer == 'sgd' and a.schedule == 'onecycle'),
    ('wd', 'with --optimizer adamw, which does not decay the factors of --trainable scale',
     lambda a: a.wd and a.optimizer == 'adamw' and a.trainable == 'scale'),
    ('min_lr', 'with --schedule {schedule}', lambda a: a.schedule in ('step', 'onecycle')),
    ('patience', 'with --schedule {schedule}', lambda a: a.schedule != 'plateau'),
    ('sync_bn', 'with one process', lambda a: a.n_processes == 1),
    ('sync_bn', 'with --trainable {trainable}, which keeps the BatchNorm statistics', lambda a: a.trainable != 'all'),
    ('deterministic', 'without CUDA; runs on the CPU are always reproducible', lambda a: a.device_type != 'cuda'),
    ('private', 'with --do_not_save and --no_cache', lambda a: a.do_not_save and a.no_cache),
    *((name, 'with --do_not_save', lambda a: a.do_not_save) for name in ('save_path', 'n_checkpoints', 'resume', 'overwrite')),
)


def resolve(args: Namespace) -> Namespace:
    """Return a copy of `args` with derived values filled in. Raises `InputError` for flags that are invalid or conflict."""
    args = Namespace(**vars(args))
    for name in ('n_classes', 'batch_size', 'n_epochs', 'n_checkpoints', 'lr', 'accumulate'):
        if not getattr(args, name) > 0:
            raise InputError(f'--{name} must be positive, got {getattr(args, name)}')
    for name in ('num_workers', 'patience', 'momentum', 'wd', 'seed', 'mixup_off_epochs'):
        if not getattr(args, name) >= 0:
            raise InputError(f'--{name} must not be negative, got {getattr(args, name)}')
    for name in ('defer', 'warmup', 'ema'):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < 1:
            raise InputError(f'--{name} must lie in 0..1 (1 excluded), got {getattr(args, name)}')
    for name in ('grow_from', 'layer_decay'):
        if not 0 < getattr(args, name) <= 1:
            raise InputError(f'--{name} must lie in 0..1 (0 excluded), got {getattr(args, name)}')
    if args.csv_val is None:
        args.csv_val = sibling_csv(args.csv_train, 'val')
        if args.csv_val == args.csv_train:
            name = os.path.basename(args.csv_train)
            raise InputError(f"the validation csv cannot be guessed from the name '{name}': give it with --csv_val")
        if os.path.isfile(args.csv_train) and not os.path.isfile(args.csv_val):
            raise InputError(f'no such csv: {args.csv_val} (guessed from --csv_train): give the validation csv with --csv_val')
    two = f'--recipe {args.recipe}' if args.recipe in STAGE_TWO else '--trainable scale' if args.trainable == 'scale' else None
    if two and not args.pretrained_weights:
        raise InputError(f'{two} is for stage two: give the run of stage one with --pretrained_weights')
    if args.trainable == 'classifier' and args.init == 'none' and not args.pretrained_weights:
        raise InputError('--trainable classifier would freeze random features: give weights with --init imagenet, --init PATH or '
                         '--pretrained_weights')
    resolve_method(args)
    args.warmup = SCHEDULES[args.schedule] if args.warmup is None else args.warmup
    first, *below = os.path.normpath(args.save_path).split(os.sep)
    # Tab completion adds experiments/. A folder with the literal path is a run of an earlier version, which did not remove experiments/.
    if first == 'experiments' and not os.path.isdir(os.path.join('experiments', args.save_path)):
        args.save_path = os.path.join('', *below)
    if first == os.pardir:
        raise InputError(f'--save_path {args.save_path} is outside experiments/: name a folder below it')
    if args.save_path == 'date_time':
        args.save_path = datetime.now().strftime('%Y-%m-%d-%H-%M-%S')
    args.num_workers = min(args.num_workers, os.cpu_count() or 1)
    args.min_lr = args.lr * 1e-3 if args.min_lr == -1 else args.min_lr
    if args.tensorboard and args.do_not_save:
        raise InputError('--tensorboard writes into the run folder: leave out --do_not_save')
    return args


def check_processes(args: Namespace, accelerator: Accelerator) -> None:
    """Raise `InputError` if a batch cannot be split over the processes, or if --sync_bn does not fit the device."""
    n_processes = accelerator.num_processes
    if args.batch_size % (n_processes * args.accumulate):
        raise InputError(f'--batch_size {args.batch_size} must be divisible by {n_processes * args.accumulate} ({n_processes} processes x '
                         f'--accumulate {args.accumulate})')
    if args.sync_bn and n_processes > 1 and accelerator.device.type != 'cuda':
        raise InputError(f'--sync_bn needs CUDA, not {accelerator.device.type}: leave it out')


def resolve_method(args: Namespace) -> None:
    """Check loss and mixing, and fill in their published defaults. Changes `args` in place."""
    if args.mixing != 'none':
        args.mix_alpha = MIXING[args.mixing].alpha if args.mix_alpha is None else args.mix_alpha  # type: ignore[union-attr]
        if not args.mix_alpha > 0:
            raise InputError(f'--mix_alpha must be positive, got {args.mix_alpha}')
    given = dict(args.loss_params)
    if args.cdt_gamma is not None and args.loss_fn == 'CDT':
        given.setdefault('gamma', args.cdt_gamma)
    get_loss_fn(args.loss_fn, [1] * args.n_classes, **given)  # raises for unknown names and invalid values
    args.loss_params = loss_parameters(args.loss_fn) | given
    if args.trainable == 'scale' and LOSSES[args.loss_fn].head != 'linear':
        raise InputError(f'--trainable scale keeps the last layer, but {args.loss_fn} needs a cosine classifier: use another --loss_fn')
    if warning := corrects_twice(args):
        print(f'* Warning: {warning}')
