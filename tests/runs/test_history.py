"""The best epoch of a run."""
import math

import pytest

from utils.runs.history import best_epoch, best_index, comparable_scores, n_deferred


@pytest.mark.parametrize(('scores', 'metric', 'best'), [
    ([.1, .3, .2], 'mcc', 1), ([.1, .3, .2], 'loss', 0), ([.2, .3, .3], 'kappa', 1), ([.3, .3], 'loss', 0), ([-.1, 0.], 'mcc', 1),
    ([None, .1, math.nan], 'auc', 1), ([math.nan, None], 'auc', 0), ([.1], 'mcc', 0)])
def test_best_index(scores, metric, best):
    assert best_index(scores, metric) == best


def test_best_epoch_counts_from_one_and_reads_validation():
    history = [{'epoch': e, 'train': {'mcc': 1 - score}, 'val': {'mcc': score}} for e, score in enumerate((.1, .4, .3), start=1)]
    assert best_epoch(history, {'metric': 'mcc', 'n_epochs': 3}) == 2


def test_an_old_log_without_the_metric_keeps_its_first_epoch():
    assert best_epoch([{'val': {'mcc': .1}}, {'val': {'mcc': .2}}], {'metric': 'acc', 'n_epochs': 2}) == 1


def history_of(*scores):
    return [{'val': {'mcc': score}} for score in scores]


@pytest.mark.parametrize(('scores', 'best'), [((.9, .8, .1, .2), 4), ((.9, .8, .3, .2), 3), ((.9, .8, math.nan, -.2), 4), ((.8, .9), 2)])
def test_an_epoch_before_rebalancing_is_best_only_if_there_is_no_other(scores, best):
    assert best_epoch(history_of(*scores), {'metric': 'mcc', 'n_epochs': 4, 'defer': .5}) == best


def test_all_epochs_compare_if_rebalancing_never_begins():
    assert best_epoch(history_of(.1, .3, .2), {'metric': 'mcc', 'n_epochs': 3, 'defer': 1}) == 2


def test_scores_before_rebalancing_are_undefined_beside_later_ones():
    assert comparable_scores([2, 9, 10], [.9, .8, None], {'n_epochs': 10, 'defer': .8}) == pytest.approx(
        [math.nan, .8, math.nan], nan_ok=True)


@pytest.mark.parametrize(('defer', 'n_epochs', 'n'), [(0, 10, 0), (.8, 10, 8), (.8, 12, 10), (1, 3, 3)])
def test_the_number_of_epochs_before_rebalancing(defer, n_epochs, n):
    assert n_deferred({'defer': defer, 'n_epochs': n_epochs}) == n
