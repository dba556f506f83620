"""Comparison of methods over folds and seeds: grouping of csvs, means, ranks, paired differences and output formats."""
import csv
import io
import json
import re

import numpy as np
import pytest

from tests.factories import random_table
from tests.report_files import write, write_run
from tools.compare_experiments import main
from tools.evaluate_predictions import main as evaluate
from tools.report import main as report
from utils.common import InputError
from utils.statistics.comparison import RANKED, columns_of, difference, find_csvs, load_methods, mean_ranks, settings_notes, summary
from utils.statistics.tables import to_latex, to_markdown, to_text


@pytest.fixture
def results(tmp_path):
    """Two folds: `good` has two seeds in each, `bad` has one, and `half` is tested only on the first fold."""
    for fold in (1, 2):
        table = random_table(fold)
        table = table._replace(image_ids=[f'{fold}_{i}' for i in range(80)])
        noise = np.random.default_rng(fold).permutation(80)
        for name, seed, n_wrong in (('good', 0, 5), ('good', 1, 15), ('bad', 0, 50), ('half', 0, 30)):
            if name != 'half' or fold == 1:
                preds = table.labels.copy()
                preds[noise[:n_wrong]] = 0
                write(tmp_path / f'F{fold}' / name / 'net' / f'seed{seed}' / 'results_test.csv', table._replace(preds=preds))
    return str(tmp_path)


def test_finds_methods(results, tmp_path):
    found = find_csvs([results], 'results_test.csv')
    assert {name: len(csvs) for name, csvs in found.items()} == {'good/net': 4, 'bad/net': 2, 'half/net': 1}
    assert set(find_csvs([f'{results}/F1/good', f'{results}/F1/bad'], 'results_test.csv')) == {'good/net', 'bad/net'}
    assert set(find_csvs([f'{results}/F1/good/net'], 'results_test.csv')) == {'net'}
    with pytest.raises(InputError, match=r'no results_val\.csv below'):
        find_csvs([results], 'results_val.csv')


def test_means_ranks_and_differences(results):
    methods = {m.name[:-4]: m for m in load_methods(find_csvs([results], 'results_test.csv'), draws=200)}
    good, bad, half = (methods[name] for name in ('good', 'bad', 'half'))
    assert (len(good.runs), good.n_images, good.sizes, half.n_images) == (4, 160, [80] * 4, 80)
    values = [run.values['metrics', 'mcc'] for run in good.runs]
    mcc = summary(good)['metrics', 'mcc']
    assert mcc['value'] == pytest.approx(np.mean(values)) and mcc['sd'] == pytest.approx(np.std(values, ddof=1)) and mcc['n'] == 160
    assert mcc['low'] < mcc['value'] < mcc['high']
    both = difference(good, bad)['metrics', 'mcc']
    assert both['value'] == pytest.approx(mcc['value'] - summary(bad)['metrics', 'mcc']['value']) and both['low'] > 0
    on_fold = np.mean([v for v, s in zip(values, good.image_sets, strict=True) if s == half.image_sets[0]])  # the fold of both
    assert difference(good, half)['metrics', 'mcc']['value'] == pytest.approx(on_fold - half.runs[0].values['metrics', 'mcc'])
    assert difference(good, good)['metrics', 'bacc'] == {
        'value': 0, 'low': 0, 'high': 0, 'n': 160, 'interval': 'normal', 'covers': 'images'}
    order = mean_ranks([good, bad])  # the AUC is the same: both get rank 1.5
    assert order == pytest.approx([1.1, 1.9]) and mean_ranks([good]) == [None]


def test_runs_tested_with_different_settings_give_a_note(results, capsys):
    """The note depends on lines that the test scripts write, which tests/testing and tests/statistics/test_calibration.py check."""
    main([f'{results}/F1', '--draws', '100'])
    assert 'different ways' not in capsys.readouterr().err
    end = 'Checkpoint a, epoch 1; csv b, SHA-256 c'
    for name, text in (('good/net/seed0', f'{end}, mean over 8 views\n'), ('good/net/seed1', f'{end}, mean over 8 views\n'),
                       ('bad/net/seed0', f'Calibrated with temperature 1.2, fitted\n{end}\n')):
        with open(f'{results}/F1/{name}/performance_test.txt', 'w') as f:
            f.write(text)
    main([f'{results}/F1', '--draws', '100'])
    note = 'runs were tested in different ways: good/net: 8 views; bad/net: calibrated'
    assert f'* Note: {note}\n' in capsys.readouterr().err
    report([f'{results}/F1', '--draws', '100'])
    with open(f'{results}/F1/report.html') as f:
        assert f'{note}.' in f.read()


