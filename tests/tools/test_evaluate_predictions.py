"""tools.evaluate_predictions on one file, folds, repeats and two files to compare: its console output and JSON."""
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics

from tests.factories import ROOT, random_table
from tests.report_files import write, write_run
from tools.evaluate_predictions import main
from utils.common import InputError, file_sha256
from utils.prediction.predictions import read_predictions
from utils.statistics.bootstrap import bootstrap_metrics
from utils.statistics.folds import pool, spread


def run(*args):
    file = args[0] + '.json'
    main([*args, '--draws', '100', '--json', file])
    with open(file, encoding='utf-8') as f:
        return json.load(f, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))


def test_one_file(tmp_path, capsys):
    table = random_table(0, absent=(3,))._replace(patient_ids=[f'p{i // 2}' for i in range(80)])
    csv = write(tmp_path / 'a.csv', table)
    (tmp_path / 'train.csv').write_text('image_id,label\n' + ''.join(f'{i},{c}\n' for i, c in enumerate([0] * 101 + [1] * 20 + [2, 3, 4])))
    result, out = run(csv, '--train_csv', str(tmp_path / 'train.csv')), capsys.readouterr().out
    expected = bootstrap_metrics(read_predictions(csv), 100, ordered=True, class_count=[101, 20, 1, 1, 1], levels=[.9], referable=2)
    assert {name: result[name] for name in expected} == expected
    assert (result['n_images'], result['by_patient'], result['ordered'], result['of']) == (80, True, True, 'file')
    bacc = expected['metrics']['bacc']
    assert f"{100 * bacc['value']:.2f} [{100 * bacc['low']:.2f}, {100 * bacc['high']:.2f}]" in out
    assert '80 images, 5 classes, 40 patients' in out and 'bootstrap resamples of patients' in out and 'quadratic kappa' in out
    assert 'DR2 or worse' in out and 'tail third' in out and 'fewer than 30 images of DR0, DR1' in out
    assert result['operating_points']['DR2 or worse']['sensitivity_at_specificity']['0.9']['n'] == (table.labels >= 2).sum()


def test_unordered_classes_have_no_kappa(tmp_path, capsys):
    csv = write(tmp_path / 'a.csv', random_table(0, names=['cat', 'dog', 'cow']))
    assert run(csv)['metrics']['kappa']['value'] is None and 'kappa' not in capsys.readouterr().out
    assert run(csv, '--ordered')['metrics']['kappa']['value'] is not None and 'cow or worse' in capsys.readouterr().out


