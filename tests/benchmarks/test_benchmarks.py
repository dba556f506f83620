"""Benchmarks of speed, memory and intervals, run on tiny data sets."""
import itertools
import json
import statistics
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import coverage_seeds, memory, photographs, scale, throughput
from benchmarks.images import spread_classes
from benchmarks.reference_loop import ReferenceLoop
from utils.data.files import find_images
from utils.get_loaders import ClassDataset


def test_throughput(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, 'rows', lambda *args: [])
    flags = f'--csv_train {tiny}/train.csv --csv_val {tiny}/val.csv --data_path {tiny}/images --n_classes 3 --im_size 32 --batch_size 4 ' \
            f'--model_name tiny_test --num_workers 0 --repeats 1 --n_images 24 --photographs {tiny}/images --json out.json'
    monkeypatch.setattr(sys, 'argv', ['throughput', *flags.split()])
    throughput.main()
    result = json.loads((tmp_path / 'out.json').read_text())
    rows = {row['name']: row for row in result['rows']}
    assert rows['training']['ratio'] == pytest.approx(statistics.median(turn['plain'] / turn['limit'] for turn in result['turns']))
    assert len(result['turns']) == 1 and all(value > 0 for turn in result['turns'] for value in turn.values())
    assert rows['difference of draft']['value'] == 0  # the images are smaller than the target, so draft has no effect
    assert [path.name for path in tmp_path.iterdir()] == ['out.json'] and 'of the network alone' in capsys.readouterr().out


def test_summary():
    turn = {'limit': 100., 'plain': 95., 'mixup': 80., 'classifier': 300., 'features': 9000., 'reference': 40.,
            'mixup epoch': 12., 'reference epoch': 30.}
    rows = {name: (value, ratio) for name, value, _, ratio, _ in throughput.summary([turn, turn], n_train=800, n_val=100)}
    assert rows['training'] == (95, .95) and rows['epoch with evaluations, Balanced-MixUp'] == (12, 2.5)
    # 12 s = 10 s of training and 2 s to evaluate 2 x 100 images
    assert rows['EyePACS, 30 epochs, projected'][0] == pytest.approx(30 * (31613 / 80 + 2 * 35.13) / 60)


def test_repeated_images(tiny, tmp_path):
    args = throughput.get_parser().parse_args(
        f'--csv_train {tiny}/train.csv --csv_val {tiny}/val.csv --data_path {tiny}/images --n_images 50'.split())
    throughput.choose_data(args, str(tmp_path))
    data = ClassDataset(args.csv_train, args.data_path, (8, 8))
    original = ClassDataset(tiny / 'train.csv', tiny / 'images', (8, 8))
    order = spread_classes(original.labels)
    assert len(data) == len(set(data.paths)) == 50
    assert torch.equal(data[23][0], original[order[1]][0]) and data.labels[23] == original.labels[order[1]]
    assert len(ClassDataset(args.csv_val, args.data_path)) == 9


SORTED = [0] * 80 + [1] * 16 + [2] * 4


def test_every_class_is_among_the_first_images():
    assert [SORTED[i] for i in spread_classes(SORTED)[:3]] == [0, 1, 2]


def test_a_part_of_the_images_keeps_the_class_proportions():
    labels = np.array(SORTED)[spread_classes(SORTED)[:50]]
    np.testing.assert_allclose(np.bincount(labels), [40, 8, 2], atol=1)


def test_spreading_the_classes_keeps_every_image():
    assert sorted(spread_classes(SORTED)) == list(range(100))


def test_scale():
    small, large = scale.measure(rows=(40, 80), classes=(5,))
    assert (small['rows'], large['rows'], small['classes']) == (40, 80, 5) and all(value >= 0 for value in large.values())
    assert scale.table_text([small, large]).count('\n') == 2


def test_photographs(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for i in range(9):
        Image.effect_noise((1100, 1100), 40).save(tmp_path / 'in' / f'{i}.jpg')
    rows = photographs.rows(str(tmp_path / 'in'), str(tmp_path))
    assert [row[2] for row in rows] == ['ms'] * 4 + ['levels'] and 0 < rows[-1][1] < 20


def test_reference_loop(tiny):
    loop = ReferenceLoop(tiny / 'train.csv', tiny / 'val.csv', tiny / 'images', 3, 'tiny_test', (32, 32), 4, 0, .2, torch.device('cpu'))
    training, total = loop.epoch()
    assert 0 < training < total and len(loop.combo) == 5
    table = pd.read_csv(tiny / 'train.csv')
    assert loop.train.dataset.paths == find_images(table.image_id, tiny / 'images')


def test_peak_memory():
    host, device = memory.run('import numpy; x = numpy.ones(2 ** 26, numpy.uint8)', [])
    assert host > 64 and device >= 0


def test_page_faults():
    assert memory.page_faults('') >= 0


def test_rates_of_simulated_intervals():
    one, two = (-.1, .1, .4, .6), (.1, .2, .6, .7)  # low and high of a difference, then of a mean
    row, = coverage_seeds.rates([{(2, 'images', 'bacc'): one}, {(2, 'images', 'bacc'): two}] * 2, {'bacc': .5})
    assert (row['sets'], row['type_1_error'], row['coverage'], row['width_mean']) == (4, .5, .5, pytest.approx(.15))


def test_every_way_gives_intervals():
    intervals = coverage_seeds.repetition('small', 100, 0)
    assert {way for _, way, _ in intervals} == set(coverage_seeds.WAYS)
    assert all(low <= high and mean_low <= mean_high for low, high, mean_low, mean_high in intervals.values())


def test_the_ratio_of_training_noise_to_image_noise_does_not_depend_on_the_size():
    noise = [coverage_seeds.network_noise('equal', n, np.random.default_rng(0)) * n ** .5 for n in coverage_seeds.SIZES]
    np.testing.assert_allclose(*noise)


def test_the_report_compares_the_default_interval_with_that_of_images():
    rows = [{'n': n, 'effect': effect, 'seeds': seeds, 'way': way, 'metric': name, 'sets': 1, 'coverage': .95, 'width_mean': .1,
             'type_1_error': .25 if way == 'images' else .05}
            for n, effect, seeds, way, name in itertools.product(coverage_seeds.SIZES, coverage_seeds.TRAINING_NOISE, coverage_seeds.SEEDS,
                                                                 coverage_seeds.WAYS, coverage_seeds.METRICS)]
    text = coverage_seeds.report({(600, 'equal'): dict.fromkeys(coverage_seeds.METRICS, (.5, .02, .01))}, rows)
    assert text.count('25.0 / 5.0') == 12 * len(coverage_seeds.METRICS) and '2.0 / 1.0' in text
