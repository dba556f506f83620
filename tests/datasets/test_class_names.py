"""Class names that a csv reader could misread are kept from the folders to the checkpoint, report, csvs and export."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tools import export_model, predict, prepare_folder_data
from utils.model_saving_loading import read_checkpoint
from utils.prediction.predictions import read_predictions
from utils.testing import scoring

NAMES = ['007', 'None', 'normal, "benign"']


def test_class_names_are_kept(train, tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / 'set' / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / 'set' / name / f'{i}.png')
    prepare_folder_data.main(['set', '--val_fraction', '.25', '--test_fraction', '.25'])
    assert pd.read_csv('data/train_set.csv', dtype=str, keep_default_na=False).groupby('label').name.unique().str[0].tolist() == NAMES
    train('--csv_train data/train_set.csv --data_path set --save_path a')
    assert read_checkpoint('experiments/a')['class_names'] == NAMES
    scoring.main('test', {'test': 'data/test_set.csv'}, 0, ['--load_path', 'experiments/a', '--num_workers', '0'])
    report = Path('results/a/performance_test.txt').read_text()
    assert all(f'{name}=' in report for name in NAMES)
    predict.main(['--load_path', 'experiments/a', 'set', '--num_workers', '0'])
    for file in ('results_test', 'predictions'):
        assert read_predictions(f'results/a/{file}.csv').class_names == NAMES
    assert read_predictions('results/a/predictions.csv').image_ids[-1] == 'normal, "benign"/7.png'
    loaded = export_model.load_model('experiments/a')
    export_model.write_safetensors('model.safetensors', loaded, {})
    assert json.loads(Path('model.json').read_text())['class_names'] == NAMES
