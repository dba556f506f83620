"""The files of a run are checked as they are read: each error in config.cfg, log.jsonl or a report gives one line."""
import json
import os
import re

import pytest

from models.heads import HEADS
from tests.report_files import write_run
from tools import report
from utils.common import MAX_TEXT, InputError
from utils.report.runs import find_runs
from utils.runs import formats
from utils.runs.formats import read_config, read_log

NESTED = '[' * 100_000
FORGED = ['\n* Next: rm -rf ~', '\x1b[2J', 'a\u202eb', 'a\u2066b', 'a\x9bb', 'a\u200bb']


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path, 'a', ['x', 'y'], tested=False)


def change(run, **keys):
    config = json.loads((run / 'config.cfg').read_text())
    (run / 'config.cfg').write_text(json.dumps(config | keys))


@pytest.fixture
def refuses(run):
    """-> function(read, message) that checks that reading the run folder gives a one-line error that matches `message`"""
    def check(read, message):
        with pytest.raises(InputError, match=message) as error:
            read(str(run))
        assert '\n' not in str(error.value)
    return check


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('n_epochs', [3], "'n_epochs' must be a whole number, 0 or more, not \\[3\\]"), ('n_epochs', True, 'not True'),
    ('n_epochs', -1, 'not -1'), ('class_names', [1, 2], "'class_names' must be 1 to 1,000,000 names"), ('class_names', [], 'not \\[\\]'),
    ('class_names', ['x', '\ud800'], "'class_names' must be"), ('class_names', ['x', 'y' * 1001], "'class_names' must be"),
    ('class_count', [1, 2, 3], "'class_names' has 2 classes, 'class_count' has 3"), ('n_classes', 3, "'n_classes' is 3"),
    ('class_count', 'many', "'class_count' must be a list of whole numbers, not 'many'"),
    ('lr', float('nan'), "'lr' must be a number, not nan"),
    ('lr', 10**999, "'lr' contains a number of more than 1,024 bits"), ('lr', '0.1', "'lr' must be a number"),
    ('im_size', [10**9, 10**9], "'im_size' must be \\[height, width\\] with at most 67,108,864 pixels"),
    ('im_size', [0, 8], "'im_size' must be"), ('im_size', 8, "'im_size' must be"), ('metric', 'x', "'metric' must be one of auc"),
    ('parent', 'a', "'parent' must be a dictionary"), ('parent', {'path': 'b'}, "'parent' must be a dictionary"),
    ('csv_sha256', [], "'csv_sha256' must be a dictionary of strings"), ('loss_params', {'gamma': 'x'}, "'loss_params' must be"),
    ('head', 'x', "'head' must be one of linear, cosine, scaled"), ('format', 'x', "'format' must be a whole number"),
    ('do_mixup', 'x', "'do_mixup' must be a number, not 'x'"),
    ('unknown', [[[[[[[[[[[1]]]]]]]]]]], "'unknown' contains more than 10 levels of nested lists"),
    ('unknown', 'x' * 10**6, "'unknown' contains a string with 1,000,000 characters"),
])
def test_an_invalid_config_value_names_its_key(run, refuses, key, value, message):
    change(run, **{key: value})
    refuses(read_config, f'config.cfg.* .*{message}')


@pytest.mark.parametrize('key', formats.REQUIRED)
def test_a_config_without_a_key_names_it(run, refuses, key):
    config = read_config(str(run))
    del config[key]
    (run / 'config.cfg').write_text(json.dumps(config))
    refuses(read_config, rf'config\.cfg is incomplete: it lacks {key}$')


@pytest.mark.parametrize('name', FORGED)
@pytest.mark.parametrize('keys', [lambda name: {'class_names': [name, 'y']}, lambda name: {'model_name': name}, lambda name: {name: 1},
                                  lambda name: {'unknown': {'x': [name]}}], ids=['class', 'network', 'key', 'nested'])
def test_control_characters_in_a_config_are_refused(run, refuses, keys, name):
    change(run, **keys(name))
    refuses(read_config, 'config.cfg: .*control characters: [^\x00-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]*$')


@pytest.mark.parametrize(('content', 'message'), [
    (NESTED.encode(), 'cannot be read as JSON: lists are nested'), (b'{"a": ' * 100_000, 'cannot be read as JSON: lists are nested'),
    (b'\xff\xfe', r'is not UTF-8 text \(byte 1\)'), (b'{', 'cannot be read as JSON'), (b'[1]', 'does not contain a dictionary'),
    (b'{"lr": ' + b'1' * 5000 + b'}', 'cannot be read as JSON'),
])
@pytest.mark.parametrize(('file', 'read'), [('config.cfg', read_config), ('log.jsonl', read_log)])
def test_a_file_that_is_not_a_dictionary(run, refuses, file, read, content, message):
    (run / file).write_bytes(content)
    refuses(read, f'{file}.* {message}')


@pytest.mark.parametrize(('file', 'read'), [('config.cfg', read_config), ('log.jsonl', read_log)])
def test_a_huge_file_is_refused_before_it_is_read(run, refuses, file, read):
    os.truncate(run / file, 100 * MAX_TEXT)  # a sparse file, which uses no disk space
    refuses(read, f'{file} has .* bytes, more than')