def change_config(run, **changes):
    config = run / 'config.cfg'
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


@pytest.mark.parametrize(('changes', 'note'), [
    ({'seed': 1, 'save_path': 'x', 'num_workers': 4, 'parent': {'path': 'p', 'epoch': 2}}, None),  # these may differ
    ({'lr': .1, 'min_lr': .0001}, 'lr 0.01 (seed0) or 0.1 (seed1)'),  # min_lr follows from lr
    ({'loss_fn': 'BSCE', 'sampling': 'class'}, 'loss_fn CE (seed0) or BSCE (seed1); sampling instance (seed0) or class (seed1)'),
    ({'pretrained_weights': 'experiments/a/seed1/epoch_03_K_1'}, None),  # stage one of the same seed
    ({'pretrained_weights': 'experiments/b/seed1'}, 'pretrained_weights experiments/a (seed0) or experiments/b (seed1)'),
    ({'csv_sha256': {'train': '9' * 64}}, 'csv_train train.csv (SHA-256 00000000...) (seed0) or train.csv (SHA-256 99999999...) (seed1)'),
    ({'a_later_flag': 1}, None),
    ({'initial_weights': 'experiments/a/seed1/epoch_03_K_1', 'torch': '3', 'device_type': 'cuda', 'mixed_precision': 'bf16'}, None),
    ({'pretrained_weights': '/scratch/experiments/a/seed1/epoch_03_K_1/model_checkpoint.pth'}, None),
    ({'pretrained_weights': 'experiments/a/'}, None), ({'data_path': '/scratch/isic/images/'}, None),
    ({'data_path': 'data/ham/images'}, 'data_path isic/images (seed0) or ham/images (seed1)'),
    ({'min_lr': .001}, 'min_lr lr / 1000 (seed0) or 0.001 (seed1)'),
    ({'label_column': 'label', 'cdt_gamma': .2}, None),  # the same settings in other words
    ({'do_mixup': .1, 'mixing': 'balanced_mixup'}, 'mixing none (seed0) or balanced_mixup (seed1)')])
def test_settings_in_which_seeds_differ(tmp_path, changes, note):
    common = {'pretrained_weights': 'experiments/a/seed0', 'csv_sha256': {'train': '0' * 64},
              'initial_weights': 'experiments/a/seed0/epoch_01', 'data_path': 'data/isic/images',
              'min_lr': .00001, 'mixing': 'none', 'cdt_gamma': None, 'loss_params': {},
              'class_column': 'label', 'label_column': None}
    change_config(write_run(tmp_path, 'set/plain/seed0', ['x', 'y']), **common)
    change_config(write_run(tmp_path, 'set/plain/seed1', ['x', 'y'], seed=1), **common | changes)
    methods = load_methods(find_csvs([str(tmp_path / 'results')], 'results_test.csv'), draws=100)
    assert settings_notes(methods) == ([] if note is None else [f'set/plain pools runs whose settings differ: {note}'])


def test_csvs_may_differ_between_folds(tmp_path):
    for fold in (1, 2):
        change_config(write_run(tmp_path, f'F{fold}/plain/seed0', ['x', 'y'], seed=fold), csv_sha256={'train': str(fold) * 64})
    methods = load_methods(find_csvs([str(tmp_path / 'results')], 'results_test.csv'), draws=100)
    assert len(methods[0].runs) == 2 and settings_notes(methods) == []


def test_a_note_on_settings_is_not_in_the_table(tmp_path, capsys):
    for seed in (0, 1):
        change_config(write_run(tmp_path, f'set/plain/seed{seed}', ['x', 'y'], seed=seed), lr=.1 ** seed)
    main([str(tmp_path / 'results' / 'set'), '--draws', '100', '--format', 'csv'])
    out, err = capsys.readouterr()
    assert '* Note: plain pools runs whose settings differ: lr 1.0 (seed0) or 0.1 (seed1)\n' in err and 'Note' not in out


