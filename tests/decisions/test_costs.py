"""Costs: files and their errors, decisions of least expected cost against brute force, and quadratic costs against scikit-learn."""
import re

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tests.decisions.gaussians import LONG_TAIL, Gaussians, posterior, random_probs
from utils.common import InputError
from utils.decisions.costs import least_cost, read_costs

NAMES = ['a', 'b', 'c']
ROWS = ['true,a,b,c', 'a,0,1,2.5', 'b,10,0,1e2', 'c,3,4,0']


@pytest.fixture
def costs_of(tmp_path):
    """Write a csv with these lines and read it."""
    def read(*lines):
        path = tmp_path / 'costs.csv'
        path.write_text('\n'.join(lines) + '\n')
        return read_costs(str(path), NAMES)
    return read


def changed(row, text):
    return [*ROWS[:row], text, *ROWS[row + 1:]]


@pytest.mark.parametrize('lines', [
    ROWS, ['true;a;b;c', *(row.replace(',', ';') for row in ROWS[1:])], [row.replace(',', ' , ') for row in ROWS], [*ROWS, ''],
    changed(0, ',a,b,c')])
def test_a_file_of_costs(costs_of, lines):
    np.testing.assert_array_equal(costs_of(*lines), [[0, 1, 2.5], [10, 0, 100], [3, 4, 0]])


@pytest.mark.parametrize(('lines', 'message'), [
    (ROWS[:3], 'has 2 rows and 3 columns of costs, but there are 3 classes: a, b, c'),
    ([row.rpartition(',')[0] for row in ROWS], 'has 3 rows and 2 columns of costs, but there are 3 classes'),
    (ROWS[:1], 'has 0 rows and 3 columns of costs'),
    (['true'], 'has 0 rows and 0 columns of costs'),
    (changed(0, 'true,b,a,c'), 'its columns are in another order: b, a, c instead of a, b, c'),
    ([ROWS[0], ROWS[2], ROWS[1], ROWS[3]], 'its rows are in another order: b, a, c instead of a, b, c'),
    (changed(0, 'true,a,b,d'), 'its columns are not those of the predictions: a, b, d instead of a, b, c'),
    (changed(3, 'd,3,4,0'), 'its rows are not those of the predictions: a, b, d'),
    (changed(3, 'b,3,4,0'), 'its rows are not those of the predictions: a, b, b'),
    (changed(2, 'b,10,-1,0'), "row 3: the cost of 'b' must be a number, 0 or more, not '-1'"),
    (changed(1, 'a,0,many,0'), "row 2: the cost of 'b' must be a number, 0 or more, not 'many'"),
    (changed(3, 'c,3,4,'), "row 4: the cost of 'c' must be a number, 0 or more, not ''"),
    (changed(3, 'c,3,inf,0'), "row 4: the cost of 'b' must be a number, 0 or more, not 'inf'"),
    (changed(3, 'c,3,1e999,0'), "row 4: the cost of 'b' must be a number, 0 or more, not '1e999'")])
def test_files_that_do_not_fit(costs_of, lines, message):
    with pytest.raises(InputError, match=r'--costs .*costs\.csv.*' + re.escape(message)):
        costs_of(*lines)


def test_a_missing_file():
    with pytest.raises(InputError, match=r'--costs must be quadratic or a csv, but there is no file nowhere\.csv'):
        read_costs('nowhere.csv', NAMES)


def test_an_empty_file(costs_of):
    with pytest.raises(InputError):
        costs_of('')


def test_quadratic_costs_of_grades():
    np.testing.assert_array_equal(read_costs('quadratic', NAMES, ordered=True), [[0, 1, 4], [1, 0, 1], [4, 1, 0]])


def test_quadratic_costs_need_an_order():
    with pytest.raises(InputError, match='--costs quadratic is for grades, and these classes have no order: add --ordered'):
        read_costs('quadratic', NAMES)


@pytest.mark.parametrize(('n', 'k'), [(1, 2), (50, 5), (50, 23)])
def test_the_least_cost_by_brute_force(n, k):
    rng = np.random.default_rng(k)
    probs, costs = random_probs(n, k, 0)[0], rng.exponential(size=(k, k))
    expected = [min(range(k), key=lambda j, p=p: sum(p[i] * costs[i, j] for i in range(k))) for p in probs]
    assert least_cost(probs, costs).tolist() == expected


@pytest.mark.parametrize('k', [2, 5, 23])
def test_equal_costs_give_the_most_probable_class(k):
    probs, _ = random_probs(200, k, 1)
    assert (least_cost(probs, 1 - np.eye(k)) == probs.argmax(axis=1)).all()


def test_ties_go_to_the_first_class():
    assert least_cost(np.array([[.5, .5], [.25, .75]]), np.array([[0., 3], [1, 0]])).tolist() == [0, 0]


def test_certain_predictions():
    costs = np.array([[0., 1, 1], [5, 2, 1], [1, 1, 0]])
    assert least_cost(np.eye(3), costs).tolist() == [0, 2, 2]


@pytest.mark.parametrize('costs', [(np.arange(5)[:, None] - np.arange(5)) ** 2., np.array([[0, 1, 1, 2, 3], *[[6] + [1] * 4] * 4]) * 1.,
                                   np.random.default_rng(0).exponential(size=(5, 5))])
def test_the_true_posterior_has_the_least_cost(costs):
    likelihood, labels = Gaussians().draw(LONG_TAIL, 20_000, 0)
    probs, rng = posterior(likelihood, LONG_TAIL), np.random.default_rng(1)
    sampled = (probs.cumsum(axis=1) < rng.random((len(probs), 1))).sum(axis=1).clip(0, 4)
    others = [probs.argmax(axis=1), sampled, likelihood.argmax(axis=1), least_cost(posterior(likelihood, np.full(5, .2)), costs),
              least_cost(posterior(3 * likelihood, LONG_TAIL), costs), *(np.full(len(probs), c) for c in range(5))]
    paid = [costs[labels, chosen].mean() for chosen in (least_cost(probs, costs), *others)]
    assert paid[0] <= min(paid[1:]) and paid[0] < np.median(paid)


def test_quadratic_cost_is_proportional_to_one_minus_kappa():
    rng = np.random.default_rng(0)
    labels, preds = rng.choice(5, 300, p=LONG_TAIL), rng.choice(5, 300)
    costs, ratios = read_costs('quadratic', list('abcde'), ordered=True), []
    for share in (0, 50, 200, 300):  # shuffled predictions keep their frequencies
        chosen = np.r_[rng.permutation(preds[:share]), preds[share:]].astype(int)
        ratios.append(costs[labels, chosen].mean() / (1 - cohen_kappa_score(labels, chosen, weights='quadratic')))
    assert ratios == pytest.approx([costs[np.ix_(labels, preds)].mean()] * 4)
