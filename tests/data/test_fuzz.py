"""Random inputs: the only errors are `InputError`, and invariants hold for every input."""
import csv
import io

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzz_images
from utils.common import InputError
from utils.data.check_data import check_data, refuse_problems
from utils.data.read_csv import read_csv, with_apostrophe, without_apostrophe
from utils.data.sampling import SAMPLING, EpochSampler, get_sampling_probabilities
from utils.evaluation import evaluate_multi_cls
from utils.get_loaders import ClassDataset
from utils.prediction.predictions import read_predictions

QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
CELLS = st.one_of(st.text(max_size=6), st.sampled_from(['', '0', '1', '-1', '2.0', 'nan', 'inf', '1e309', '=1', '../x', 'NA', '"', "'"]))


@QUICK
@given(st.one_of(st.binary(max_size=200), st.text(alphabet='image_id,;\t"\r\n\ufeff01x\0', max_size=80).map(str.encode)))
def test_any_bytes_as_csv(tmp_path, content):
    (tmp_path / 'a.csv').write_bytes(b'image_id,label\n' + content)
    (tmp_path / 'b.csv').write_bytes(content)
    for name in ('a.csv', 'b.csv'):
        for read in (lambda path: refuse_problems(check_data({'train': ClassDataset(path, str(tmp_path))}, 3)), read_predictions):
            with pytest.raises(InputError):  # no such image, no such column, no table, ...
                read(tmp_path / name)


@QUICK
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8))
def test_any_cells_as_csv(tmp_path, rows):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([('image_id', 'patient_id', 'label'), *rows])
    try:
        content = buffer.getvalue().encode()
    except UnicodeEncodeError:  # half of a surrogate pair is not valid text
        return
    (tmp_path / 'a.csv').write_bytes(content)
    try:
        data = ClassDataset(tmp_path / 'a.csv', str(tmp_path))
    except InputError:
        return
    assert len(data.image_ids) == len(data.paths) == len(data.rows) == len(data.labels) <= len(rows)
    assert data.labels.min(initial=-1) >= -1
    assert check_data({'train': data}, 3)


@QUICK
@given(st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\0\r\n'), min_size=1, max_size=5), min_size=1, max_size=6))
def test_cells_survive_the_apostrophe(values):
    assert without_apostrophe(with_apostrophe(values)).tolist() == values


@QUICK
@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_metrics(k, n, seed):
    """Arbitrary labels, including absent classes and ties, compared with scikit-learn where it is defined."""
    rng = np.random.default_rng(seed)
    y, probs = rng.integers(0, k, n), np.round(rng.dirichlet(np.full(k, .3), n), int(rng.integers(1, 6)))
    preds = probs.argmax(1)
    m = evaluate_multi_cls(y, preds, probs)
    present = np.unique(y)
    for value, low in ((m.kappa, -1), (m.mcc, -1), (m.f1, 0), (m.bacc, 0), (m.auc, 0)):
        assert np.isnan(value) or low - 1e-9 <= value <= 1 + 1e-9
    assert m.bacc == pytest.approx(sklearn.metrics.recall_score(y, preds, labels=present, average='macro', zero_division=0))
    assert np.isnan(m.auc) or len(present) > 1


@QUICK
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any), st.sampled_from(list(SAMPLING)), st.integers(0, 9),
       st.integers(1, 4))
def test_samplers(counts, mode, epoch, world_size):
    probabilities = get_sampling_probabilities(counts, mode, epoch, 10)
    assert np.dot(counts, probabilities) == pytest.approx(1) and (probabilities >= 0).all()
    assert ((probabilities > 0) == (np.array(counts) > 0)).all()
    labels = np.repeat(np.arange(len(counts)), counts)

    def drawn(rank, size):
        sampler = EpochSampler(labels, mode, n_epochs=10, seed=1, rank=rank, world_size=size)
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler)
        return indices
    whole = drawn(0, 1)
    assert len(whole) == len(labels) and set(whole) <= set(range(len(labels)))
    assert mode != 'instance' or sorted(whole) == list(range(len(labels)))
    assert [drawn(rank, world_size) for rank in range(world_size)] == [whole[rank::world_size] for rank in range(world_size)]


def test_damaged_images(tmp_path):
    outcomes, crashes = fuzz_images.fuzz(fuzz_images.seeds(None), 300, str(tmp_path))
    assert not crashes and outcomes['read'] > 30 and outcomes['refused'] > 30


def test_a_large_csv_is_read_completely(tmp_path):
    n = 100_000
    (tmp_path / 'a.csv').write_text('image_id,label\n' + ''.join(f'{i},{i % 5}\n' for i in range(n)))
    table, rows = read_csv(tmp_path / 'a.csv')
    assert len(table) == n and rows[-1] == n + 1 and table.image_id.iloc[-1] == str(n - 1)
