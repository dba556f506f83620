"""Duplicates: the banded search against all pairs, pictures saved anew, and the tool on a set with leaks."""
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tools import check_data
from utils.common import run_script
from utils.duplicates import MAX_DIFFERENCE, MAX_DISTANCE, look_at, near_pairs


def picture(seed, size=(120, 160)):
    """Smooth random colours, as photographs are at this scale."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize('distance', [0, 3, 6])
def test_search_finds_what_all_pairs_find(distance):
    rng = np.random.default_rng(distance)
    n = 300
    bits, grey = rng.integers(0, 2**64, n, dtype=np.uint64), rng.integers(0, 256, (n, 256), dtype=np.uint8)
    for i in range(1, n, 2):  # every second one is its neighbour with some bits turned
        turned = rng.choice(64, int(rng.integers(0, 9)), replace=False).astype(np.uint64)
        bits[i] = bits[i - 1] ^ np.bitwise_or.reduce(np.uint64(1) << turned)
        grey[i] = grey[i - 1].clip(0, 245) + rng.integers(0, 10, dtype=np.uint8)
    levels = grey - grey.mean(1, keepdims=True)
    expected = [(i, j) for i in range(n) for j in range(i + 1, n)
                if int(bits[i] ^ bits[j]).bit_count() <= distance and np.abs(levels[i] - levels[j]).mean() <= 5]
    assert near_pairs(bits, grey, distance, 5.).tolist() == [list(pair) for pair in expected]
    assert len(expected) > 5 * (distance > 0)


def test_identical_pictures_cost_no_pairs_of_pairs():
    pairs = near_pairs(np.zeros(5000, np.uint64), np.zeros((5000, 256), np.uint8))
    assert pairs.tolist() == [[0, i] for i in range(1, 5000)]


def test_saved_anew(tmp_path):
    image = picture(0)
    for name, changed, quality in (('a', image, 95), ('b', image, 40), ('c', image.resize((60, 80)), 90), ('d', picture(1), 95)):
        changed.save(tmp_path / f'{name}.jpg', quality=quality)
    looks = [look_at(tmp_path / f'{name}.jpg') for name in 'abcd']
    grey = np.stack([np.frombuffer(look.grey, np.uint8) for look in looks])
    assert near_pairs(np.array([look.bits for look in looks], np.uint64), grey).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert MAX_DISTANCE == 6 and MAX_DIFFERENCE == 4  # measured: docs/reliability.md


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    for i in range(6):
        picture(i).save(tmp_path / f'{i}.jpg', quality=95)
    picture(0).save(tmp_path / 'copy.jpg', quality=50)

    def run(train, val, flags=''):
        for name, rows in (('train', train), ('val', val)):
            (tmp_path / f'{name}.csv').write_text('image_id,patient_id,label\n' + rows)
        argv = f'check --data_path {tmp_path} --num_workers 1 {tmp_path}/train.csv {tmp_path}/val.csv {flags}'
        monkeypatch.setattr(sys, 'argv', argv.split())
        with pytest.raises(SystemExit) as end:
            run_script(check_data.main)
        return end.value.code, capsys.readouterr().out.replace(f'{tmp_path}/', '')
    return run


def test_tool(tool, tmp_path):
    status, out = tool('0,a,0\n1,b,1\n', '2,c,0\n3,d,1\n')
    assert status == 0 and 'train.csv: 2 images of classes 1 / 1' in out and out.endswith('* Nothing wrong\n')
    assert tool('0,a,0\ncopy,a,0\n1,b,1\n', '2,c,0\n')[0] == 0  # the same picture twice in one split is a note
    status, out = tool('0,a,0\n1,b,1\n', 'copy,a,1\n3,b,1\n', f'--out {tmp_path}/pairs.csv')
    assert status == 1 and '1 pairs, nearly the same picture, in train.csv and val.csv: 0.jpg = copy.jpg (classes 0 and 1)' in out
    assert '2 patients stand in train.csv and in val.csv: a, b' in out
    assert pd.read_csv(tmp_path / 'pairs.csv').kind.tolist() == ['nearly the same picture']


def test_tool_on_bad_files(tool, tmp_path):
    (tmp_path / '1.jpg').write_text('no image')
    Image.new('RGB', (9, 9)).save(tmp_path / '2.jpg')
    status, out = tool('0,a,0\n1,b,7\n/etc/hosts,c,1\n', '0,x,0\n2,y,1\nlost,z,1\n', '--n_classes 2')
    assert status == 1 and 'wrong: 1 images lie outside of --data_path' in out
    assert '1 images stand in train.csv and in val.csv: 0.jpg' in out
    assert '1 of 3 images not found in' in out and 'note: 1 images: one colour only, only 9x9 pixels: 2.jpg (row 3)' in out
