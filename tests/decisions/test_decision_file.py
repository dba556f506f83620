"""decision.json: writing and reading, errors that name file and key, and whether it belongs to a checkpoint."""
import dataclasses
import json
import math
import re

import numpy as np
import pytest

from tests.decisions.examples import RULES
from tests.decisions.gaussians import random_probs
from utils.common import InputError
from utils.decisions.decision_file import FORMAT, KEYS, Decision, decision_of, decision_path, read_decision, shared_images, write_decision
from utils.decisions.prevalence import fit_source
from utils.runs.results import Checkpoint, Choice, Correction, SourceCsv, Temperature, Views

CORRECTIONS = [None, Correction('logit_adjust', 1.5, chosen=None), Correction('tau_norm', .5, chosen=Choice('val.csv', .5, .6))]
FIGURES = {'ece': .1, 'classwise_ece': .05, 'auc': math.nan, 'nll': .7}


def plain(value):
    """Nested tuples and lists as lists, NaN as text, for comparisons."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return 'NaN' if isinstance(value, float) and math.isnan(value) else value


@pytest.fixture
def decision(tmp_path):
    probs, labels = random_probs(60, 3, 0)
    return Decision(
        Checkpoint('experiments/run/epoch_01', 1), 'a' * 64, csv=SourceCsv('val.csv', 'b' * 64), n_images=60, class_names=['a', 'b', 'c'],
        tta=Views(2, (1., 1.2)), correction=None, temperature=Temperature(1.5, 60, 'val.csv', comes_first=True, before=FIGURES, after=None),
        source=fit_source(probs, labels, refits=3), rules=RULES, prior_abstention=RULES.abstention,
        image_hashes=(-5, 2**63 - 1, -2**63, *range(1000, 1057)), path=str(tmp_path / 'decision.json'))


@pytest.fixture
def read_edited(decision, tmp_path):
    """Write a decision, change its plain values, and read it."""
    def read(change):
        write_decision(decision)
        path = tmp_path / 'decision.json'
        saved = json.loads(path.read_text())
        change(saved)
        path.write_text(json.dumps(saved))
        return read_decision(str(path))
    return read


@pytest.mark.parametrize('correction', CORRECTIONS)
def test_there_and_back(decision, correction):
    written = dataclasses.replace(decision, correction=correction)
    write_decision(written)
    found = read_decision(written.path)
    assert plain(dataclasses.asdict(found)) == plain(dataclasses.asdict(written))
    assert (found.correction, found.rules, found.tta, found.checkpoint) == (correction, RULES, written.tta, written.checkpoint)


def test_the_file_is_strict_json(decision):
    write_decision(decision)
    with open(decision.path) as file:
        json.load(file, parse_constant=lambda name: pytest.fail(name))


def test_the_source_has_tuples(decision):
    write_decision(decision)
    assert read_decision(decision.path).source == decision.source


def test_the_source_calibrates_as_before(decision):
    write_decision(decision)
    probs, _ = random_probs(20, 3, 1)
    np.testing.assert_array_equal(read_decision(decision.path).source.calibrated(probs), decision.source.calibrated(probs))


def test_no_file(tmp_path):
    assert read_decision(str(tmp_path / 'decision.json')) is None


@pytest.mark.parametrize('key', KEYS)
def test_a_missing_key(read_edited, key):
    with pytest.raises(InputError, match=rf'decision\.json is incomplete: it lacks {key}$'):
        read_edited(lambda saved: saved.pop(key))


@pytest.mark.parametrize(('key', 'value'), [(key, value) for key in KEYS for value in (True, 'text', -1, 1.5, [], ['x', 1], [[]], None)
                                            if value is not None or key not in ('correction', 'prior_abstention')])
def test_a_value_of_another_type(read_edited, key, value):
    with pytest.raises(InputError, match=rf"decision\.json: '{key}' must be "):
        read_edited(lambda saved: saved.update({key: value}))


PARTS = {'checkpoint': ['folder', 'epoch'], 'csv': ['path', 'sha256'], 'tta': ['dihedral', 'zoom'],
         'temperature': ['value', 'n_images', 'csv', 'comes_first', 'before', 'after'],
         'source': ['temperature', 'bias', 'frequencies', 'refits', 'confusion']}
PAIRS = [(part, key) for part, keys in PARTS.items() for key in keys]


@pytest.mark.parametrize(('part', 'key'), PAIRS)
def test_a_missing_key_of_a_part(read_edited, part, key):
    with pytest.raises(InputError, match=rf"decision\.json, '{part}' is incomplete: it lacks {key}$"):
        read_edited(lambda saved: saved[part].pop(key))


@pytest.mark.parametrize(('part', 'key'), PAIRS)
@pytest.mark.parametrize('value', [{'x': 1}, [[True]], -1.5], ids=str)
def test_a_value_of_another_type_in_a_part(read_edited, part, key, value):
    with pytest.raises(InputError, match=rf"decision\.json, '{part}': '{key}' must be "):
        read_edited(lambda saved: saved[part].update({key: value}))


@pytest.mark.parametrize('change', [
    lambda source: source['bias'].append(0.), lambda source: source['frequencies'].pop(), lambda source: source['confusion'].pop(),
    lambda source: source['confusion'][0].append(1), lambda source: source['refits'][1].pop(),
    lambda source: source['refits'][0].__setitem__(0, 0.), lambda source: source['refits'][0].__setitem__(0, -1.)])
def test_a_source_that_does_not_fit(read_edited, change):
    with pytest.raises(InputError, match=r"decision\.json: 'source' must have (3 classes|temperatures from 0\.05 to 20)"):
        read_edited(lambda saved: change(saved['source']))


def test_rules_that_do_not_fit(read_edited):
    with pytest.raises(InputError, match=r"decision\.json, 'rules', 'sets' is incomplete: it lacks counts"):
        read_edited(lambda saved: saved['rules']['sets'][0].pop('counts'))


def test_a_newer_format(read_edited):
    with pytest.raises(InputError, match=rf'decision\.json was written by a newer version of this project \(format {FORMAT + 1}'):
        read_edited(lambda saved: saved.update(format=FORMAT + 1))


@pytest.mark.parametrize('text', ['', '[]', '{', '{"a": NaN', 'null'])
def test_text_that_is_no_dictionary(tmp_path, text):
    (tmp_path / 'decision.json').write_text(text)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / 'decision.json'))):
        read_decision(str(tmp_path / 'decision.json'))


@pytest.mark.parametrize('part', ['name', 'strength', 'chosen'])
def test_a_correction_without_a_key(decision, read_edited, part):
    def change(saved):
        saved['correction'] = {'name': 'tau_norm', 'strength': 1., 'chosen': None}
        del saved['correction'][part]
    with pytest.raises(InputError, match=rf"decision\.json, 'correction' is incomplete: it lacks {part}$"):
        read_edited(change)


def test_path_of_a_checkpoint():
    assert decision_path('experiments/a/epoch_07_mcc_0.5').replace('\\', '/') == 'experiments/a/decision.json'


def info_of(decision, tmp_path, **changes):
    own = {'checksum': decision.weights_sha256, 'class_names': decision.class_names}
    return {'folder': str(tmp_path / 'epoch_01_mcc_0.5')} | own | changes


def test_decision_of_its_checkpoint(decision, tmp_path):
    assert decision_of(info_of(decision, tmp_path)) is None
    write_decision(decision)
    assert decision_of(info_of(decision, tmp_path)).rules == RULES


@pytest.mark.parametrize(('changes', 'message'), [
    ({'checksum': 'c' * 64}, r'belongs to another checkpoint \(experiments/run/epoch_01, epoch 1\) than .*tools\.calibrate again'),
    ({'class_names': ['b', 'a', 'c']}, 'has other classes than the checkpoint: .*--no_decision')])
def test_decision_of_another_checkpoint(decision, tmp_path, changes, message):
    write_decision(decision)
    with pytest.raises(InputError, match=message):
        decision_of(info_of(decision, tmp_path, **changes))


def test_shared_images(decision):
    assert shared_images(decision, np.array([2, -5, 7, -2**63, -5], np.int64)) == 3
    assert shared_images(decision, np.array([], np.int64)) == 0


def test_hashes_of_more_than_64_bits(read_edited):
    with pytest.raises(InputError, match=r"decision\.json: 'image_hashes'"):
        shared_images(read_edited(lambda saved: saved.update(image_hashes=[2**64])), np.array([1]))


def test_a_source_without_images(read_edited):
    with pytest.raises(InputError, match=r"decision\.json: 'source' must have frequencies that add up to 1"):
        read_edited(lambda saved: saved['source'].update(frequencies=[0, 0, 0]))


def changed(key, **changes):
    return lambda saved: saved[key].update(changes)


@pytest.mark.parametrize(('change', 'message'), [
    (changed('source', bias=[2**64, 0, 0]), "'source' must have biases of at most 1e.06"),
    (changed('temperature', value=1e-300), "'temperature' must have a value from 0.05 to 20"),
    (changed('tta', dihedral=10**9), "'tta' must have at most 1000 views"), (changed('tta', zoom=[-3]), "'tta' must have .* of 1 or more"),
    (changed('tta', zoom=[1e200]), "'tta' must have"),
    (lambda saved: saved.update(n_images=3), "'image_hashes' must have one entry for each of the 3 images"),
    (lambda saved: saved.update(correction={'name': 'logit_adjust', 'strength': 1e200, 'chosen': None}), "'correction' must have a"),
    (lambda saved: saved.update(correction={'name': 'target_prior', 'prior': 'x', 'learnt': [1], 'expected': [1]}), "'correction' must")])
def test_values_that_cannot_be_used(read_edited, change, message):
    with pytest.raises(InputError, match=rf'decision\.json: {message}'):
        read_edited(change)


@pytest.mark.parametrize('changes', [{'n_images': 1_000_001}, {'class_names': [str(c) for c in range(1001)]}])
def test_more_than_a_file_can_hold(decision, changes):
    with pytest.raises(InputError, match=r'is not written: it can hold at most 1,000 classes and 1,000,000 images'):
        write_decision(dataclasses.replace(decision, **changes))


def test_line(decision):
    write_decision(decision)
    assert re.fullmatch(r'Decisions by .*decision\.json, SHA-256 [0-9a-f]{64}, fitted on the 60 images of val\.csv with 8 views at '
                        r'zoom 1 1\.2', decision.line)
