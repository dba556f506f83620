"""The best epoch of a run."""
import math

import pytest

from utils.runs.history import best_epoch, best_index


@pytest.mark.parametrize(('scores', 'metric', 'best'), [
    ([.1, .3, .2], 'mcc', 1), ([.1, .3, .2], 'loss', 0), ([.2, .3, .3], 'kappa', 1), ([.3, .3], 'loss', 0), ([-.1, 0.], 'mcc', 1),
    ([None, .1, math.nan], 'auc', 1), ([math.nan, None], 'auc', 0), ([.1], 'mcc', 0)])
def test_best_index(scores, metric, best):
    assert best_index(scores, metric) == best


def test_best_epoch_counts_from_one_and_reads_validation():
    history = [{'epoch': e, 'train': {'mcc': 1 - score}, 'val': {'mcc': score}} for e, score in enumerate((.1, .4, .3), start=1)]
    assert best_epoch(history, 'mcc') == 2


def test_an_old_log_without_the_metric_keeps_its_first_epoch():
    assert best_epoch([{'val': {'mcc': .1}}, {'val': {'mcc': .2}}], 'acc') == 1
