"""The page for the files of runs: what it contains, what it must not contain, and how the files are found."""
import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from markupsafe import escape
from matplotlib.figure import Figure
from PIL import Image

from tests.factories import random_table
from tests.report_files import SCRIPT, Page, report, write, write_run
from tools.evaluate_predictions import main as evaluate
from tools.report import main
from utils.common import InputError
from utils.report.runs import find_runs
from utils.report.subgroups import subgroups_in_words
from utils.statistics import plots
from utils.statistics.subgroups import Subgroup
from utils.statistics.text import show


@pytest.mark.parametrize('k', [3, 23])
def test_one_run(tmp_path, k):
    names = [SCRIPT, '  & "quoted"', *(f'ulcerative-colitis-grade-{c}' for c in range(2, k))]
    before = dict(matplotlib.rcParams)
    html = report(write_run(tmp_path, 'a/b', names))
    assert dict(matplotlib.rcParams) == before  # other figures keep their style
    page = Page(html)
    assert len(html) < 3e6 and len(page.all('script')) == 1 and SCRIPT in page.text
    assert not re.search(r'(src|href)="(?!#|data:)', html) and 'url(http' not in html and '@import' not in html
    ids = [attributes['id'] for _, attributes in page.elements if 'id' in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes['href'][1:] for attributes in page.all('a')} <= set(ids)
    assert {attributes['aria-labelledby'] for attributes in page.all('section')} <= set(ids)
    assert all('scope' in attributes for attributes in page.all('th')) and len(page.all('caption')) == len(page.all('table'))
    pictures = [attributes for attributes in page.all('svg') if attributes.get('role') == 'img']
    assert len(pictures) == len(page.all('figure')) == len(page.all('figcaption')) == 9
    assert all(len(attributes['aria-label']) > 20 for attributes in pictures)
    assert [name for name in ('header', 'nav', 'main', 'footer') if len(page.all(name)) == 1] == ['header', 'nav', 'main', 'footer']
    assert 'best epoch2, by MCC on the validation set' in page.text and f'{60 + 3 * k} images' in page.text
    assert 'patient1' not in html  # neither images nor their names


HEAD = {'title': 'Grades', 'author': 'A. Author', 'purpose': 'Choice of a loss', 'data': 'Drawn images'}


@pytest.mark.parametrize('texts', [HEAD, {name: f'{name} {SCRIPT} "a" & \'b\' </title></dl>' for name in HEAD}, {'author': 'Ä. Ö'}])
def test_head_of_the_page(tmp_path, texts):
    html = report(write_run(tmp_path, 'a/b', ['x', 'y']), *(word for name, text in texts.items() for word in (f'--{name}', text)))
    page = Page(html)
    assert len(page.all('script')) == 1 and len(page.all('title')) == len(page.all('h1')) == 1
    assert page.text.count(texts.get('title', 'a/b')) >= 2  # as the title of the window and as the heading
    shown = dict(re.findall(r'<div><dt>(Author|Purpose|Data)</dt><dd>(.*?)</dd></div>', html))
    assert shown == {name.capitalize(): str(escape(text)) for name, text in texts.items() if name != 'title'}


def test_no_head_without_its_flags(tmp_path):
    html = report(write_run(tmp_path, 'a/b', ['x', 'y']), '--author', '', '--title', ' ')
    assert '<dl class="facts">' not in html and '<title>a/b</title>' in html and '<h1>a/b</h1>' in html