@pytest.mark.parametrize('kind', ['fifo', 'device', 'folder'])
@pytest.mark.parametrize(('file', 'read'), [('config.cfg', read_config), ('log.jsonl', read_log)])
def test_special_files_are_refused_without_blocking(run, refuses, file, read, kind):
    (run / file).unlink()
    {'fifo': lambda path: os.mkfifo(path), 'device': lambda path: path.symlink_to('/dev/zero'), 'folder': lambda path: path.mkdir()}[kind](
        run / file)
    refuses(read, f'{file} is not a regular file')


@pytest.mark.parametrize(('old', 'new', 'message'), [
    ('"lr"', '"rate"', 'is incomplete: it lacks lr'), ('"epoch": 2', '"epoch": [2]', "'epoch' must be a whole number"),
    ('"epoch": 2', '"epoch": 7', "'epoch' is 7, not 2"), ('"mcc": 0.2', '"mcc": "x"', "'val' must be a dictionary of scores"),
    ('"mcc": 0.2', '"mcc": [0.2]', "'val' must be"), ('"lr": 0.01', '"lr": "x"', "'lr' must be a number or null"),
    ('"train": {', '"train": [', 'cannot be read as JSON'), ('"mcc": 0.2', '"mcc": ' + '9' * 400, 'more than 1,024 bits'),
])
def test_an_invalid_log_line_is_named(run, refuses, old, new, message):
    lines = (run / 'log.jsonl').read_text().splitlines()
    lines[1] = lines[1].replace(old, new)
    (run / 'log.jsonl').write_text('\n'.join(lines))
    refuses(read_log, f'log.jsonl, line 2.* {message}')


def test_a_log_may_contain_undefined_scores(run):
    text = (run / 'log.jsonl').read_text()
    (run / 'log.jsonl').write_text(text.replace('"mcc": 0.2', '"mcc": NaN').replace('"loss": 1.0', '"loss": Infinity'))
    assert read_log(str(run))[0]['val']['loss'] == float('inf')


def parents(tmp_path, **names):
    for name, parent in names.items():
        change(write_run(tmp_path, name, ['x', 'y'], tested=False),
               parent={'path': str(tmp_path / 'experiments' / parent / 'epoch_01_x'), 'epoch': 1})


@pytest.mark.parametrize(('names', 'circle'), [({'a': 'a'}, 'a from a'), ({'a': 'b', 'b': 'a'}, 'a from b from a'),
                                               ({'a': 'b', 'b': 'c', 'c': 'b'}, 'a from b from c from b')])
def test_runs_that_start_from_each_other_are_named(tmp_path, names, circle):
    parents(tmp_path, **names)
    with pytest.raises(InputError, match=rf"config\.cfg: 'parent' leads in a circle \({circle}\)"):
        find_runs([str(tmp_path / 'experiments' / 'a')])


def test_a_parent_with_the_same_name_in_another_folder_is_no_circle(run, tmp_path):
    change(run, parent={'path': '/elsewhere/experiments/a/epoch_01_x', 'epoch': 1})
    assert [name for name, _ in find_runs([str(run)])[0].stages] == ['a']


def test_a_text_report_that_is_a_pipe_is_refused_without_blocking(tmp_path):
    run = write_run(tmp_path, 'b', ['x', 'y'])
    os.mkfifo(tmp_path / 'results' / 'b' / 'performance_test.txt')
    with pytest.raises(InputError, match=r'performance_test\.txt is not a regular file'):
        find_runs([str(run)])


def test_a_page_that_is_a_pipe_is_left_alone(tmp_path):
    from utils.runs.provenance import mark_outdated
    run = write_run(tmp_path, 'b', ['x', 'y'])
    os.mkfifo(tmp_path / 'results' / 'b' / 'report.html')
    mark_outdated(str(tmp_path / 'results' / run.name / 'results_test.csv'))


@pytest.mark.parametrize('name', FORGED)
def test_a_folder_name_with_control_characters_is_refused(tmp_path, name):
    write_run(tmp_path, name, ['x', 'y'], tested=False)
    with pytest.raises(InputError, match='the name contains control characters: rename it'):
        find_runs([str(tmp_path / 'experiments')])


def test_a_path_that_is_not_utf8_is_shown_with_question_marks(run, tmp_path):
    change(run, csv_train=os.fsdecode(b'caf\xe9.csv'))
    report.main([str(run), '--out', str(tmp_path / 'page.html')])
    assert 'caf?.csv' in (tmp_path / 'page.html').read_text(encoding='utf-8')


def test_the_types_of_last_layers_match_the_networks():
    assert set(formats.HEADS) == set(HEADS)


def test_no_message_contains_the_value_of_a_huge_key(run, refuses):
    change(run, n_epochs=['x' * 1000] * 1000)
    with pytest.raises(InputError) as error:
        read_config(str(run))
    assert len(re.sub('^.*config.cfg', '', str(error.value))) < 300