def test_the_conversion_of_other_predictions_in_the_documentation(tmp_path, monkeypatch):
    """The Python lines of docs/evaluation.md on five folds of 23 classes, of which two never occur and others only in some folds. The
    pooled scores are those of scikit-learn on all images together."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    p_class = np.r_[0, 0, .6 ** np.arange(21)]
    labels = [rng.choice(23, 200, p=p_class / p_class.sum()) for _ in range(5)]
    probs = [rng.dirichlet(np.ones(23), 200) + 2 * np.eye(23)[y] * rng.random((200, 1)) for y in labels]
    probs = [p / p.sum(axis=1, keepdims=True) for p in probs]
    for fold in range(5):
        np.savez(f'fold{fold + 1}.npz', probs=probs[fold], labels=labels[fold], names=[f'{fold}_{i}' for i in range(200)])
    exec(re.search(r'```python\n(import numpy.*?)```', (ROOT / 'docs' / 'evaluation.md').read_text(), re.S)[1])
    result = run(*(f'fold{fold}.csv' for fold in range(1, 6)))
    y, p = np.concatenate(labels), np.concatenate(probs)
    present = np.unique(y)
    assert min(len(np.unique(fold)) for fold in labels) < len(present) < 23
    expected = {
        'acc': metrics.accuracy_score(y, p.argmax(1)), 'mcc': metrics.matthews_corrcoef(y, p.argmax(1)),
        'bacc': metrics.recall_score(y, p.argmax(1), labels=present, average='macro'),
        'auc': np.mean([metrics.roc_auc_score(y == c, p[:, c]) for c in present]),
        'ap': np.mean([metrics.average_precision_score(y == c, p[:, c]) for c in present])}
    assert result['of'] == 'pooled' and {name: result['metrics'][name]['value'] for name in expected} == pytest.approx(expected)


def test_a_prediction_that_is_not_the_most_probable_class_gives_a_note(tmp_path, capsys):
    table = random_table(0)
    preds = table.probs.argmax(axis=1)
    preds[:3] = (preds[:3] + 1) % 5
    csv = write(tmp_path / 'a.csv', table._replace(preds=preds))
    run(csv)
    assert f'* Note: {csv}: pred is not the most probable class in 3 of 80 rows\n' in capsys.readouterr().err


def test_files_of_different_names_have_no_next_command(tmp_path, capsys):
    run(*(write(tmp_path / f'fold{i}.csv', random_table(i)._replace(image_ids=[f'{i}_{j}' for j in range(80)])) for i in range(3)))
    assert '* Next' not in capsys.readouterr().out


def test_folds_are_pooled(tmp_path, capsys):
    table = random_table(1, n=90)
    parts = [write(tmp_path / f'{i}.csv', table, slice(30 * i, 30 * i + 30)) for i in range(3)]
    result, out = run(*parts), capsys.readouterr().out
    assert result['of'] == 'pooled' and result['metrics'] == bootstrap_metrics(table, 100, ordered=True)['metrics']
    values = [run_['metrics']['mcc']['value'] for run_ in result['runs']]
    assert (result['spread']['mcc']['mean'], result['spread']['mcc']['sd']) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert result['runs'][2]['metrics']['mcc']['n'] == 30 and 'over 3 files' in out and 'pooled' in out
    assert pool([table._replace(patient_ids=['a'] * 90), table]).patient_ids is None


def test_repeats_and_the_difference_of_two(tmp_path, capsys):
    a = random_table(2)
    files = [write(tmp_path / f'{i}.csv', a._replace(preds=np.where(np.arange(80) < 5 * i, 0, a.preds)), slice(None, None, 1 - 2 * (i % 2)))
             for i in range(3)]  # the second file is in another order
    result = run(*files)
    values = [run_['metrics']['bacc']['value'] for run_ in result['runs']]
    assert result['of'] == 'mean' and result['metrics']['bacc']['value'] == pytest.approx(np.mean(values)) and 'difference' not in result
    assert 'mean of 3' in capsys.readouterr().out
    result = run(*files[:2])
    difference = result['difference']['metrics']['bacc']
    assert difference['value'] == pytest.approx(values[1] - values[0]) and difference['low'] <= difference['value'] <= difference['high']
    assert 'second - first, on the same images' in capsys.readouterr().out


def test_two_files_of_one_image(tmp_path, capsys):
    table = random_table(2)
    files = [write(tmp_path / f'{i}.csv', table._replace(preds=np.full(80, i)), slice(0, 1)) for i in range(2)]
    assert run(*files)['difference']['metrics']['nll']['interval'] is None
    assert 'difference' not in capsys.readouterr().out.split('95 % intervals cover')[1]  # no kind of interval without an interval


def test_the_assumption_about_several_files_is_printed(tmp_path, capsys):
    table = random_table(1, n=90)
    folds = [write(tmp_path / f'{i}.csv', table, slice(30 * i, 30 * i + 30)) for i in range(3)]
    repeats = [write(tmp_path / f'repeat{i}.csv', table) for i in range(3)]
    for files, assumed in ((folds, 'The files have no images in common: pooled as the folds of one cross-validation'),
                           (repeats, 'The files have the same images: averaged as repeats of one method'),
                           (repeats[:2], 'Both files have the same images: compared image by image as two methods')):
        assert run(*files)['assumed'].startswith(assumed) and assumed in capsys.readouterr().out
    assert 'assumed' not in run(folds[0])


def test_images_named_with_and_without_extension_are_not_folds(tmp_path):
    table = random_table(0)
    files = [write(tmp_path / 'a.csv', table), write(tmp_path / 'b.csv', table._replace(image_ids=[f'{i}.JPG' for i in table.image_ids]))]
    with pytest.raises(InputError, match='share some of their images'):
        main(files)


def test_repeats_tested_with_different_settings_give_a_note(tmp_path, capsys):
    files = [write(tmp_path / name / 'results_test.csv', random_table(0, n=60)) for name in ('a', 'b', 'c')]
    for name, views in (('a', ''), ('b', ', mean over 8 views'), ('c', '')):
        (tmp_path / name / 'performance_test.txt').write_text(f'Checkpoint x, epoch 1; csv y, SHA-256 z{views}\n')
    run(*files)
    assert f'* Note: runs were tested in different ways: {files[0]}: plain forward pass; {files[1]}: 8 views;' in capsys.readouterr().err
    run(*files[:2])  # two methods, or one tested in two ways
    assert 'different ways' not in capsys.readouterr().err


def test_pooled_runs_with_different_settings_give_a_note(tmp_path, capsys):
    files = []
    for seed in range(3):
        config = write_run(tmp_path, f'plain/seed{seed}', ['x', 'y'], seed=seed) / 'config.cfg'
        config.write_text(json.dumps(json.loads(config.read_text()) | {'lr': .01 if seed else .1}))
        files.append(str(tmp_path / 'results' / 'plain' / f'seed{seed}' / 'results_test.csv'))
    assert run(*files)['settings_differ'] == {'lr': dict(zip(files, [.1, .01, .01], strict=True))}
    note = '* Note: the files are pooled, but the settings of their runs differ: lr 0.1 (seed0) or 0.01 (seed1, seed2)\n'
    assert note in capsys.readouterr().err
    assert run(*files[1:])['settings_differ'] == run(*files[:2])['settings_differ'] == {}  # two files are compared


def test_json_holds_the_checksums_of_the_files(tmp_path):
    csv = write(tmp_path / 'a.csv', random_table(0))
    assert run(csv)['sha256'] == [file_sha256(csv)]


@pytest.mark.parametrize(('names', 'message'), [
    (['y', 'x'], r"class 0 is 'y' and 'x' \(the same names in another order\)"), (['x', 'z'], "class 1 is 'z' and 'y'")])
@pytest.mark.parametrize('rows', [slice(None), slice(40, None)])  # repeats, folds
def test_files_with_different_classes_are_refused(tmp_path, names, message, rows):
    first = write(tmp_path / 'a.csv', random_table(0, names=['x', 'y']), slice(None) if rows.start is None else slice(40))
    second = write(tmp_path / 'b.csv', random_table(0, names=names), rows)
    with pytest.raises(InputError, match=rf'b\.csv and .*a\.csv differ in their classes: {message}'):
        main([first, second])


@pytest.mark.parametrize(('names', 'message'), [
    (['y', 'x'], r"class 0 is 'x' and 'y' \(the same names in another order\)"), (['x', 'z'], "class 1 is 'y' and 'z'"),
    (list('xyz'), '2 and 3')])
def test_a_run_with_different_classes_is_refused(tmp_path, names, message):
    csv, other = write(tmp_path / 'a.csv', random_table(0, names=['x', 'y'])), write_run(tmp_path, 'other', names, tested=False)
    with pytest.raises(InputError, match=rf'a\.csv and --run .*other differ in their classes: {message}'):
        main([csv, '--run', str(other)])


@pytest.mark.parametrize('where', ['--run', 'beside'])
def test_a_run_with_kappa_as_its_metric_has_ordered_classes(tmp_path, where):
    config = write_run(tmp_path, 'a', ['x', 'y']) / 'config.cfg'
    config.write_text(json.dumps(json.loads(config.read_text()) | {'metric': 'kappa'}))
    csv = str(tmp_path / 'results' / 'a' / 'results_test.csv')
    if where == '--run':
        csv = shutil.copy(csv, tmp_path / 'x.csv')
    flags = ['--run', str(tmp_path / 'experiments' / 'a')] if where == '--run' else []
    assert run(str(csv), *flags)['ordered'] and not run(str(csv), *flags, '--no-ordered')['ordered']


def test_a_value_outside_of_its_interval_is_explained(tmp_path, capsys):
    """200 images whose labels are drawn from their probabilities: the calibration error is above 0 only by chance."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), 200)
    labels = (rng.random((200, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    table = random_table(0, names=list('abcd'))._replace(
        image_ids=list(map(str, range(200))), labels=labels, preds=probs.argmax(1), probs=probs)
    ece = run(write(tmp_path / 'a.csv', table))['metrics']['classwise_ece']
    assert ece['low'] < ece['high'] < ece['value']
    found = capsys.readouterr().out
    assert 'the value lies outside its interval: classwise ECE. Sampling noise biases calibration errors upwards' in found


def test_spread():
    assert spread([1., np.nan, 3.]) == {'mean': 2, 'sd': pytest.approx(2 ** .5), 'min': 1, 'max': 3}
    assert spread([1.])['sd'] is None and spread([np.nan])['mean'] is None


@pytest.mark.parametrize(('flags', 'message'), [
    (['{a}', '{part}'], 'share some of their images'), (['{a}', '--referable', '5'], r'--referable 5 is outside the grades 1\.\.4'),
    (['{a}', '--at', '90'], 'each --at between 0 and 1'), (['{a}', '--run', '{tmp}'], 'is not a run folder: it has no config.cfg'),
    (['{a}', '--train_csv', '{part}'], "'label' may be the class"), (['{a}', '--train_csv', 'x'], 'no such csv: x'),
    (['{a}', '{other}'], 'share some'),
])
def test_errors(tmp_path, flags, message):
    table = random_table(3)
    names = {'a': write(tmp_path / 'a.csv', table), 'part': write(tmp_path / 'b.csv', table, slice(40)), 'tmp': tmp_path,
             'other': write(tmp_path / 'c.csv', random_table(3, n=90))}
    with pytest.raises(InputError, match=message):
        main([flag.format(**names) for flag in flags])


def test_json_does_not_overwrite_the_results_of_a_test_script(tmp_path):
    csv, file = write(tmp_path / 'a.csv', random_table(0)), tmp_path / 'a.json'
    main([csv, '--draws', '100', '--json', str(file)])
    main([csv, '--draws', '100', '--json', str(file)])  # its own file
    file.write_text('{"format": 1}')
    with pytest.raises(InputError, match=r'--json .*a\.json would overwrite a results file of a test script'):
        main([csv, '--draws', '100', '--json', str(file)])


def test_needs_neither_torch_nor_scikit_learn(tmp_path):
    csv = write(tmp_path / 'a.csv', random_table(0))
    code = f"import sys; from tools.evaluate_predictions import main; main(['{csv}']); assert not {{'torch', 'sklearn'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0
