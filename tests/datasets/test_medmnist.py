"""Preparation of MedMNIST files (.npz) and of crafted ones."""
import hashlib
import os
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from medmnist import evaluator

from tests.next_steps import next_words, parse
from tools import download_file
from tools.prepare_medmnist_data import known_set, main
from utils.common import InputError
from utils.data.check_data import check_data
from utils.datasets import npz_images
from utils.datasets.medmnist import SETS
from utils.evaluation import evaluate_multi_cls
from utils.get_loaders import ClassDataset


def arrays(shape=(28, 28, 3)):
    rng = np.random.default_rng(0)
    sizes = {'train': 12, 'val': 6, 'test': 7}
    return ({f'{split}_images': rng.integers(0, 256, (n, *shape), np.uint8) for split, n in sizes.items()}
            | {f'{split}_labels': (np.arange(n) % 3)[:, None].astype(np.uint8) for split, n in sizes.items()})


@pytest.mark.parametrize('shape', [(28, 28, 3), (28, 28)])
def test_contract(tmp_path, capsys, shape):
    data = arrays(shape)
    np.savez(tmp_path / 'eyemnist.npz', **data)
    main([str(tmp_path / 'eyemnist.npz'), '--class_names', 'None,mild,severe', '--out', str(tmp_path / 'eye')])
    sets = {split: ClassDataset(tmp_path / f'eye/{split}_eyemnist.csv', tmp_path / 'eye/images', (28, 28))
            for split in ('train', 'val', 'test')}
    assert check_data(sets, 3) == []
    assert sets['train'].class_names(3) == ['None', 'mild', 'severe']
    for split, part in sets.items():
        assert (part.labels == data[f'{split}_labels'][:, 0]).all()
        pixels = np.stack([part[i][0].permute(1, 2, 0).numpy() for i in range(len(part))])
        wanted = data[f'{split}_images']
        assert (pixels == (wanted if wanted.ndim == 4 else wanted[..., None])).all()
    assert parse(next_words(capsys.readouterr().out))[1].n_classes == 3
    with pytest.raises(InputError, match='exists: remove it'):
        main([str(tmp_path / 'eyemnist.npz'), '--out', str(tmp_path / 'eye')])


def test_by_name(tmp_path, monkeypatch, capsys):
    """The file is downloaded from the published address, checked and kept; the class names are those of the set."""
    monkeypatch.chdir(tmp_path)
    data = arrays()
    np.savez(tmp_path / 'served.npz', **{name: value % 2 if 'labels' in name else value for name, value in data.items()})
    served, urls = (tmp_path / 'served.npz').read_bytes(), []

    def download(url, out):
        urls.append(url)
        (tmp_path / 'data').mkdir(exist_ok=True)
        (tmp_path / out).write_bytes(served)
    monkeypatch.setattr(download_file, 'download', download)
    with pytest.raises(InputError, match=r'data/breastmnist_64\.npz is not the published file of .* delete it'):
        main(['breastmnist_64'])
    monkeypatch.setitem(SETS, 'breastmnist', SETS['breastmnist']._replace(md5=('', hashlib.md5(served).hexdigest(), '', '')))
    main(['breastmnist_64'])
    assert urls == ['https://zenodo.org/records/10519652/files/breastmnist_64.npz?download=1']
    part = ClassDataset('data/breastmnist_64/val_breastmnist_64.csv', 'data/breastmnist_64/images', (28, 28))
    assert check_data({'val': part}, 2) == []
    assert part.class_names(2) == ['malignant', 'normal, benign'] and 'Note' not in capsys.readouterr().out
    main(['data/breastmnist_64.npz', '--out', 'again'])
    (tmp_path / 'breastmnist.npz').write_bytes(served)
    main(['breastmnist.npz', '--out', 'other'])
    assert capsys.readouterr().out.count('is not the published file') == 1
    with pytest.raises(InputError, match='eyemnist is neither'):
        main(['eyemnist'])


def test_table_of_sets():
    digests = [md5 for one in SETS.values() for md5 in one.md5]
    assert len(set(digests)) == 4 * len(SETS) and all(re.fullmatch('[0-9a-f]{32}', md5) for md5 in digests)
    assert [len(SETS[name].class_names) for name in ('dermamnist', 'retinamnist', 'bloodmnist', 'organamnist')] == [7, 5, 8, 11]
    assert known_set('dermamnist') == (SETS['dermamnist'], SETS['dermamnist'].md5[0])
    assert known_set('dermamnist_224')[1] == SETS['dermamnist'].md5[3] and known_set('dermamnist_28') == (None, None)


ABSURD = 400 * 10 ** 9


