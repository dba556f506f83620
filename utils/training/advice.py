"""Training plan for a data set: network, image size, batch size, metric and methods, each with its reason.

The reasons refer to the study (docs/study.md), which measured one pretrained network on three small sets. They are defaults, not results on
the user's data: the methods are compared on the validation images.
"""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from utils.statistics.weighted_metrics import are_grades

NETWORK = 'tf_efficientnet_lite0'
FEW = 10  # validation images of the rarest class
BATCH, GPU_SIZE, CPU_SIZE, SMALL = 16, 224, 128, 64
LARGE = 20_000  # training images
CPU_SPEED, FAST_SPEED = 35, 500  # images per second and core, of NETWORK in training at CPU_SIZE, and of its last layer alone
FAST = 'fast'  # the method for a CPU


class Method(NamedTuple):
    """One or two trainings. `flags`: of the train script, for the only or the second stage; `first`: key of STAGE_ONE, or ''."""
    what: str
    flags: str
    first: str = ''


# Name of the folder of a stage one, which methods share -> its flags
STAGE_ONE = {'stage_one': '--recipe finetune --loss_fn CE --n_epochs 8'}
STAGE_ONE['stage_one_mixup'] = STAGE_ONE['stage_one'] + ' --do_mixup 0.2'
METHODS: dict[str, Method] = {
    'finetune': Method('balanced softmax', '--recipe finetune'),
    'plain': Method('plain training', '--recipe finetune --loss_fn CE'),
    'class_sampling': Method('class-balanced sampling', '--recipe finetune --loss_fn CE --sampling class'),
    'drw': Method('plain, deferred re-weighting', '--recipe finetune --loss_fn CE --defer 0.8'),
    'cdt': Method('class-dependent temperature', '--recipe finetune --loss_fn CDT'),
    'crt': Method('plain, then classifier re-training',
                  '--recipe finetune --loss_fn CE --n_epochs 4 --trainable classifier --sampling class', 'stage_one'),
    'two_stage': Method('plain, then balanced softmax', '--recipe finetune_two_stage', 'stage_one'),
    'mixup_two_stage': Method('Balanced-MixUp, then balanced softmax', '--recipe finetune_two_stage', 'stage_one_mixup'),
    FAST: Method('frozen network, balanced softmax', '--recipe finetune_fast'),
    'balanced': Method('small sets without pretrained weights', '--recipe balanced'),
    'modern': Method('large sets without pretrained weights', '--recipe modern --sampling class'),
}


class Plan(NamedTuple):
    model_name: str
    im_size: int | str  # pixels, or 'height,width' as given by the user
    batch_size: int
    metric: str
    methods: list[str]  # keys of METHODS
    reasons: dict[str, str]  # name of a field -> why


def make_plan(found: Mapping[str, Any], on_gpu: bool, init: str = 'imagenet', chosen: Sequence[str] = ()) -> Plan:
    """Plan the training for the fingerprint `found`. `init`: as in the train script; `on_gpu`: whether a GPU is there to train on;
    `chosen`: methods that the user has chosen."""
    train = found['splits']['train']
    val = found['splits'].get('val', train)
    im_size, why_size = _image_size(found['sides']['shorter'][1], on_gpu)
    graded = are_grades(found['classes'])
    rarest = min(val['class_count'])
    metric = ('kappa', 'the classes are grades, and quadratic kappa counts how far off a grade is') if graded else (
        'bacc', f"balanced accuracy counts all classes equally, though their sizes differ {found['imbalance']:.0f}-fold")
    if init == 'none':
        large = train['images'] > LARGE
        methods, why = (['modern'], 'many images') if large else (['balanced'], 'few images')
        why = f'{why} and random weights (--init none)'
        network, why_network = ('regnetx_002', 'small, for training from random weights')
    else:
        methods, why = (['finetune', 'plain', 'crt'], 'among the best of the study, and simple; plain training shows what they gain')
        network, why_network = NETWORK, 'small, and the pretrained network of the study'
    if chosen:
        methods, why = list(chosen), 'given'
    uncertain = rarest < FEW and len(methods) > 1
    return Plan(network, im_size, min(BATCH, train['images']), metric[0], methods=methods, reasons={
        'model_name': why_network, 'im_size': why_size,
        'batch_size': 'as in the study' if train['images'] >= BATCH else 'no more than there are training images',
        'metric': f"{metric[1]}; the rarest class has {rarest} validation image{'s' * (rarest != 1)}"
                  + ('. So few make the choice uncertain: --folds 5 uses the images better' if uncertain else ''), 'methods': why})


def cpu_seconds(n_images: int, n_epochs: float, im_size: int, n_cores: int, last_layer: bool = False) -> float:
    """-> rough duration of a training on a CPU. `last_layer`: only that is trained, so the image size does not matter."""
    return n_epochs * n_images / n_cores / (FAST_SPEED if last_layer else CPU_SPEED * (CPU_SIZE / im_size) ** 2)


def _image_size(shorter, on_gpu):
    """-> image size and its reason. `shorter`: median of the shorter side in pixels."""
    if shorter < SMALL:
        return CPU_SIZE, f'images are small (median shorter side {shorter}), and pretrained networks need larger ones'
    if not on_gpu:
        return CPU_SIZE, f'no GPU: {GPU_SIZE} takes three times as long'
    if shorter < GPU_SIZE:
        size = max(SMALL, round(shorter / 32) * 32)
        return size, f'the median shorter side is {shorter}'
    return GPU_SIZE, f'the median shorter side is {shorter}, and ImageNet weights are made for {GPU_SIZE}'