def test_images_only_when_asked_for(tmp_path):
    run = write_run(tmp_path, 'a', ['x', 'y', SCRIPT])
    (tmp_path / 'images').mkdir()
    for i in range(80):
        Image.fromarray(np.full((300, 200, 3), i, np.uint8)).save(tmp_path / 'images' / f'patient{i}.jpg')
    page = Page(report(run, '--with_images', '--data_path', str(tmp_path / 'images')))
    pictures = page.all('img')
    assert len(pictures) == 24 and all(re.fullmatch(r'Image patient\d+', picture['alt']) for picture in pictures)
    captions = re.findall(r'(patient\d+) True class: (.+)\. Predicted: (.+), confidence (\d+) %\.', page.text)
    assert [f'Image {name}' for name, *_ in captions] == [picture['alt'] for picture in pictures]
    assert all(truth != answer and {truth, answer} <= {'x', 'y', SCRIPT} for _, truth, answer, _ in captions)
    assert len(page.all('figure')) == len(page.all('figcaption')) == 9 + 24
    assert 'holds images of patients' in page.text and len(page.all('script')) == 1
    for flags, message in ((['--with_images'], 'belong together'), (['--data_path', str(tmp_path)], 'belong together'),
                           (['--with_images', '--data_path', 'absent'], 'is not a folder'),
                           (['--with_images', '--data_path', str(tmp_path)], 'images to show are not in')):
        with pytest.raises(InputError, match=message):
            report(run, *flags)


def test_operating_points_are_those_of_the_evaluation(tmp_path):
    csv = Path(write(tmp_path / 'results' / 'a' / 'results_test.csv', random_table(3, n=300, names=['DR0', 'DR1', 'DR2', 'DR3'])))
    page, json_file = Page(report(csv)), tmp_path / 'scores.json'
    evaluate([str(csv), '--draws', '100', '--json', str(json_file)])
    points = json.loads(json_file.read_text())['operating_points']
    assert list(points) == ['DR0', 'DR1', 'DR2', 'DR3', 'DR2 or worse']
    for of_name in points.values():
        for of_level in of_name.values():
            assert show(of_level['0.9']) in page.text and f"{of_level['0.9']['threshold']:.3f}" in page.text
    with pytest.raises(InputError, match='--baseline needs several runs'):
        report(csv, '--baseline', 'a')


def test_both_folders_and_the_stages_are_found(tmp_path, monkeypatch):
    names = ['a', 'b']
    write_run(tmp_path, 'one/seed0', names, epochs=5)
    second = write_run(tmp_path, 'two/seed0', names, {'path': 'experiments/one/seed0/epoch_04_K_1.00', 'epoch': 4})
    results = tmp_path / 'results' / 'two' / 'seed0'
    sha, config = 'f' * 64, json.loads((second / 'config.cfg').read_text())
    (second / 'config.cfg').write_text(json.dumps(config | {'csv_sha256': {'train': 'e' * 64, 'val': sha}}))
    (results / 'performance_test.txt').write_text(f'Calibrated with temperature 2\nCheckpoint c, epoch 3; csv x, SHA-256 {sha}\n')
    for path in (second, results, results / 'results_test.csv'):  # also if the working folder is not that of the training
        run, = find_runs([str(path)])
        assert (run.name, run.folder, run.results) == ('two/seed0', str(second), str(results)) and len(run.table.labels) == 66
        assert [(name, len(records)) for name, records in run.stages] == [('one/seed0', 4), ('two/seed0', 3)]
        assert run.seen_as == 'val' and run.facts[0] == 'Calibrated with temperature 2.000'
    assert 'stage 2' in report(second) and 'used to select the epoch of this network' in report(second)
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in find_runs(['results', 'experiments'])] == ['one/seed0', 'two/seed0']  # each of them once


@pytest.mark.parametrize('line', ['Calibrated with temperature 2.000', 'Class prior changed to: uniform', 'Logit adjustment with tau 1',
                                  'Tau-normalisation with tau 1'])
def test_corrections_at_test_are_in_the_report(tmp_path, line):
    run = write_run(tmp_path, 'a', ['x', 'y'])
    (tmp_path / 'results' / 'a' / 'performance_test.txt').write_text(line + '\n')
    assert line in Page(report(run)).text


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(('n', 'absent'), [(60, (1,)), (60, (0, 2)), (1, ())])
def test_absent_classes(tmp_path, n, absent):
    csv = write(tmp_path / 'results' / 'a' / 'results_test.csv', random_table(0, n=n, absent=absent, names=['x', 'y', 'z']))
    page = Page(report(Path(csv)))
    assert len(page.all('figure')) == 6 and not re.search(r'\bnan\b', page.text)