@pytest.mark.parametrize(('changed', 'message'), [
    ({'train_labels': np.zeros((12, 14), np.uint8)}, r'train_labels must hold one class per image, .* not uint8 \(12, 14\)'),
    ({'val_images': np.zeros((6, 28, 28, 28), np.uint8)}, 'volumes'),
    ({'test_images': np.zeros((7, 28, 28))}, 'must be uint8'), ({'test_images': np.zeros((0, 28, 28), np.uint8)}, '1 to 1,000,000 images'),
    ({'test_images': np.zeros((7, 28, 0), np.uint8)}, 'of 1 to 4,096 pixels'),
    ({'test_images': np.zeros((7, 5000, 1), np.uint8)}, r'of 1 to 4,096 pixels a side, not \(7, 5000, 1\)'),
    ({'train_images': np.asfortranarray(np.zeros((12, 28, 28), np.uint8))}, 'column by column: .*ascontiguousarray'),
    ({'test_labels': np.array([None] * 7)}, r'one class per image, .* not object \(7,\)'),
    ({'test_labels': np.zeros(7)}, 'not float64'), ({'test_labels': np.full(7, np.nan)}, 'not float64'),
    ({'test_labels': np.zeros(7, bool)}, 'not bool'), ({'test_labels': np.array(['a'] * 7)}, 'not <U1'),
    ({'test_labels': np.zeros(7, [('a', 'u1')])}, 'one class per image'), ({'test_labels': np.zeros(7, 'm8[s]')}, 'not timedelta64'),
    ({'test_labels': np.uint8(1)}, r'not uint8 \(\)'), ({'test_labels': np.zeros(6, np.uint8)}, r'integers \(7,\) .* not uint8 \(6,\)'),
    ({'test_labels': np.array([0, 1, -1, 0, 0, 0, 0])}, r'x\.npz: test_labels, image 2: class -1 is not in 0\.\.9999'),
    ({'test_labels': np.full(7, ABSURD)}, 'test_labels, image 0: class 400000000000 is not in'),
    ({'val_labels': np.full(6, 2 ** 64 - 1, np.uint64)}, 'class 18446744073709551615 is not in'),
    ({'val_labels': np.full(6, 9000)}, r'train_labels has no image of class 3, 4, 5, 6, 7, \.\.\.: classes must be numbered')],
    ids=['several', 'volumes', 'floats', 'no images', 'no pixels', 'large', 'columns', 'objects', 'float labels', 'nan', 'bool', 'text',
         'fields', 'times', 'one label', 'few labels', 'negative', 'huge', 'unsigned', 'gap'])
def test_unsuitable_arrays_give_a_one_line_error(tmp_path, changed, message):
    np.savez(tmp_path / 'x.npz', **(arrays() | changed))
    refused(tmp_path, message)


def refused(tmp_path, message):
    with pytest.raises(InputError, match=message) as error:
        main([str(tmp_path / 'x.npz'), '--out', str(tmp_path / 'out')])
    assert str(error.value).isprintable() and os.listdir(tmp_path) == ['x.npz']


def npy(header, content=b''):
    text = header.encode('latin1') + b'\n'
    return b'\x93NUMPY\x02\x00' + struct.pack('<I', len(text)) + text + content


def write_npz(path, method=zipfile.ZIP_DEFLATED, **members):
    """Write the set of `arrays`, with some members replaced. `members`: name -> bytes of the .npy, or None to leave it out."""
    np.savez(path, **arrays())
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()} | {f'{name}.npy': content for name, content in members.items()}
    with zipfile.ZipFile(path, 'w', method) as new:
        for name, content in files.items():
            if content is not None:
                new.writestr(name, content)
    return path


def header(shape, descr="'|u1'", order='False'):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(('members', 'message'), [
    ({'train_images': npy(header('(12, 28, 28)'))}, r'train_images \(12, 28, 28\) must have 9,408 bytes, not 0: the file is damaged'),
    ({'train_images': npy(header('(1000000, 4096, 4096, 3)'), b'x')}, 'must have 50,331,648,000,000 bytes, not 1'),
    ({'train_images': npy(header('(400000000000, 1, 1)'))}, '1 to 1,000,000 images'),
    ({'train_images': npy(header(f"(0x{'f' * 9000}, 1, 1)"))}, 'its shape is impossible'),
    ({'train_images': npy(header('(-1, 28, 28)'))}, 'its shape is impossible'),
    ({'train_labels': npy(header('(12,)', "'<i8'"))}, r'train_labels \(12,\) must have 96 bytes, not 0'),
    ({'train_labels': npy(header('(400000000000,)', "'<i8'"))}, 'must hold one class per image'),
    ({'train_labels': npy(header('(12,)', "'|O'"), b'cos\nsystem\n.')}, 'must hold one class per image'),
    ({'train_labels': npy(header('(12,)', "'V400000000000'"))}, 'train_labels'),
    ({'train_labels': npy('(' * 9000)}, 'train_labels'), ({'train_labels': npy('-' * 9000 + '1')}, 'train_labels'),
    ({'train_labels': npy(' ' * 100_000)}, 'train_labels'), ({'train_labels': npy('{}')}, 'train_labels'),
    ({'train_labels': b''}, 'train_labels'),
    ({'train_labels': b'\x93NUMPY\x09\x00'}, 'train_labels'), ({'train_labels': b'\x93NUMPY\x02\x00\xff\xff\xff\xff{'}, 'train_labels'),
    ({'test_labels': None}, 'test_labels: .*There is no item named'), ({'../x': b'a'}, r'\.\./x\.npy leads out of the folder')],
    ids=['no pixels', 'claims 50 TB', 'claims 400 GB', 'hexadecimal', 'negative', 'no labels', 'claims labels', 'pickle', 'large items',
         'nested', 'minus', 'long', 'no keys', 'empty', 'version', 'header of 4 GB', 'absent', 'outside'])
