"""Ensembles: means of probabilities, for any order of the rows."""
import numpy as np
import pandas as pd
import pytest

from tests.factories import random_table
from tests.report_files import write
from tools.ensemble_predictions import main
from utils.common import InputError
from utils.prediction.predictions import read_predictions


@pytest.fixture
def csvs(tmp_path):
    table = random_table(0, n=50, names=['=a', 'b', 'c'])
    others = [random_table(seed, n=50, names=['=a', 'b', 'c'])._replace(labels=table.labels) for seed in (1, 2)]
    paths = [write(tmp_path / f'{i}.csv', t) for i, t in enumerate((table, *others))]
    pd.read_csv(paths[1], dtype=str).sample(frac=1, random_state=0).to_csv(paths[1], index=False)
    return paths


@pytest.mark.parametrize('unlabelled', [[], [1], [0, 1, 2]])
def test_mean(tmp_path, csvs, capsys, unlabelled):
    for i in unlabelled:
        pd.read_csv(csvs[i], dtype=str).drop(columns='label').to_csv(csvs[i], index=False)
    out = tmp_path / 'new' / 'out.csv'
    main([*map(str, csvs), '--out', str(out)])
    frames = [pd.read_csv(csv, dtype={'image_id': str}).set_index('image_id') for csv in csvs]
    columns = [name for name in frames[0] if name.startswith('p_')]
    expected = sum(frame.loc[frames[0].index, columns].to_numpy() for frame in frames) / 3
    result = read_predictions(str(out))
    np.testing.assert_allclose(result.probs, expected, atol=1e-12)
    assert result.preds.tolist() == expected.argmax(axis=1).tolist() and result.class_names == ['=a', 'b', 'c']
    assert result.image_ids == frames[0].index.tolist() and (result.labels is None) == (len(unlabelled) == 3)
    assert ('tools.evaluate_predictions' in capsys.readouterr().out) == (len(unlabelled) < 3)


def test_errors(tmp_path, csvs):
    out = ['--out', str(tmp_path / 'out.csv')]
    with pytest.raises(InputError, match='at least two networks'):
        main([str(csvs[0]), *out])
    other = write(tmp_path / 'other.csv', random_table(3, n=50, names=['=a', 'b', 'd'])._replace(labels=read_predictions(csvs[0]).labels))
    with pytest.raises(InputError, match='differ in their classes'):
        main([str(csvs[0]), str(other), *out])
    frame = pd.read_csv(csvs[2], dtype=str)
    frame.iloc[1:].to_csv(tmp_path / 'less.csv', index=False)
    with pytest.raises(InputError, match='do not contain the same images'):
        main([str(csvs[0]), str(tmp_path / 'less.csv'), *out])
    frame.assign(label=frame.label.to_numpy()[::-1]).to_csv(tmp_path / 'labels.csv', index=False)
    with pytest.raises(InputError, match=r'have different labels for \d+ images'):
        main([str(csvs[0]), str(tmp_path / 'labels.csv'), *out])
    (tmp_path / 'out.csv').touch()
    with pytest.raises(InputError, match='use --overwrite to replace it'):
        main([*map(str, csvs), *out])
