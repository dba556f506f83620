import itertools
import os
import threading
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from utils.common import InputError
from utils.data import images
from utils.data.check_data import check_data
from utils.data.images import find_images, list_images, read_image, stat_images
from utils.data.new_images import reason
from utils.get_loaders import ClassDataset


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    for mode, name in (('RGB', 'rgb.jpg'), ('L', 'grey.png'), ('RGBA', 'alpha.png'), ('CMYK', 'cmyk.jpeg'), ('P', 'palette.png'),
                       ('RGB', 'UPPER.JPG')):
        Image.fromarray(pixels, 'RGBA').convert(mode).save(tmp_path / name)
    return tmp_path


def test_find_images(folder):
    ids = ['rgb', 'rgb.jpg', 'grey', 'cmyk', 'UPPER', 'absent', 'rgb.png']
    names = [path and os.path.basename(path) for path in find_images(ids, str(folder))]
    assert names == ['rgb.jpg', 'rgb.jpg', 'grey.png', 'cmyk.jpeg', 'UPPER.JPG', None, None]
    assert find_images([str(folder / 'rgb')]) == [str(folder / 'rgb.jpg')]
    assert find_images(['x'], str(folder / 'nowhere')) == [None]


@pytest.mark.parametrize('name', ['a.Jpg', 'a.JFIF', 'a.webp', 'a.Ppm', 'a.gif', 'a.TiF', 'a.pgm'])
def test_an_extension_is_found_in_any_case(tmp_path, name):
    (tmp_path / name).touch()
    assert find_images(['a'], str(tmp_path)) == [str(tmp_path / name)]


@pytest.mark.parametrize('name', ['a.Jpg', 'a.JFIF', 'a.webp', 'a.ppm', 'a.gif'])
def test_a_folder_lists_each_kind_of_image(tmp_path, name):
    (tmp_path / name).touch()
    assert list_images(str(tmp_path)).images == [name]


def test_an_id_that_fits_several_files(tmp_path):
    for name in ('a.jpg', 'a.PNG', 'b.jpg', 'a.txt'):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r'^1 image id fits several files \(write the extension\): a \(row 3\): a\.PNG and a\.jpg$'):
        find_images(['b', 'a', 'a.jpg'], str(tmp_path), rows=[2, 3, 4])


def test_the_csv_of_an_id_that_fits_several_files_is_named(tmp_path):
    for name in ('a.jpg', 'a.png'):
        (tmp_path / name).touch()
    (tmp_path / 'a.csv').write_text('image_id,label\na,0\n')
    with pytest.raises(InputError, match=r'a\.csv: 1 image id fits several files .*: a \(row 2\): a\.jpg and a\.png'):
        ClassDataset(tmp_path / 'a.csv', str(tmp_path))


@pytest.mark.parametrize('image_id', ['a.jpg', 'a.png', 'a'])
def test_a_whole_name_means_its_file_alone(tmp_path, image_id):
    for name in ('a.jpg', 'a.png', 'a'):
        (tmp_path / name).touch()
    assert find_images([image_id], str(tmp_path)) == [str(tmp_path / image_id)]


def test_one_name_in_two_unicode_forms_is_one_file(tmp_path):
    name = unicodedata.normalize('NFD', 'größe')
    (tmp_path / f'{name}.jpg').touch()
    assert find_images(['größe', name], str(tmp_path)) == [str(tmp_path / f'{name}.jpg')] * 2