@pytest.mark.parametrize(('names', 'message'), [
    (['y', 'x', 'z'], r"class 0 is 'y' and 'x' \(the same names in another order\)"), (['x', 'y', 'q'], "class 2 is 'q' and 'z'"),
    (['x', 'y'], '2 and 3')])
def test_methods_with_different_classes_are_refused(tmp_path, names, message):
    write_run(tmp_path, 'one', ['x', 'y', 'z'])
    write_run(tmp_path, 'two', names)  # with fewer classes, the images differ too
    with pytest.raises(InputError, match=rf'two/results_test\.csv and .*one/results_test\.csv differ in their classes: {message}'):
        main([str(tmp_path / 'results'), '--draws', '100'])


def test_kappa_needs_ordered_classes(tmp_path, capsys):
    run = write_run(tmp_path, 'one', ['x', 'y', 'z'])
    headings = []
    for metric, flags in (('bacc', []), ('kappa', []), ('kappa', ['--no-ordered'])):
        change_config(run, metric=metric)
        main([str(tmp_path / 'results'), '--draws', '100', *flags])
        headings.append('KAPPA' in capsys.readouterr().out)
    assert headings == [False, True, False]


def test_accuracy_is_shown_but_not_ranked(results):
    methods = load_methods(find_csvs([results], 'results_test.csv'), draws=100)
    assert 'ACC' in columns_of([summary(method) for method in methods])[0] and 'acc' not in RANKED


def test_folds_are_resampled_independently_and_repeats_together(results):
    methods = {m.name[:-4]: m for m in load_methods(find_csvs([results], 'results_test.csv'), draws=400)}
    draws = {s: [r.draws['metrics', 'bacc'] for r, k in zip(methods['good'].runs, methods['good'].image_sets, strict=True) if k == s]
             for s in set(methods['good'].image_sets)}
    (a, b), (c, _) = draws.values()
    assert np.corrcoef(a, b)[0, 1] > .3 and abs(np.corrcoef(a, c)[0, 1]) < .2


def test_markdown(results, capsys):
    main([results, '--baseline', 'bad/net', '--draws', '100'])
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith('|')]
    assert len(lines) == 5 + 5 + 4 and lines[0].split('|')[1].strip() == 'method' and 'not all methods' in err
    assert {len(line) for line in lines[:5]} == {len(lines[0])} and lines[0].endswith(' R DR4 |')
    assert lines[-1].count('+') > 4 and 'Difference from bad/net' in out


def test_only_the_kinds_of_intervals_shown_are_named(tmp_path, capsys):
    """The difference of the baseline to itself is 0 with another kind of interval, but it has no row."""
    for seed in range(2):
        write(tmp_path / 'a' / f'seed{seed}' / 'results_test.csv', random_table(seed)._replace(labels=random_table(0).labels))
        write(tmp_path / 'b' / f'seed{seed}' / 'results_test.csv', random_table(seed + 2)._replace(labels=random_table(0).labels))
    main([str(tmp_path), '--baseline', 'b', '--draws', '100'])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('Difference from'))
    assert 'Student' in line and 'standard errors' not in line


def test_copies_of_a_file_give_a_note(tmp_path, capsys):
    for seed in range(3):
        write(tmp_path / 'a' / f'seed{seed}' / 'results_test.csv', random_table(max(seed, 1))._replace(labels=random_table(0).labels))
    main([str(tmp_path), '--draws', '100'])
    err = capsys.readouterr().err
    assert 'seed0/results_test.csv and ' in err and 'are identical, so they are not separate runs' in err and 'seed2' not in err
    evaluate([str(tmp_path / 'a' / f'seed{seed}' / 'results_test.csv') for seed in (0, 1)] + ['--draws', '100'])
    assert 'are identical' in capsys.readouterr().err


