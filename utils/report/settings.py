"""The settings of a run in words, from its config.cfg.

`PARTS` are the rows of the main table; a row may combine several entries of config.cfg. `ENTRIES` has a name for every entry. The tables of
methods (`LOSSES`, ...) repeat the keys of the tables in `utils.losses` and elsewhere, because importing those would import torch.
"""
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from utils.runs.history import n_deferred
from utils.runs.paths import name_of_run
from utils.statistics.weighted_metrics import METRIC_NAMES

OFF, UNKNOWN = 'none', 'not recorded'
LOSSES = {
    'CE': 'cross-entropy', 'WCE': 'cross-entropy weighted by inverse class frequency', 'FOCAL': 'focal loss',
    'CB': 'class-balanced cross-entropy', 'CBFOCAL': 'class-balanced focal loss', 'BSCE': 'balanced softmax', 'LA': 'logit adjustment',
    'CDT': 'class-dependent temperature', 'VS': 'vector scaling', 'LDAM': 'label-distribution-aware margin',
    'LAS': 'label-aware smoothing', 'LADE': 'label distribution disentangling', 'SEQL': 'softmax equalisation', 'SEESAW': 'seesaw loss',
    'ORDINAL': 'cross-entropy with an ordinal cost'}
PARAMETERS = {'epsilon': 'label smoothing', 'lam': 'lambda', 'max_m': 'largest margin', 's': 'scale',
              'head': 'smoothing of the most frequent class', 'tail': 'smoothing of the rarest class'}  # others keep their names
SAMPLING = {
    'instance': 'instance-balanced (each image once per epoch)', 'class': 'class-balanced (all classes equally often)',
    'sqrt': 'classes by the square root of their size', 'cbrt': 'classes by the cube root of their size',
    'prog': 'progressive (from instance-balanced to class-balanced)'}
MIXINGS = {'none': OFF, 'balanced_mixup': 'Balanced-MixUp', 'mixup': 'MixUp', 'cutmix': 'CutMix', 'remix': 'Remix'}
AUGMENTATIONS = {
    'none': OFF, 'original': 'flips, colour jitter, and scaling, shift or rotation by up to 45 degrees',
    'rotate': 'flips, colour jitter, scaling, shift and rotation by any angle',
    'zoom': 'flips, colour jitter, scaling by up to 1.7, shift and rotation by any angle', 'randaugment': 'RandAugment',
    'trivial': 'TrivialAugment'}
OPTIMIZERS = {'sgd': 'SGD', 'adam': 'Adam', 'adamw': 'AdamW'}
SCHEDULES = {
    'plateau': 'divided by 10 when the validation score stops improving', 'step': 'divided by 10 after 1/2 and 3/4 of the training',
    'cosine': 'half a cosine (down)', 'onecycle': 'one cycle (up, then down)'}
STARTS = {'random': 'random weights', 'none': 'random weights', 'imagenet': 'ImageNet weights'}
TRAINABLE = {'all': 'all', 'classifier': 'the last one (frozen backbone)', 'scale': 'one factor per class (frozen network)'}
HEADS = {'linear': 'linear', 'cosine': 'cosine similarity', 'scaled': 'linear, with one factor per class'}
SCORED = {'sample': 'a fixed sample', 'full': 'all', 'off': OFF}
DEVICES = {'auto': 'automatic', 'cpu': 'CPU', 'cuda': 'CUDA GPU', 'mps': 'Apple GPU'}
MEMORIES = {'auto': 'GPU memory if they fit', 'host': 'host memory'}
PRECISIONS = {
    'auto': 'automatic', 'no': 'float32', 'fp32': 'float32', 'bf16': 'mixed precision (bfloat16)',
    'fp16': 'mixed precision (float16)'}


def number(value: float) -> str:
    """The number without an exponent, unless it is extremely small or large: 2e-06 -> '0.000002'."""
    text = f'{value:.9g}'
    return f'{Decimal(text):f}' if 1e-9 < abs(value) < 1e15 else text


