"""Duplicate search, compared with brute force in float64 and on altered pictures, and tools.check_data on sets with problems."""
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tests.factories import picture
from tests.next_steps import next_words, parse
from tools import check_data
from utils.common import run_script
from utils.data import near_duplicates
from utils.data.near_duplicates import SIDE, scan_image, similar_pairs


@pytest.fixture
def look(tmp_path):
    def run(image, quality=95):
        image.save(tmp_path / 'x.jpg', quality=quality)
        return scan_image(tmp_path / 'x.jpg')
    return run


@pytest.fixture
def prints_of(look):
    """Return the fingerprints of (Pillow image, JPEG quality) pairs."""
    return lambda *images: np.stack([np.frombuffer(look(*pair).fingerprint, np.int8) for pair in images]).reshape(-1, SIDE, SIDE)


def eye(seed):
    """Draw a bright disc on black with dark branches. As in photographs of eyes, the outline is always the same."""
    rng, image = np.random.default_rng(seed), Image.new('RGB', (160, 120))
    draw = ImageDraw.Draw(image)
    draw.ellipse((25, 5, 135, 115), fill=(200, 110, 60))
    for x, y in rng.uniform((30, 10), (130, 110), (9, 2)):
        draw.line((80, 60, x, y), fill=(120, 40, 30), width=4)
    return image.filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize('similarity', [.6, .75, .9])
def test_search_agrees_with_brute_force(similarity, monkeypatch):
    monkeypatch.setattr(near_duplicates, 'BLOCK', 37)
    rng, n = np.random.default_rng(0), 100
    prints = rng.integers(-60, 60, (n, 6, 6)).astype(np.int8)
    for i in range(1, n, 2):  # every second picture is its neighbour rotated or mirrored, plus noise
        side = prints[i - 1] if i % 4 == 1 else prints[i - 1][:, ::-1]
        prints[i] = np.rot90(side, i % 8 // 2) + rng.integers(0, 1 + i // 2, (6, 6)).astype(np.int8)
    prints[7] = 0
    unit = prints.reshape(n, -1) / np.maximum(np.linalg.norm(prints.reshape(n, -1).astype(float), axis=1, keepdims=True), 1)
    unit = unit.reshape(n, 6, 6)
    views = [np.rot90(side, k, (1, 2)) for side in (unit, unit[:, :, ::-1]) for k in range(4)]
    cosine = np.max([np.einsum('axy,bxy->ab', view, unit) for view in views], axis=0)
    expected = [[i, j] for i in range(n) for j in range(i + 1, n) if cosine[i, j] >= similarity]
    assert similar_pairs(prints, similarity).tolist() == expected and len(expected) > 5
    assert np.abs(cosine - similarity)[cosine < 1 - 1e-9].min() > 1e-6  # no pair close to the limit


@pytest.mark.parametrize('draw', [picture, eye])
def test_copies_are_found_and_other_pictures_are_not(draw, prints_of):
    image = draw(0)
    copies = [(image.resize((80, 60)), 90), (image, 30), (ImageEnhance.Brightness(image).enhance(1.3), 90), (image.convert('L'), 90),
              (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90), (image.rotate(90, expand=True), 90),
              (image.transpose(Image.Transpose.TRANSVERSE), 60), (image.crop((2, 2, image.width - 2, image.height - 2)), 95)]
    prints = prints_of((image, 95), *copies, *((draw(seed), 95) for seed in range(1, 20)))
    pairs = similar_pairs(prints, check_data.SIMILARITY).tolist()
    assert [pair for pair in pairs if pair[0] == 0] == [[0, i] for i in range(1, len(copies) + 1)]
    assert max(max(pair) for pair in pairs) <= len(copies)


def test_blank_and_dark_pictures_have_no_duplicates(look, prints_of):
    dark = Image.new('RGB', (90, 90))
    dark.paste(picture(0, (20, 20)), (30, 30))
    prints = prints_of((Image.new('RGB', (90, 90), 'white'), 95), (Image.new('RGB', (80, 80)), 95), (dark, 95), (dark, 90))
    assert not prints.any() and not any(len(similar_pairs(some, check_data.SIMILARITY)) for some in (prints, prints[:0]))
    assert look(dark).note == 'too dark to search for duplicates' and look(Image.new('L', (90, 90))).note == 'a single colour'


@pytest.fixture
def tool(tmp_path, monkeypatch, capsys):
    for i in range(6):
        picture(i).save(tmp_path / f'{i}.jpg', quality=95)
    picture(0).save(tmp_path / 'copy.jpg', quality=50)
    shutil.copy(tmp_path / '1.jpg', tmp_path / 'same.jpg')

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
    assert status == 0 and 'train.csv: 2 images (1 / 1 per class)' in out and '\n* Found no problems\n' in out
    assert parse(next_words(out))[1].csv_val == 'val.csv'
    assert tool('0,a,0\ncopy,a,0\n1,b,1\n', '2,c,0\n')[0] == 0  # the same picture twice in one split is a note
    status, out = tool('0,a,0\n1,b,1\n', 'copy,a,1\n3,b,1\n', f'--out {tmp_path}/pairs.csv')
    assert status == 1 and '1 duplicate pair (the same picture) in train.csv and val.csv: 0.jpg = copy.jpg (classes 0 and 1)' in out
    assert '2 patients appear in both train.csv and val.csv: a, b' in out
    assert pd.read_csv(tmp_path / 'pairs.csv').kind.tolist() == ['the same picture']
    status, out = tool('0,a,0\n1,b,1\n', 'copy,c,0\nsame,d,1\n', '--similarity 1')
    assert status == 1 and 'copy.jpg' not in out
    assert 'problem: 1 duplicate pair (same file) in train.csv and val.csv: 1.jpg = same.jpg' in out


def test_tool_on_bad_files(tool, tmp_path):
    (tmp_path / '1.jpg').write_text('no image')
    Image.new('RGB', (9, 9)).save(tmp_path / '2.jpg')
    status, out = tool('0,a,0\n1,b,7\n/etc/hosts,c,1\n', '0,x,0\n2,y,1\nlost,z,1\n', '--n_classes 2')
    assert status == 1 and 'problem: 1 image lies outside of --data_path' in out
    assert '1 image appears in both train.csv and val.csv: 0.jpg' in out
    assert '1 of 3 images not found in' in out and 'note: 1 image: a single colour, only 9x9 pixels: 2.jpg (row 3)' in out
    assert '1 image cannot be read' in out and '1.jpg (row 3): not an image in a supported format' in out


def test_tool_uses_the_singular_for_one(tool):
    status, out = tool('0,a,0\n1,b,1\n', '2,c,7\n', '--n_classes 2')
    assert status == 1 and '\n* Found 1 problem: ' in out and 'val.csv: 1 image (' in out


def test_tool_on_labels_that_are_not_numbers(tool):
    status, out = tool('0,a,mel\n1,b,nv\n', '2,c,mel\n3,d,nv\n')
    assert status == 1 and 'train.csv: 2 images, no valid labels\n' in out and '..-1' not in out
    assert "column 'label' contains mel (row 2), nv (row 3) instead of class numbers: number the classes from 0" in out


def test_tool_notes_similar_patient_ids(tool):
    status, out = tool('0,001,0\n1,b,1\n', '2,1,0\n3,d,1\n')
    assert status == 0 and re.search(r'note: patient ids .*: 001 \(train\.csv\) and 1 \(val\.csv\)\n', out)


def test_tool_refuses_n_classes_below_one(tool):
    assert tool('0,a,0\n', '2,c,1\n', '--n_classes -1')[0] == 'error: --n_classes must be positive, not -1'