def test_csv(results, capsys):
    main([results, '--format', 'csv', '--baseline', 'bad/net', '--draws', '100'])
    rows = {(row['method'], row['metric']): row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert len(rows) == 3 * (11 + 5 * 5)
    row = rows['good/net', 'bacc']
    assert float(row['low']) < float(row['mean']) < float(row['high']) and float(row['difference_low']) > 0 and row['runs'] == '4'
    assert rows['bad/net', 'bacc']['difference'] == '0.0' and 'recall DR3' in {metric for _, metric in rows}


def test_errors(results):
    with pytest.raises(InputError, match=r'--baseline best: no such method; there are .*good/net'):
        main([results, '--baseline', 'best'])


def test_tables():
    rows = [['a_b', 'c'], ['x|y', '1 ± 2'], ['50 %', '-']]
    assert to_text(rows).splitlines() == ['a_b       c', '-----------', 'x|y   1 ± 2', '50 %      -']
    assert to_markdown(rows).splitlines()[:3] == ['| a_b  |     c |', '|------|------:|', r'| x\|y | 1 ± 2 |']
    assert r'a\_b & c \\' in to_latex(rows) and r'x\textbar{}y & 1 $\pm$ 2 \\' in to_latex(rows) and r'50 \% & - \\' in to_latex(rows)
    assert to_latex(rows).startswith(r'\begin{tabular}{lr}')


def latex(capsys, results, *flags):
    """-> comments of the LaTeX table, and its rows as lists of cells"""
    main([results, '--draws', '100', '--format', 'latex', *flags])
    lines = capsys.readouterr().out.splitlines()
    return [line[2:] for line in lines if line[:2] == '% '], [line.removesuffix(r' \\').split(' & ') for line in lines if '&' in line]


def test_the_latex_table_has_the_chosen_scores_and_the_best_in_bold(results, capsys):
    comments, rows = latex(capsys, results, '--metrics', 'bacc', 'nll')
    methods = load_methods(find_csvs([results], 'results_test.csv'), draws=100)
    assert rows[0] == ['Method', 'balanced accuracy', 'NLL'] and [row[0] for row in rows[1:]] == [method.name for method in methods]
    means = [summary(method)['metrics', 'bacc'] for method in methods]
    best = max(range(3), key=lambda i: means[i]['value'])
    for i, (row, mean) in enumerate(zip(rows[1:], means, strict=True)):
        value = f"{100 * mean['value']:.1f}"
        sd = '' if mean['sd'] is None else rf" $\pm$ {100 * mean['sd']:.1f}"
        assert row[1] == (rf'\textbf{{{value}}}' if i == best else value) + sd
    smallest = min(float(row[2].replace(r'\textbf{', '').replace('}', '').split()[0]) for row in rows[1:])
    assert [rf'\textbf{{{smallest:.3f}}}' in row[2] for row in rows[1:]].count(True) >= 1
    assert comments[0] == r'needs \usepackage{booktabs}' and 'good/net 4, bad/net 2, half/net 1' in comments[2]


def test_the_latex_table_with_intervals_and_decimals(results, capsys):
    _, rows = latex(capsys, results, '--metrics', 'acc', '--decimals', '2', '--spread', 'interval')
    assert all(re.fullmatch(r'(\\textbf\{)?\d+\.\d\d\}? \{\[\}\d+\.\d\d, \d+\.\d\d\{\]\}', row[1]) for row in rows[1:])


def test_the_latex_table_marks_certain_differences_from_the_baseline(results, capsys):
    _, rows = latex(capsys, results, '--metrics', 'acc', '--baseline', 'bad/net')
    methods = {method.name: method for method in load_methods(find_csvs([results], 'results_test.csv'), draws=100)}
    low = {name: difference(method, methods['bad/net'])['metrics', 'acc']['low'] for name, method in methods.items()}
    assert {row[0]: '{*}' in row[1] for row in rows[1:]} == {name: end > 0 for name, end in low.items()}
    assert low['good/net'] > 0 == low['bad/net']


def test_the_latex_table_of_a_single_run_has_intervals_and_no_bold(results, capsys):
    comments, rows = latex(capsys, f'{results}/F1/bad', '--metrics', 'acc', 'recall')
    assert rows[0] == ['Method', 'accuracy', *(f'recall of DR{c}' for c in range(5))] and all('{[}' in cell for cell in rows[1][1:])
    assert 'textbf' not in ''.join(rows[1]) and not any('bold' in comment for comment in comments)


def test_flags_of_the_latex_table_have_no_effect_on_others(results, capsys):
    main([results, '--draws', '100', '--metrics', 'acc'])
    assert '* Warning: --metrics acc has no effect without --format latex' in capsys.readouterr().out