@pytest.mark.parametrize(('metric', 'flags', 'shown'), [
    ('mcc', [], False), ('kappa', [], True), ('kappa', ['--no-ordered'], False), ('mcc', ['--ordered'], True)])
def test_kappa_is_shown_for_ordered_classes_only(tmp_path, metric, flags, shown):
    run = write_run(tmp_path, 'a', ['x', 'y', 'z'])
    config = run / 'config.cfg'
    config.write_text(json.dumps(json.loads(config.read_text()) | {'metric': metric}))
    log = (run / 'log.jsonl').read_text()
    (run / 'log.jsonl').write_text(log.replace('"mcc"', f'"{metric}"'))
    assert ('agreement (quadratic kappa)' in Page(report(run, *flags)).text) == shown


def test_class_frequencies_in_words(tmp_path):
    run = write_run(tmp_path, 'a', ['nv', 'mel', 'bcc'])  # 200, 100 and 66 training images
    tested = np.bincount(random_table(0, n=69, names=['nv', 'mel', 'bcc']).labels) / 69
    assert (f'bcc, the rarest class of the training images, makes up {100 * 66 / 366:.1f} % of them and {100 * tested[2]:.1f} % of the '
            'tested images') in Page(report(run)).text


def subgroup(name, n, bacc, difference):
    cell = {'value': bacc, 'low': None, 'high': None, 'n': n}
    return Subgroup('sex', name, n, n_patients=None, absent=[], cells={('metrics', 'bacc'): cell}, reference='m',
                    difference=difference and {'bacc': dict(zip(('value', 'low', 'high'), difference, strict=True))})


@pytest.mark.parametrize(('difference', 'text'), [
    ((-.2, -.3, -.1), 'The difference from m, the largest group, is certain, as its interval excludes 0, for: f.'),
    ((-.2, -.5, .1), 'No difference from m, the largest group, is certain: all intervals include 0.')])
def test_subgroups_in_words(difference, text):
    words = subgroups_in_words([subgroup('m', 90, .7, None), subgroup('f', 60, .5, difference), subgroup('x', 5, .1, (-.6, -.7, -.5))])
    assert 'lowest for f (50.0 %) and highest for m (70.0 %)' in words and text in words


def test_small_subgroups_are_not_compared():
    assert 'cannot be compared' in subgroups_in_words([subgroup('m', 90, .7, None), subgroup('f', 29, .5, None)])


def test_plain_accuracy_is_on_a_card(tmp_path):
    run = write_run(tmp_path, 'a', ['x', 'y'])
    table = find_runs([str(run)])[0].table
    assert f'accuracy{100 * np.mean(table.labels == table.preds):.1f} %' in Page(report(run)).text


def test_missing_glyphs_raise_no_warning(recwarn):
    axes = Figure().subplots()
    axes.set_title('糖尿病 نرم 🩺')
    assert '糖尿病' in str(plots.to_svg(axes.figure, 'x', 'title')) and not recwarn.list


def test_errors(tmp_path):
    run = write_run(tmp_path, 'a', ['x', 'y'])
    for args, message in ((['absent'], 'no such run or results: absent'), ([str(tmp_path / 'results'), '--draws', '9'], '--draws must be'),
                          ([str(run), '--file', 'x.csv'], 'no run has a file of this name')):
        with pytest.raises(InputError, match=message):
            main(args)
    (tmp_path / 'new').mkdir()
    (tmp_path / 'new' / 'results_test.csv').write_text('image_id,pred,p_a,p_b\n1,0,.6,.4\n')
    with pytest.raises(InputError, match='neither labelled predictions'):
        main([str(tmp_path / 'new')])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=r'holds no run \(config\.cfg\)'):
        main([str(tmp_path / 'empty')])
    (run / 'config.cfg').write_text((run / 'config.cfg').read_text().replace('"y"', '"z"'))
    with pytest.raises(InputError, match=r"results_test\.csv and its run differ in their classes: class 1 is 'y' and 'z'"):
        main([str(run)])
    (run / 'config.cfg').write_text('{')
    with pytest.raises(InputError, match='cannot be read as JSON'):
        main([str(run)])
