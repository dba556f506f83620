"""BatchNorm statistics with and without mixing, for a tiny run."""
import re

import pytest
import torch

from benchmarks import batchnorm_statistics
from benchmarks.batchnorm_statistics import compare, unmixed_batches
from utils.get_loaders import ClassDataset
from utils.model_saving_loading import load_model, read_checkpoint
from utils.prediction.inference import Normalise


@pytest.fixture
def run(train):
    return str(train('--n_epochs 2 --do_mixup 0.3 --augment none --batch_size 4'))


def ratio(lines):
    return float(re.fullmatch(r'  variance as trained / unmixed: ([\d.]+) \([\d.]+ to [\d.]+\)', lines[3])[1])


def test_both_statistics_are_scored(run, tiny):
    lines = compare(run, str(tiny / 'val.csv'))
    assert lines[0] == f'{run}:' and len(lines) == 4
    assert all(re.fullmatch(r'  [a-z ]+: bacc [\d.]+, mcc -?[\d.]+, auc [\d.]+', line) for line in lines[1:3])


def test_the_ratio_is_that_of_the_variances(run, tiny, monkeypatch):
    def doubled(path):
        loaded = load_model(path)
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var *= 2
        return loaded

    before = ratio(compare(run, str(tiny / 'val.csv')))
    monkeypatch.setattr(batchnorm_statistics, 'load_model', doubled)
    assert ratio(compare(run, str(tiny / 'val.csv'))) == pytest.approx(2 * before, abs=.003)


def test_the_batches_are_those_of_an_epoch(run, tiny):
    config = read_checkpoint(run)['config']
    dataset = ClassDataset(config['csv_train'], config['data_path'], (32, 32))
    batches = list(unmixed_batches(dataset, config, Normalise('cpu', (0, 0, 0), (1, 1, 1))))
    assert [len(batch) for batch in batches] == [4] * 5  # 22 images, whole batches
    images = {tuple((255 * image).round().int().flatten().tolist()) for image in torch.cat(batches)}
    assert len(images) == 20 and images < {tuple(dataset[i][0].flatten().tolist()) for i in range(22)}
