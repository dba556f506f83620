import numpy as np
import pandas as pd
from PIL import Image

from utils.datasets.demo import SPLITS, counts_of, write_demo_data


def test_proportions():
    for n, at_least in SPLITS.values():
        counts = counts_of(n)
        assert counts.sum() == n
        np.testing.assert_allclose(counts / n, [.735, .07, .151, .025, .019], atol=1 / n)
        assert (counts_of(n, at_least) == np.maximum(counts, at_least)).all()


def test_the_images_depend_only_on_the_seed(tmp_path):
    sizes = {'train': (12, 1), 'val': (6, 1), 'test': (6, 2)}
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        write_demo_data(str(tmp_path / name), seed, sizes)
    table = pd.read_csv(tmp_path / 'a' / 'train_demo.csv')
    assert list(table.columns) == ['image_id', 'name', 'grade'] and sorted(set(table.grade)) == [0, 1, 2, 3, 4]

    def image(folder, i):
        return np.asarray(Image.open(tmp_path / folder / 'images' / f'{i}.jpg'))
    first = image('a', 'train_0000')
    assert first.shape == (64, 64, 3) and 40 < first.mean() < 140 and first[:3, :3].max() < 30  # black corners
    assert (first == image('b', 'train_0000')).all() and (first != image('c', 'train_0000')).any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b', 'c']  # no temporary folder is left
