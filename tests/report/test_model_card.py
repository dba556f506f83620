"""tools.report --model_card: the sections of Mitchell et al. (2019), filled with what the run knows."""
import re

import pandas as pd
import pytest
from sklearn.metrics import recall_score

from tests.factories import random_table
from tests.report_files import SCRIPT, report, write_run
from utils.common import InputError

SECTIONS = ['Model details', 'Intended use', 'Factors', 'Metrics', 'Evaluation data', 'Training data', 'Quantitative analyses',
            'Ethical considerations', 'Caveats and recommendations']
NAMES = ['nv', 'mel', 'bcc']


def card_of(root, *flags, tested=True, names=NAMES):
    run = write_run(root, 'a', names, tested=tested)
    if tested and '--by' in flags:
        csv = root / 'results/a/results_test.csv'
        table = pd.read_csv(csv)
        table.insert(1, 'sex', ['f', 'm', 'm'] * (len(table) // 3))
        table.to_csv(csv, index=False)
    report(run, '--model_card', *flags)
    return (run / 'model_card.md').read_text()


def section(card, title):
    return re.search(rf'^## {title}\n\n(.*?)(?=^## |\Z)', card, re.S | re.M).group(1)


def rows(text):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('|')]


@pytest.mark.parametrize('tested', [True, False])
def test_sections(tmp_path, tested):
    assert re.findall(r'^## (.*)$', card_of(tmp_path, tested=tested), re.M) == SECTIONS


def test_details(tmp_path):
    facts = dict(rows(section(card_of(tmp_path), 'Model details')))
    assert facts['network'] == 'mobilenetV2' and facts['kind'] == 'image classifier with 3 classes' and facts['seed'] == '0'


def test_what_nobody_stated_is_marked(tmp_path):
    card = card_of(tmp_path)
    assert [flag in card for flag in ('--author TEXT', '--purpose TEXT', '--data TEXT')] == [True] * 3


def test_what_the_author_states(tmp_path):
    card = card_of(tmp_path, '--author', 'A. Müller', '--purpose', 'sort images', '--data', 'one clinic')
    assert ' TEXT)' not in card and 'A. Müller' in card and 'Purpose: sort images' in card and 'one clinic' in card


def test_training_images(tmp_path):
    assert ['nv', '200'] in rows(section(card_of(tmp_path), 'Training data'))


def test_recalls_are_those_of_the_predictions(tmp_path):
    found = {row[0]: row for row in rows(section(card_of(tmp_path), 'Quantitative analyses'))}
    table = random_table(0, n=69, names=NAMES)
    for name, recall in zip(NAMES, recall_score(table.labels, table.preds, average=None), strict=True):
        assert found[name][2].startswith(f'{100 * recall:.1f} [')


def test_subgroups(tmp_path):
    card = card_of(tmp_path, '--by', 'sex')
    assert 'Subgroups by sex are evaluated below' in card and {'f', 'm'} <= {row[0] for row in rows(card)}


def test_columns_that_were_not_evaluated_are_named(tmp_path):
    run = write_run(tmp_path, 'a', NAMES)
    csv = tmp_path / 'results/a/results_test.csv'
    table = pd.read_csv(csv)
    table.insert(1, 'hospital', 'x')
    table.to_csv(csv, index=False)
    report(run, '--model_card')
    assert 'Columns of the test csv that were not evaluated: hospital.' in (run / 'model_card.md').read_text()


def test_it_is_no_medical_device(tmp_path):
    assert 'not a medical device' in section(card_of(tmp_path), 'Intended use')


def test_few_images_are_a_caveat(tmp_path):
    counts = pd.Series(random_table(0, n=69, names=NAMES).labels).value_counts()
    few = [name for c, name in enumerate(NAMES) if counts[c] < 30]
    assert f"Fewer than 30 tested images of {', '.join(few)}" in section(card_of(tmp_path), 'Caveats and recommendations')


def test_names_are_escaped(tmp_path):
    card = card_of(tmp_path, names=['a|b', SCRIPT, '*c*'])
    assert '<script>' not in card and 'a\\|b' in card


def test_several_runs_have_no_card(tmp_path):
    for name in 'ab':
        write_run(tmp_path, name, NAMES)
    with pytest.raises(InputError, match='--model_card needs a single run'):
        report(tmp_path / 'experiments', '--model_card')
