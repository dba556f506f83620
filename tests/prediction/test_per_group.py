"""One prediction for several images: means, worst grades against a simulation, order, errors, outputs of the tools."""
import json

import numpy as np
import pandas as pd
import pytest

from tests.factories import random_table
from tests.report_files import write
from tools.evaluate_predictions import main as evaluate
from tools.report import main as report
from utils.common import InputError
from utils.prediction.per_group import Per, check_rule, parse_per, per_group
from utils.prediction.predictions import read_predictions

MEAN, WORST = Per('patient_id', 'mean'), Per('patient_id', 'worst')


@pytest.fixture
def table():
    """80 images of 40 patients, in a mixed order; both images of a patient have the same label."""
    table = random_table(0)
    order = np.random.default_rng(0).permutation(80)
    labels = np.zeros(80, int)
    labels[order] = np.repeat(np.random.default_rng(1).integers(0, 5, 40), 2)
    patients = np.empty(80, object)
    patients[order] = [f'P{i // 2}' for i in range(80)]
    return table._replace(labels=labels, patient_ids=patients.tolist())


def test_the_flag_names_column_and_rule():
    assert [parse_per(word) for word in ('lesion', 'a:worst', 'a:b:mean', 'a:b', None)] == [
        Per('lesion', 'mean'), Per('a', 'worst'), Per('a:b', 'mean'), Per('a:b', 'mean'), None]


def test_the_mean_of_the_probabilities(table):
    found = per_group(table, MEAN)
    frame = pd.DataFrame(table.probs).groupby(np.array(table.patient_ids, object), sort=False).mean()
    assert found.image_ids == list(dict.fromkeys(table.patient_ids)) == list(frame.index)
    np.testing.assert_allclose(found.probs, frame.to_numpy())
    assert (found.preds == frame.to_numpy().argmax(1)).all()
    assert found.labels.tolist() == [table.labels[table.patient_ids.index(patient)] for patient in found.image_ids]


def test_the_worst_grade_of_labels_and_predictions(table):
    table = table._replace(labels=random_table(3).labels)
    found = per_group(table, WORST)
    for patient, label, pred in zip(found.image_ids, found.labels, found.preds, strict=True):
        rows = [i for i, each in enumerate(table.patient_ids) if each == patient]
        assert label == table.labels[rows].max() and pred == table.preds[rows].max()


def test_probabilities_of_the_worst_grade_are_those_of_the_maximum():
    """Against the maximum of 200,000 draws of three independent images."""
    table = random_table(0, n=3)._replace(patient_ids=['a'] * 3)
    rng = np.random.default_rng(0)
    drawn = np.max([rng.choice(5, 200_000, p=p) for p in table.probs], axis=0)
    np.testing.assert_allclose(per_group(table, WORST).probs[0], np.bincount(drawn, minlength=5) / 200_000, atol=.005)


def test_probabilities_add_up_to_one(table):
    for per in (MEAN, WORST):
        np.testing.assert_allclose(per_group(table, per).probs.sum(1), 1)


def test_spellings_of_a_patient_are_one_patient():
    table = random_table(0, n=4)._replace(labels=np.zeros(4, int), patient_ids=['P1', 'p01', 'P2', 'p 2'])
    assert per_group(table, MEAN).image_ids == ['P1', 'P2']


def test_images_without_a_group_count_alone():
    lesions = pd.DataFrame({'lesion': pd.Series(['a', np.nan, 'a'], dtype=object)})
    table = random_table(0, n=3)._replace(labels=np.zeros(3, int), further=lesions)
    assert per_group(table, Per('lesion', 'mean')).image_ids == ['a', 'image 1']


def test_groups_of_one_image_change_nothing():
    table = random_table(0)._replace(patient_ids=[str(i + 1) for i in range(80)])
    np.testing.assert_allclose(per_group(table, MEAN).probs, table.probs)
    np.testing.assert_allclose(per_group(table, WORST).probs, table.probs)


def test_without_labels(table):
    assert per_group(table._replace(labels=None), MEAN).labels is None and per_group(table._replace(labels=None), WORST).labels is None


def test_different_labels_have_no_mean(table):
    with pytest.raises(InputError, match=r'--per patient_id: the images of P\d+ have different labels, DR\d and DR\d: group by another'):
        per_group(table._replace(labels=np.arange(80) % 5), MEAN)


def test_a_column_that_does_not_exist(table):
    with pytest.raises(InputError, match=r"--per: x\.csv has no column 'lesion' \(it has patient_id\)"):
        per_group(table, Per('lesion', 'mean'))


def test_only_grades_have_a_worst():
    check_rule(WORST, ordered=True)
    with pytest.raises(InputError, match='--per patient_id:worst: the classes are not grades'):
        check_rule(WORST, ordered=False)


def test_evaluate_predictions(tmp_path, table, capsys):
    csv = write(tmp_path / 'results_test.csv', table)
    evaluate([csv, '--draws', '100', '--per', 'patient_id', '--json', str(tmp_path / 'a.json')])
    assert '\nPer patient_id (mean of the probabilities): 40 groups\n' in capsys.readouterr().out
    saved = json.loads((tmp_path / 'a.json').read_text())
    found = per_group(read_predictions(csv), MEAN)
    assert saved['per']['metrics']['acc']['value'] == pytest.approx((found.labels == found.preds).mean())
    assert saved['n_images'] == 80 and saved['metrics']['acc']['n'] == 80  # those of the images are beside them


def test_report(tmp_path, table):
    write(tmp_path / 'results_test.csv', table)
    report([str(tmp_path / 'results_test.csv'), '--draws', '100', '--per', 'patient_id:worst', '--out', str(tmp_path / 'r.html')])
    assert 'The 80 images are combined to 40 groups by patient_id (worst grade).' in (tmp_path / 'r.html').read_text()
