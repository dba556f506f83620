"""The plan for a data set follows from its fingerprint, and its methods are valid trainings."""
import pytest

from train_lt_mxp import get_parser, resolve
from utils.training.advice import METHODS, STAGE_ONE, cpu_seconds, make_plan


def found(n=1000, shorter=300, classes=('a', 'b'), val=(50, 20)):
    return {'classes': list(classes), 'imbalance': 12.4, 'sides': {'shorter': [10, shorter, 900]},
            'splits': {'train': {'images': n, 'class_count': [n - 5, 5]}, 'val': {'images': sum(val), 'class_count': list(val)}}}


@pytest.mark.parametrize(('shorter', 'on_gpu', 'size'), [
    (300, True, 224), (300, False, 128), (150, True, 160), (70, True, 64), (28, True, 128), (28, False, 128)])
def test_the_image_size_follows_the_images_and_the_device(shorter, on_gpu, size):
    plan = make_plan(found(shorter=shorter), on_gpu)
    assert plan.im_size == size and ('no GPU' in plan.reasons['im_size']) == (not on_gpu and shorter >= 64)


@pytest.mark.parametrize(('classes', 'metric'), [(('a', 'b'), 'bacc'), (('DR0', 'DR1'), 'kappa'), (('grade 0', 'grade 1'), 'kappa')])
def test_the_metric_follows_the_classes(classes, metric):
    assert make_plan(found(classes=classes), True).metric == metric


@pytest.mark.parametrize(('init', 'n', 'methods'), [
    ('imagenet', 1000, ['finetune', 'plain', 'crt']), ('weights.pth', 1000, ['finetune', 'plain', 'crt']), ('none', 1000, ['balanced']),
    ('none', 50_000, ['modern'])])
def test_the_methods_follow_the_weights_and_the_number_of_images(init, n, methods):
    assert make_plan(found(n=n), True, init).methods == methods


def test_a_batch_is_not_larger_than_the_training_set():
    assert [make_plan(found(n=n), True).batch_size for n in (7, 16, 1000)] == [7, 16, 16]


@pytest.mark.parametrize(('val', 'said'), [((50, 20), False), ((50, 9), True), ((50, 0), True), ((9, 0), True)])
def test_few_validation_images_are_said(val, said):
    assert ('So few make the choice uncertain' in make_plan(found(val=val), True).reasons['metric']) == said


def test_chosen_methods_are_kept_and_one_leaves_no_choice():
    plan = make_plan(found(val=(50, 2)), True, chosen=['fast'])
    assert plan.methods == ['fast'] and plan.reasons['methods'] == 'given' and 'uncertain' not in plan.reasons['metric']


def test_every_value_has_a_reason():
    plan = make_plan(found(), True)
    assert set(plan.reasons) == set(plan._fields) - {'reasons'}


@pytest.mark.parametrize('name', METHODS)
def test_every_method_is_a_valid_training(name):
    method = METHODS[name]
    for flags, start in ((STAGE_ONE.get(method.first, ''), []), (method.flags, ['--pretrained_weights', 'x'] if method.first else [])):
        resolve(get_parser().parse_args(['--csv_train', 'train.csv', *flags.split(), *start]))


def test_the_duration_on_a_cpu():
    """70 images per second on 2 cores at 128 pixels, a quarter of that at 256, and 1,000 for the last layer alone."""
    assert cpu_seconds(4000, 20, 224, 2, last_layer=True) == pytest.approx(80)
    assert cpu_seconds(700, 12, 128, 2) == pytest.approx(120) and cpu_seconds(700, 12, 256, 2) == pytest.approx(480)