def in_words(value: Any) -> str:
    """A JSON value in plain words: null -> 'none', true -> 'yes', [1, 2] -> '1, 2'."""
    if value is None or value in ('', [], {}, ()):
        return OFF
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return number(value) if value == value else 'undefined'
    if isinstance(value, dict):
        return ', '.join(f'{name} {in_words(item)}' for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return ', '.join(map(in_words, value))
    return str(value)


def _percent(share):
    return f'{number(100 * share)} %'


def _choice(table: Mapping[str, str], with_key: bool = False) -> Callable[[Any], str]:
    """A function that looks a value up in `table`. `with_key`: append the key, as in 'balanced softmax (BSCE)'."""
    def words(value):
        known = table.get(value)
        return in_words(value) if known is None else f'{known} ({value})' if with_key else known
    return words


def _size(value):
    return f'{value[0]} x {value[1]} pixels (height x width)'


def _parameters(value):
    return ', '.join(f'{PARAMETERS.get(name, name)} {number(of_name)}' for name, of_name in (value or {}).items()) or OFF


def _parent(value):
    return f"run {name_of_run(value['path'])}, epoch {value['epoch']}" if value else OFF


def _members(value):
    *seeds, last = dict.fromkeys(str(member['seed']) for member in value)
    return f'{len(value)} networks, ' + (f"seeds {', '.join(seeds)} and {last}" if seeds else f'seed {last}')


def _n_parameters(value):
    return f'{len(value):,} parameter tensors' if value else OFF


class Entry(NamedTuple):
    """An entry of config.cfg: its name in words, and a function that puts its value into words."""
    name: str
    words: Callable[[Any], str] = in_words


ENTRIES: dict[str, Entry] = {
    'csv_train': Entry('training csv'), 'csv_val': Entry('validation csv'), 'label_column': Entry('label column (--label_column)'),
    'data_path': Entry('folder of the images'), 'n_classes': Entry('number of classes'), 'im_size': Entry('image size', _size),
    'num_workers': Entry('data loader workers'), 'cache_dir': Entry('folder of the image cache'), 'no_cache': Entry('image cache off'),
    'data_device': Entry('memory of the decoded images', _choice(MEMORIES)),
    'skip_bad_images': Entry('unreadable images skipped'), 'allow_outside_data_path': Entry('images outside the folder allowed'),
    'recipe': Entry('recipe'), 'sampling': Entry('sampling of training images', _choice(SAMPLING)),
    'mixing': Entry('mixing', _choice(MIXINGS)), 'mix_alpha': Entry('alpha of the mixing'),
    'mixup_off_epochs': Entry('last epochs without mixing'), 'augment': Entry('augmentation', _choice(AUGMENTATIONS)),
    'loss_fn': Entry('loss', _choice(LOSSES, with_key=True)), 'loss_params': Entry('parameters of the loss', _parameters),
    'cdt_gamma': Entry('gamma of class-dependent temperature'), 'defer': Entry('share of epochs before re-balancing', _percent),
    'pretrained_weights': Entry('weights of stage one'), 'trainable': Entry('trained layers', _choice(TRAINABLE)),
    'model_name': Entry('network'), 'init': Entry('initial weights (--init)', _choice(STARTS)), 'n_epochs': Entry('epochs'),
    'batch_size': Entry('batch size'), 'accumulate': Entry('parts of a batch'), 'grow_from': Entry('initial image size', _percent),
    'optimizer': Entry('optimiser', _choice(OPTIMIZERS)), 'lr': Entry('learning rate'),
    'layer_decay': Entry('learning-rate factor of each earlier layer'),
    'schedule': Entry('learning-rate schedule', _choice(SCHEDULES)), 'warmup': Entry('warm-up', _percent),
    'min_lr': Entry('minimum learning rate'), 'patience': Entry('patience in epochs'), 'ema': Entry('moving average of the weights'),
    'momentum': Entry('momentum'), 'wd': Entry('weight decay'), 'metric': Entry('metric that selects the epoch', _choice(METRIC_NAMES)),
    'train_eval': Entry('training images scored each epoch', _choice(SCORED)), 'seed': Entry('seed'),
    'device': Entry('requested device', _choice(DEVICES)), 'precision': Entry('requested precision', _choice(PRECISIONS)),
    'compile': Entry('compiled network'), 'sync_bn': Entry('BatchNorm statistics shared by GPUs'),
    'deterministic': Entry('deterministic algorithms'), 'save_path': Entry('run folder'), 'n_checkpoints': Entry('checkpoints kept'),
    'resume': Entry('resumed'), 'overwrite': Entry('older run overwritten'), 'do_not_save': Entry('nothing saved'),
    'tensorboard': Entry('TensorBoard files'), 'private': Entry('files for the owner only'), 'format': Entry('format of config.cfg'),
    'head': Entry('last layer', _choice(HEADS)), 'initial_weights': Entry('initial weights', _choice(STARTS)),
    'class_column': Entry('class column'), 'class_names': Entry('classes'), 'class_count': Entry('training images of each class'),
    'parent': Entry('stage one', _parent), 'frozen': Entry('frozen', _n_parameters),
    'reinitialised': Entry('re-initialised', _n_parameters), 'csv_sha256': Entry('SHA-256 of the csvs'),
    'decoder': Entry('image decoder'), 'torch': Entry('PyTorch'),
    'members': Entry('ensemble', _members), 'device_type': Entry('device', _choice(DEVICES)),
    'mixed_precision': Entry('precision', _choice(PRECISIONS))}


def entry(key: str, value: Any) -> tuple[str, str]:
    """-> name and value of an entry of config.cfg in words. An unknown entry, from another version, keeps its name."""
    found = ENTRIES.get(key) or Entry(key.replace('_', ' '))
    return found.name, OFF if value is None else found.words(value)


def every_entry(config: dict) -> list[tuple[str, str, str]]:
    """-> (name, value in words, key) of each entry of config.cfg"""
    return [(*entry(key, value), key) for key, value in config.items()]


def entries_in_words(differing: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Put the result of `differing_settings`, {key: {csv: value}}, into words."""
    return {entry(key, None)[0]: {csv: entry(key, value)[1] for csv, value in of_key.items()} for key, of_key in differing.items()}


class Part(NamedTuple):
    """A row of the table of settings. `words` returns None if the setting is off, or if an old version that did not know it wrote the
    configuration."""
    name: str
    keys: tuple[str, ...]  # entries of config.cfg that it combines
    words: Callable[[dict], str | None]


def _one(key):
    """A row for a single entry."""
    return Part(entry(key, None)[0], (key,), lambda c: None if c.get(key) is None else entry(key, c[key])[1])


def _image_size(c):
    growing = f", growing from {_percent(c['grow_from'])} of it" if c.get('grow_from', 1) < 1 else ''
    return _size(c['im_size']) + growing


def _start(c):
    return _parent(c['parent']) if c['parent'] else entry('init', c.get('initial_weights', c['init']))[1]


def _loss(c):
    parameters = {name: value for name, value in (c.get('loss_params') or {}).items() if (name, value) != ('epsilon', 0)}
    return ': '.join(filter(None, [entry('loss_fn', c['loss_fn'])[1], _parameters(parameters) if parameters else '']))


def _deferred(c):
    n = n_deferred(c)
    return f"begins after epoch {n} of {c['n_epochs']}" if n else None


def _mixing(c):
    if c['mixing'] == 'none':
        return OFF
    off = c.get('mixup_off_epochs')
    return (f"{entry('mixing', c['mixing'])[1]}, alpha {number(c['mix_alpha'])}"
            + (f", not in the last {off} of {c['n_epochs']} epochs" if off else ''))


def _optimizer(c):
    parts = [entry('optimizer', c['optimizer'])[1]]
    if c['optimizer'] == 'sgd' and c.get('schedule') == 'onecycle':  # this schedule sets the momentum
        parts.append('momentum 0.95 to 0.85 and back')
    elif c['optimizer'] == 'sgd' and c.get('momentum'):
        parts.append(f"momentum {number(c['momentum'])}")
    return ', '.join([*parts, *([f"weight decay {number(c['wd'])}"] if c.get('wd') else [])])


def _rate(c):
    decay = c.get('layer_decay', 1)
    return number(c['lr']) + (f', times {number(decay)} for each layer before the last one' if decay < 1 else '')


def _schedule(c):
    """The schedule with the flags that it uses."""
    schedule = c.get('schedule')
    parts = [entry('schedule', schedule)[1]] if schedule else []
    parts += [f"patience {c['patience']} epochs"] if schedule == 'plateau' else []
    parts += [f"minimum {number(c['min_lr'])}"] if schedule in ('plateau', 'cosine') else []
    parts += [f"warm-up in the first {_percent(c['warmup'])} of the steps"] if c.get('warmup') else []
    return ', '.join(parts) or None


def _batch(c):
    parts = f" in {c['accumulate']} parts" if c.get('accumulate', 1) > 1 else ''
    return f"{c['batch_size']:,} images{parts}"


def _training_images(c):
    return f"{sum(c['class_count']):,} in {len(c['class_count']):,} classes, {c['csv_train']}"


def _versions(c):
    return f"PyTorch {c['torch']} on {entry('device_type', c['device_type'])[1]}, {entry('mixed_precision', c['mixed_precision'])[1]}"


PARTS = (
    _one('model_name'), _one('members'), Part('image size', ('im_size', 'grow_from'), _image_size),
    Part('starts from', ('parent', 'pretrained_weights', 'init', 'initial_weights'), _start), _one('trainable'), _one('recipe'),
    Part('loss', ('loss_fn', 'loss_params', 'cdt_gamma'), _loss), _one('sampling'), Part('deferred re-balancing', ('defer',), _deferred),
    Part('mixing', ('mixing', 'mix_alpha', 'mixup_off_epochs'), _mixing), _one('augment'),
    Part('optimiser', ('optimizer', 'momentum', 'wd'), _optimizer),
    Part('learning rate', ('lr', 'layer_decay'), _rate),
    Part('learning-rate schedule', ('schedule', 'patience', 'min_lr', 'warmup'), _schedule),
    Part('batch size', ('batch_size', 'accumulate'), _batch), _one('n_epochs'),
    Part('moving average of the weights', ('ema',), lambda c: f"decay {number(c['ema'])}" if c.get('ema') else None),
    Part('seed', ('seed',), lambda c: None if c.get('members') else in_words(c['seed'])),
    Part('training images', ('csv_train', 'class_count'), _training_images), _one('csv_val'),
    Part('versions', ('torch', 'device_type', 'mixed_precision', 'device', 'precision'), _versions))
# Entries that do not affect the results, or that follow from other entries
NOT_COMPARED = ('save_path', 'class_names', 'csv_sha256', 'resume', 'overwrite', 'frozen', 'reinitialised', 'format', 'n_classes')


def differing_parts(configs: Sequence[dict]) -> dict[str, list[str]]:
    """-> {name: words for each of `configs`} of the settings in which these differ: PARTS, and the entries that no part combines"""
    described = {key for part in PARTS for key in part.keys}
    others = dict.fromkeys(key for c in configs for key in c if key not in described and key not in NOT_COMPARED)
    found = {}
    for part in (*PARTS, *map(_one, others)):
        words = [(part.words(c) or OFF) if part.keys[0] in c else UNKNOWN for c in configs]
        if len(set(words)) > 1:
            found[part.name] = words
    return found