def test_crafted_members_give_a_one_line_error(tmp_path, members, message):
    write_npz(tmp_path / 'x.npz', **members)
    refused(tmp_path, message)


def set_in_directory(path, member, offset, value):
    """Write the bytes `value` at `offset` of the entry of `member` in the central directory of the zip."""
    content = bytearray(path.read_bytes())
    at = content.rindex(f'{member}.npy'.encode()) - 46 + offset
    content[at:at + len(value)] = value
    path.write_bytes(content)


@pytest.mark.parametrize(('offset', 'value', 'message'), [
    (24, struct.pack('<I', 4_000_000_000), 'must have 96 bytes|train_labels'), (8, b'\x01', 'train_labels.npy is encrypted'),
    (10, struct.pack('<H', 99), 'is not compressed with deflate'), (16, b'\0\0\0\0', 'train_labels: Bad CRC-32'),
    (0, b'PKxx', 'cannot be read as a zip'), (42, struct.pack('<I', 4_000_000_000), 'train_labels'),
    (6, struct.pack('<H', 99), 'cannot be read as a zip: zip file version 9.9')],
    ids=['size', 'encrypted', 'method', 'checksum', 'signature', 'offset', 'version'])
def test_a_damaged_directory_gives_a_one_line_error(tmp_path, offset, value, message):
    set_in_directory(write_npz(tmp_path / 'x.npz'), 'train_labels', offset, value)
    refused(tmp_path, message)


@pytest.mark.parametrize('method', [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_methods_without_a_memory_limit_are_refused(tmp_path, method):
    write_npz(tmp_path / 'x.npz', method)
    refused(tmp_path, 'train_images.npy is not compressed with deflate')


@pytest.mark.parametrize(('limit', 'message'), [(2000, 'train_images.npy has 28,352 bytes when unpacked'),
                                                (30_000, 'x.npz is refused: it has 59,[0-9]{3} bytes when unpacked, more than 30,000')])
def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch, limit, message):
    monkeypatch.setattr(npz_images, 'MAX_BYTES', limit)
    write_npz(tmp_path / 'x.npz')
    refused(tmp_path, message)


def test_damaged_pixels_leave_nothing(tmp_path):
    np.savez(tmp_path / 'x.npz', **arrays((100, 100, 3)))
    content = bytearray((tmp_path / 'x.npz').read_bytes())
    content[200_000] ^= 1
    (tmp_path / 'x.npz').write_bytes(content)
    refused(tmp_path, 'train_images is damaged: Bad CRC-32')


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / 'x.npz').write_text('text')
    refused(tmp_path, r'x\.npz cannot be read as a zip')


def test_memory_does_not_grow_with_the_images(tmp_path):
    """50 MB of pixels are read image by image."""
    np.savez_compressed(tmp_path / 'x.npz', **(arrays() | {'train_images': np.zeros((50, 1000, 1000), np.uint8),
                                                           'train_labels': np.arange(50) % 3}))
    images, labels = npz_images.read_npz(str(tmp_path / 'x.npz'))['train']
    tracemalloc.start()
    n = sum(image.shape == (1000, 1000) for image in images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == len(labels) == 50 and peak < 10e6


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / 'set.npz')
    with pytest.raises(InputError, match=r'set\.npz is not a regular file'):
        main([str(tmp_path / 'set.npz')])


@pytest.mark.parametrize('seed', range(3))
def test_accuracy_and_auc_are_those_of_the_authors(seed):
    """The evaluator of the package medmnist, for all sets with one label per image: more than two classes, graded or not."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, 400, p=[.44, .12, .23, .16, .05])
    probs = rng.dirichlet(np.ones(5), 400).round(2)  # with ties
    probs /= probs.sum(axis=1, keepdims=True)
    found = evaluate_multi_cls(labels, probs.argmax(axis=1), probs)
    for task in ('multi-class', 'ordinal-regression'):
        expected = [evaluator.getACC(labels[:, None], probs, task), evaluator.getAUC(labels[:, None], probs, task)]
        assert [found.acc, found.auc] == pytest.approx(expected)


def test_accuracy_and_auc_of_two_classes_are_those_of_the_authors():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 200), rng.random(200)
    probs = np.stack([1 - p, p], axis=1)
    found = evaluate_multi_cls(labels, probs.argmax(axis=1), probs)
    expected = [evaluator.getACC(labels[:, None], probs[:, 1], 'binary-class'), evaluator.getAUC(labels[:, None], probs, 'binary-class')]
    assert [found.acc, found.auc] == pytest.approx(expected)
