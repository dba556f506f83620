"""The variants of Balanced-MixUp: each differs from it in one point."""
import numpy as np
import pytest
import torch
from scipy.stats import kstest

from benchmarks.mixing_variants import VARIANTS, PerImage, Symmetric, train
from benchmarks.study_methods import ONE_STAGE
from benchmarks.study_runner import script_of
from tests.factories import MEAN, STD
from utils.common import InputError
from utils.prediction.inference import Normalise

BLACK, WHITE = torch.zeros(6, 3, 4, 4, dtype=torch.uint8), torch.full((6, 3, 4, 4), 255, dtype=torch.uint8)


def batches(variant, alpha, n):
    """-> weights of the balanced images in the labels and in the pixels, (n, 6): class 0 is black, class 1, the balanced batch, white"""
    prepare = variant(Normalise('cpu', MEAN, STD), [9, 3], alpha=alpha, augment='none', seed=3)
    zeros, ones = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    mixed = [prepare([(BLACK, zeros, list('abcdef')), (WHITE, ones, list('ghijkl'))]) for _ in range(n)]
    pixels = torch.stack([x for x, _ in mixed]) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return torch.stack([y for _, y in mixed])[..., 1].numpy(), pixels.mean((2, 3, 4)).numpy()


@pytest.mark.parametrize('variant', VARIANTS.values())
def test_labels_have_the_weight_of_the_pixels(variant):
    labels, pixels = batches(variant, .5, 20)
    np.testing.assert_allclose(labels, pixels, atol=1e-6)


def test_each_image_has_a_weight_of_its_own():
    assert all(len(set(weights)) == 6 for weights in batches(PerImage, .5, 20)[0])


def test_the_weights_of_images_follow_the_distribution_of_the_paper():
    assert kstest(batches(PerImage, .3, 250)[0].ravel(), lambda x: x ** .3).pvalue > 1e-3  # Beta(alpha, 1)


def test_a_symmetric_weight_is_that_of_the_batch():
    assert all(len(set(weights)) == 1 for weights in batches(Symmetric, .5, 20)[0])


def test_a_symmetric_weight_has_a_mean_of_one_half():
    assert abs(batches(Symmetric, .5, 2000)[0].mean() - .5) < .04  # 5 standard errors


@pytest.mark.parametrize(('variant', 'rare'), [(PerImage, (.25 + .3 * .5) / 1.3), (Symmetric, .375)])
def test_the_shares_of_the_labels(variant, rare):
    """Of 9 and 3 images, the balanced batch has half of each class."""
    np.testing.assert_allclose(variant.label_shares(np.array([.75, .25]), np.array([9, 3]), .3, 8), [1 - rare, rare])


def test_a_variant_needs_balanced_mixup():
    with pytest.raises(InputError, match='--variant symmetric is a kind of Balanced-MixUp: add --do_mixup ALPHA'):
        train(['benchmarks/mixing_variants.py', '--variant', 'symmetric', '--mixing', 'mixup'])


@pytest.mark.parametrize('method', ['Balanced-MixUp (per image)', 'Balanced-MixUp (symmetric)'])
def test_the_study_trains_variants_with_their_script(method):
    assert script_of(ONE_STAGE[method].split()) == 'benchmarks/mixing_variants.py'


def test_the_study_trains_the_method_of_the_paper_with_the_train_script():
    assert script_of(ONE_STAGE['Balanced-MixUp (step, off at the end)'].split()) == 'train_lt_mxp.py'
