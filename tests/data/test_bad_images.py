"""Unusual and damaged images: they are read correctly, or the error names file, row and fix."""
import io
import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.common import InputError
from utils.data import bad_images
from utils.data.bad_images import leave_out_bad_images, verify_images
from utils.data.images import read_image
from utils.get_loaders import ClassDataset

COLOUR = (200, 100, 50)


def encoded(image, form, **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, form, **kwargs)
    return buffer.getvalue()


def plain(mode='RGB', size=(40, 30)):
    return Image.new('RGB', size, COLOUR).convert(mode)


def png_header(width, height):
    """Build a PNG whose header claims this size, like a decompression bomb."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(b'\0' * 100)) + chunk(b'IEND', b''))


GREY = round(.299 * 200 + .587 * 100 + .114 * 50)
JPEG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)), 'JPEG')


@pytest.mark.parametrize(('content', 'colour'), [
    (encoded(plain(), 'PNG'), COLOUR), (encoded(plain('CMYK'), 'JPEG', quality=95), COLOUR), (encoded(plain('L'), 'PNG'), (GREY,) * 3),
    (encoded(plain('P'), 'PNG'), COLOUR), (encoded(plain('P'), 'PNG', transparency=bytes(range(200))), COLOUR),
    (encoded(plain('RGBA'), 'PNG'), COLOUR),
    (encoded(plain('LA'), 'PNG'), (GREY,) * 3), (encoded(plain('1'), 'PNG'), None),
    (encoded(Image.fromarray(np.full((30, 40), 100 * 257, np.uint16)), 'PNG'), (100,) * 3),
    (encoded(Image.fromarray(np.full((30, 40), 100 * 257, np.uint16)), 'TIFF'), (100,) * 3),
    (encoded(plain(), 'GIF', save_all=True, append_images=[Image.new('RGB', (40, 30))]), COLOUR),
    (encoded(plain(size=(1, 1)), 'PNG'), COLOUR), (encoded(plain(size=(30000, 2)), 'PNG'), COLOUR),
], ids=['wrong_extension', 'cmyk', 'grey', 'palette', 'palette_alpha', 'alpha', 'grey_alpha', 'bilevel',
        '16bit_png', '16bit_tiff', 'animated', '1px', '30000px'])
def test_good_image(tmp_path, content, colour, recwarn):
    (tmp_path / 'a.jpg').write_bytes(content)
    image = read_image(tmp_path / 'a.jpg', (8, 12))
    assert image.shape == (3, 8, 12) and not recwarn.list
    if colour:
        assert np.abs(image.numpy().astype(int).mean((1, 2)) - colour).max() < 12


def test_exif_rotates_the_image(tmp_path):
    pixels, exif = np.zeros((20, 40, 3), np.uint8), Image.Exif()
    pixels[:, 20:] = 255
    exif[0x0112] = 6  # the camera was rotated: the right half belongs at the bottom
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    image = read_image(tmp_path / 'a.jpg', (40, 20)).numpy()
    assert image[:, :15].max() < 60 and image[:, 25:].min() > 200


BAD = {'truncated': (JPEG[:len(JPEG) // 2], 'truncated'), 'empty': (b'', 'the file is empty'), 'text': (b'not an image', 'not an image'),
       'bomb': (png_header(30000, 30000), 'exceeds limit .* could be decompression bomb'), 'broken_png': (png_header(40, 40), '.'),
       'no_range': (encoded(Image.fromarray(np.ones((9, 9), np.float32)), 'TIFF'), 'unknown range')}


@pytest.fixture
def dirty(tiny, tmp_path):
    """Copy the tiny set with one damaged and one missing training image; return flags for train_lt_mxp.py and the ids."""
    def make(content):
        (tmp_path / 'images').mkdir(exist_ok=True)
        for name in os.listdir(tiny / 'images'):
            (tmp_path / 'images' / name).write_bytes((tiny / 'images' / name).read_bytes())
        table = pd.read_csv(tiny / 'train.csv')
        (tmp_path / 'images' / f'{table.image_id[0]}.jpg').write_bytes(content)
        os.remove(tmp_path / 'images' / f'{table.image_id[4]}.jpg')
        return f'--csv_train {tiny}/train.csv --csv_val {tiny}/val.csv --data_path {tmp_path}/images', table.image_id
    return make


@pytest.mark.parametrize('kind', BAD)
def test_bad_image(tmp_path, kind):
    content, message = BAD[kind]
    for name in ('bad.jpg', 'good.jpg'):
        (tmp_path / name).write_bytes(content if name == 'bad.jpg' else JPEG)
    bad, hashes = verify_images([str(tmp_path / 'bad.jpg'), str(tmp_path / 'good.jpg')], n_threads=2)
    assert list(bad) == [str(tmp_path / 'bad.jpg')] and list(hashes) == [str(tmp_path / 'good.jpg')]
    with pytest.raises(OSError, match=message):
        read_image(tmp_path / 'bad.jpg', (8, 8))
    (tmp_path / 'a.csv').write_text('image_id,label\ngood,0\nbad,1\n')
    data = ClassDataset(tmp_path / 'a.csv', str(tmp_path))
    leave_out_bad_images([data], 1)
    assert data.image_ids == ['good'] and data.rows.tolist() == [2] and data.labels.tolist() == [0] and len(data.table) == 1
    assert [row[1:3] for row in data.skipped] == [(3, 'bad')]


def test_skip_bad_images(train, dirty, capsys, monkeypatch):
    run = train('--overwrite')
    before = sorted(file.name for file in run.iterdir())
    flags, ids = dirty(BAD['truncated'][0])
    with pytest.raises(InputError, match=rf'1 of 22 images not found in .*: {ids[4]} \(row 6\)'):
        train(f'--overwrite {flags}')
    assert before == sorted(file.name for file in run.iterdir())
    train(f'--overwrite --skip_bad_images {flags}')
    assert 'Skipped 2 of 22 images of' in capsys.readouterr().out
    skipped = pd.read_csv(run / 'skipped.csv')
    assert skipped.image_id.tolist() == [ids[0], ids[4]] and skipped.row.tolist() == [2, 6]
    assert 'truncated' in skipped.reason[0] and skipped.reason[1] == 'no such file'
    monkeypatch.setattr(bad_images, 'verify_images', None)  # the next run reads the saved list
    train(f'--overwrite --skip_bad_images {flags}')
    assert skipped.equals(pd.read_csv(run / 'skipped.csv'))
    train('--overwrite')
    assert not (run / 'skipped.csv').exists()


def test_resuming_with_other_images_is_refused(train, dirty, tmp_path):
    flags, ids = dirty(BAD['truncated'][0])
    run = train(f'--skip_bad_images {flags}')
    (run / 'val_metrics.txt').unlink()  # as if it were interrupted
    train(f'--skip_bad_images --resume {flags}')
    (run / 'val_metrics.txt').unlink()
    (tmp_path / 'images' / f'{ids[0]}.jpg').write_bytes(JPEG)
    with pytest.raises(InputError, match=r'cannot be resumed: the images that cannot be read are not those listed in .*skipped\.csv'):
        train(f'--skip_bad_images --resume {flags}')


@pytest.mark.parametrize('cache', ['', '--no_cache'])
def test_a_bad_image_is_found_before_the_old_run_is_overwritten(train, tiny, dirty, tmp_path, cache):
    run = train('')
    flags, ids = dirty(BAD['bomb'][0])
    (tmp_path / 'images' / f'{ids[4]}.jpg').write_bytes(JPEG)
    (tmp_path / 'images' / 'val_2_1.jpg').write_bytes(JPEG[:300])
    train_line = rf'train\.csv: 1 image cannot be read \(--skip_bad_images .*{ids[0]}\.jpg \(row 2\): .*exceeds.*'
    with pytest.raises(InputError, match=rf'\n  - .*{train_line}\n  - .*val\.csv: 1 image .*val_2_1\.jpg \(row \d'):
        train(f'--overwrite {flags} {cache}')
    assert (run / 'val_metrics.txt').exists()


def test_bad_images_are_not_confused_with_those_of_another_folder(tmp_path, monkeypatch):
    """Paths, sizes and times are equal in two working folders that share --cache_dir; only the contents differ."""
    for folder, content in (('one', b'x' * len(JPEG)), ('two', JPEG)):
        (tmp_path / folder / 'images').mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        for name in ('a', 'b'):
            with open(f'images/{name}.jpg', 'wb') as f:
                f.write(content if name == 'a' else JPEG)
            os.utime(f'images/{name}.jpg', (0, 0))
        with open('a.csv', 'w') as f:
            f.write('image_id,label\na,0\nb,1\n')
        data = ClassDataset('a.csv', 'images')
        leave_out_bad_images([data], 1, str(tmp_path / 'cache'))
    assert data.image_ids == ['a', 'b']
