"""Decoding of images: formats, reduced JPEG sizes, file names."""
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from utils.data import images
from utils.data.check_data import check_data
from utils.data.images import read_image
from utils.data.new_images import why_unreadable
from utils.get_loaders import ClassDataset


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for mode, name in (('RGB', 'rgb.jpg'), ('L', 'grey.png'), ('RGBA', 'alpha.png'), ('CMYK', 'cmyk.jpeg'), ('P', 'palette.png'),
                       ('RGB', 'UPPER.JPG')):
        Image.fromarray(pixels, 'RGBA').convert(mode).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize('name', ['rgb.jpg', 'grey.png', 'alpha.png', 'cmyk.jpeg', 'palette.png'])
def test_read_image(folder, name):
    image = read_image(folder / name, (11, 17))
    assert image.shape == (3, 11, 17) and image.dtype == torch.uint8
    with Image.open(folder / name) as opened:
        opened = opened.convert('RGBA') if opened.mode == 'P' else opened  # Pillow warns of transparency
        expected = np.asarray(opened.convert('RGB').resize((17, 11), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize('kind', ['EPS', 'JPEG2000', 'PCX', 'TGA', 'SGI', 'ICO', 'DDS'])
def test_other_formats_are_refused(tmp_path, monkeypatch, kind):
    """The extension does not matter. For EPS, Pillow would start Ghostscript."""
    Image.new('RGB', (20, 16), 'red').save(tmp_path / 'a.jpg', kind)
    monkeypatch.setattr(EpsImagePlugin, 'EpsImageFile', None)
    with pytest.raises(OSError, match=r'^not an image in a supported format \(JPEG, PNG, TIFF, BMP, WEBP, GIF, PPM\)$'):
        read_image(tmp_path / 'a.jpg', (8, 8))


@pytest.mark.parametrize(('kind', 'name'), [('MPO', 'a.jpg'), ('JPEG', 'a.png'), ('PNG', 'a.jpg'), ('TIFF', 'a.tif'), ('BMP', 'a.bmp'),
                                            ('WEBP', 'a.webp'), ('GIF', 'a.gif'), ('PPM', 'a.pnm')])
def test_each_known_format_is_read(tmp_path, kind, name):
    """The extension does not matter. Of a JPEG with several pictures (MPO), the first is read."""
    more = {'append_images': [Image.new('RGB', (20, 16), 'blue')], 'save_all': True} if kind == 'MPO' else {}
    Image.new('RGB', (20, 16), 'red').save(tmp_path / name, kind, **more)
    assert (read_image(tmp_path / name, (8, 8))[:, 4, 4] - torch.tensor([255, 0, 0])).abs().max() < 3
    assert images.describe_image((tmp_path / name).read_bytes()) == (1 + len(more) // 2, (20, 16), 'P' if kind == 'GIF' else 'RGB')


def test_draft_of_large_jpeg(tmp_path):
    """A JPEG decoded at a reduced size has nearly the same pixels, also when EXIF rotates it."""
    y, x = np.mgrid[:1200, :1600]
    smooth = np.stack([128 + 100 * np.sin(x / 90), 128 + 100 * np.cos(y / 70), (x + y) / 12], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    for name, kwargs, array in (('plain.jpg', {}, smooth), ('turned.jpg', {'exif': exif}, np.rot90(smooth, -1))):
        Image.fromarray(smooth).save(tmp_path / name, quality=95, **kwargs)
        expected = np.asarray(Image.fromarray(array).resize((160, 96), Image.Resampling.BILINEAR), float)
        difference = np.abs(read_image(tmp_path / name, (96, 160)).permute(1, 2, 0).numpy() - expected)
        assert difference.mean() < 2 and difference.max() < 25


@pytest.mark.parametrize('target', [(11, 17), (64, 64), (100, 75), (512, 640)])
def test_draft_stays_at_or_above_the_target(tmp_path, monkeypatch, target):
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, 'resize', lambda image, *args: sizes.append(image.size) or resize(image, *args))
    for full in ((900, 700), (640, 512), (511, 130), (129, 1030)):
        Image.new('RGB', full).save(tmp_path / 'a.jpg')
        read_image(tmp_path / 'a.jpg', target)
        assert all(decoded >= min(wanted, whole) for decoded, wanted, whole in zip(sizes[-1], target[::-1], full, strict=True))
    assert target != (64, 64) or sizes[0] == (113, 88)  # an eighth


def test_draft_of_photographs(real_data):
    """Decoding at reduced size is as good as in full: the mean difference is a fifth of one of 256 grey levels."""
    files = sorted((Path(real_data) / 'eyepacs_sample').iterdir())[:4]
    for file in files:
        with Image.open(file) as image:
            expected = np.asarray(image.convert('RGB').resize((512, 512), Image.Resampling.BILINEAR), float)
        difference = np.abs(read_image(file, (512, 512)).permute(1, 2, 0).numpy() - expected)
        assert difference.mean() < .3 and difference.max() < 12


@pytest.mark.parametrize(('name', 'image_id'), [('with space.jpg', 'with space'), ('größe.jpg', 'größe'), ('日本 1.png', '日本 1.png'),
                                               (unicodedata.normalize('NFD', 'größe.jpg'), 'größe')])
def test_names(tmp_path, name, image_id):
    Image.new('RGB', (9, 9)).save(tmp_path / name)
    (tmp_path / image_id.removesuffix('.png')).mkdir()  # a folder of that name is not an image
    (tmp_path / 'a.csv').write_text(f'image_id,label\n{image_id},0\n', encoding='utf-8')
    data = ClassDataset(tmp_path / 'a.csv', str(tmp_path), (8, 8))
    assert data[0][0].shape == (3, 8, 8)
    assert check_data({'test': data}, 2) == []


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    for read in (images.open_rgb, lambda path: read_image(path, (8, 8))):
        with pytest.raises(OSError, match=r'a\.jpg. is not a regular file'):
            read(tmp_path / 'a.jpg')
    assert why_unreadable(str(tmp_path / 'a.jpg')) == 'is not a regular file'