@pytest.mark.parametrize('name', ['rgb.jpg', 'grey.png', 'alpha.png', 'cmyk.jpeg', 'palette.png'])
def test_read_image(folder, name):
    image = read_image(folder / name, (11, 17))
    assert image.shape == (3, 11, 17) and image.dtype == torch.uint8
    with Image.open(folder / name) as opened:
        expected = np.asarray(opened.convert('RGB').resize((17, 11), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize('kind', ['EPS', 'JPEG2000', 'PCX', 'TGA', 'SGI', 'ICO', 'DDS'])
def test_other_formats_are_no_images(tmp_path, monkeypatch, kind):
    """Whatever the extension says; of EPS Pillow would start Ghostscript."""
    Image.new('RGB', (20, 16), 'red').save(tmp_path / 'a.jpg', kind)
    monkeypatch.setattr(EpsImagePlugin, 'EpsImageFile', None)
    with pytest.raises(OSError, match=r'^the content is no image \(JPEG, PNG, TIFF, BMP, WEBP, GIF, PPM\)$'):
        read_image(tmp_path / 'a.jpg', (8, 8))


@pytest.mark.parametrize(('kind', 'name'), [('MPO', 'a.jpg'), ('JPEG', 'a.png'), ('PNG', 'a.jpg'), ('TIFF', 'a.tif'), ('BMP', 'a.bmp'),
                                            ('WEBP', 'a.webp'), ('GIF', 'a.gif'), ('PPM', 'a.pnm')])
def test_each_known_format_is_read(tmp_path, kind, name):
    """Whatever the extension says; of a camera's JPEG with several pictures (MPO) the first."""
    more = {'append_images': [Image.new('RGB', (20, 16), 'blue')], 'save_all': True} if kind == 'MPO' else {}
    Image.new('RGB', (20, 16), 'red').save(tmp_path / name, kind, **more)
    assert (read_image(tmp_path / name, (8, 8))[:, 4, 4] - torch.tensor([255, 0, 0])).abs().max() < 3
    assert images.describe_image((tmp_path / name).read_bytes()) == (1 + len(more) // 2, (20, 16), 'P' if kind == 'GIF' else 'RGB')


@pytest.mark.parametrize('seconds', [1e-5, 1e-3])  # for the first four answers
def test_stat_images(folder, monkeypatch, seconds):
    """Threads where the files answer slowly, the same sizes and times in the same order."""
    paths = [*(str(path) for path in sorted(folder.iterdir())), None] * 9
    stat, helpers, clock = os.stat, set(), iter([0, seconds, 0, seconds])
    arrivals, three = itertools.count(), threading.Barrier(3)

    def waiting(path, **options):
        thread = threading.current_thread()
        if thread is not threading.main_thread() and thread not in helpers:
            helpers.add(thread)
            if next(arrivals) < 3:  # three of them at once, however fast the files answer
                three.wait(600)
        return stat(path, **options)
    expected = [[-1] * 4 if path is None else [stat(path).st_size, stat(path).st_mtime_ns, stat(path).st_dev, stat(path).st_ino]
                for path in paths]
    monkeypatch.setattr(images, 'time', SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(os, 'stat', waiting)
    assert stat_images(paths, chunk=4).tolist() == expected and stat_images([]).shape == (0, 4)
    assert (len(helpers) > 2) == (seconds > 2e-4)


def test_draft_of_large_jpeg(tmp_path):
    """Decoded at a reduced size that still covers the target: nearly the same pixels; also when EXIF turns the image."""
    y, x = np.mgrid[:1200, :1600]
    smooth = np.stack([128 + 100 * np.sin(x / 90), 128 + 100 * np.cos(y / 70), (x + y) / 12], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
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
    """As good as a full decode: the mean difference is a fifth of a grey level of 256."""
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
    (tmp_path / image_id.removesuffix('.png')).mkdir()  # a folder of that name is no image
    (tmp_path / 'a.csv').write_text(f'image_id,label\n{image_id},0\n', encoding='utf-8')
    data = ClassDataset(tmp_path / 'a.csv', str(tmp_path), (8, 8))
    assert data[0][0].shape == (3, 8, 8)
    check_data({'test': data}, 2)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'a.jpg')
    for read in (images.open_rgb, lambda path: read_image(path, (8, 8))):
        with pytest.raises(OSError, match=r'a\.jpg. is no regular file'):
            read(tmp_path / 'a.jpg')
    assert reason(str(tmp_path / 'a.jpg')) == 'is no regular file'
