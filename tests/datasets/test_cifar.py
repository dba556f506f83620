"""Preparation of CIFAR-LT, on generated archives with the structure of the published ones."""
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from tests.next_steps import next_words, parse
from tools.prepare_cifar_lt_data import SETS, URL, choose, long_tailed_counts, main, read_archive
from utils.cli import ROOT
from utils.common import InputError
from utils.datasets import cifar_pickle


class Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 did, which wrote the published archives."""
    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, value):
        content = value if isinstance(value, bytes) else value.encode('latin1')
        self.write(pickle.BINSTRING + struct.pack('<i', len(content)) + content)
        self.memoize(value)
    dispatch[bytes] = dispatch[str] = save_text


def dumps(value, protocol=2):
    buffer = io.BytesIO()
    Python2(buffer, protocol).dump(value)
    return buffer.getvalue().replace(b'cnumpy._core.', b'cnumpy.core.')  # its name before numpy 2


def write_tar(path, files, kind=tarfile.REGTYPE):
    """`files`: name in the archive -> bytes."""
    with tarfile.open(path, 'w:gz') as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type = len(content), kind
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


def archive(path, classes, per_class=40, replace=None):
    """Write an archive with the official layout; `replace`: name of a file -> its bytes."""
    _, folder, train, test, meta, labels_key, names_key = SETS[classes]
    rng, files = np.random.default_rng(0), {}
    for name in (*train, test):
        labels = rng.permutation(np.repeat(np.arange(classes), per_class))
        data = np.repeat(labels[:, None], 3072, axis=1).astype(np.uint8)
        data[:, :1024] += 100  # red
        files[name] = dumps({'data': data, labels_key: labels.tolist(), 'batch_label': name})
    files[meta] = dumps({names_key: [f'thing {c}' for c in range(classes)]})
    return write_tar(path, {f'{folder}/{name}': content for name, content in (files | (replace or {})).items()})


@pytest.mark.parametrize('classes', SETS)
def test_sets(tmp_path, monkeypatch, capsys, classes):
    monkeypatch.chdir(tmp_path)
    main(['--classes', str(classes), '--imbalance', '10', '--val_per_class', '4', '--any_archive', '--archive',
          archive('x.tar.gz', classes, per_class=20)])
    tables = {split: pd.read_csv(f'data/cifar{classes}_lt/{split}_cifar{classes}_lt.csv') for split in ('train', 'val', 'test')}
    n_max = 20 * len(SETS[classes][2]) - 4
    expected = [int(n_max * 10 ** (-c / (classes - 1))) for c in range(classes)]
    assert tables['train'].label.value_counts().sort_index().tolist() == expected
    assert set(tables['val'].label.value_counts()) == {4} and len(tables['test']) == 20 * classes
    rows = {split: set(table.image_id.str.split('_').str[1]) for split, table in tables.items()}
    assert not rows['train'] & rows['val']
    for row in (tables['train'].iloc[0], tables['test'].iloc[-1]):
        pixels = np.asarray(Image.open(f'data/cifar{classes}_lt/images/{row.image_id}.png'))
        assert pixels.shape == (32, 32, 3) and (pixels == [100 + row.label, row.label, row.label]).all()
        assert row['name'] == f'thing {row.label}'
    out = capsys.readouterr().out
    assert 'is not the published archive' in out and parse(next_words(out))[1].n_classes == classes


@pytest.mark.parametrize(('classes', 'n_max', 'imbalance', 'total'), [
    (10, 5000, 100, 12406), (10, 5000, 50, 13996), (10, 5000, 10, 20431), (10, 5000, 1, 50000), (100, 500, 100, 10847),
    (100, 500, 50, 12608), (100, 500, 10, 19573)])
def test_published_counts(classes, n_max, imbalance, total):
    """The sizes of CIFAR-10-LT and CIFAR-100-LT given in papers."""
    counts = long_tailed_counts(n_max, classes, imbalance)
    assert counts.sum() == total and counts[0] == n_max and counts[-1] == n_max // imbalance


def test_selection_depends_on_the_seed():
    labels = np.repeat(np.arange(10), 50)
    first, again, other = (choose(labels, 10, 10, 5, seed) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True)) and not (first[1] == other[1]).all()
    with pytest.raises(InputError, match='leaves no training image of class 7'):
        choose(labels, 10, 200, 5, 0)


@pytest.mark.parametrize(('classes', 'published'), [(10, CIFAR10), (100, CIFAR100)])
def test_the_published_archive_is_that_of_torchvision(classes, published):
    assert (URL.format(classes), SETS[classes][0]) == (published.url, published.tgz_md5)


def test_the_published_archive_needs_no_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = archive('x.tar.gz', 10)
    with open(path, 'rb') as f:
        monkeypatch.setitem(SETS, 10, (hashlib.file_digest(f, 'md5').hexdigest(), *SETS[10][1:]))
    main(['--archive', path, '--imbalance', '10', '--val_per_class', '4'])
    assert 'Note' not in capsys.readouterr().out


def test_an_unpublished_archive_is_refused(tmp_path):
    path = archive(tmp_path / 'x.tar.gz', 10)
    with pytest.raises(InputError, match=r'is not the published archive \(MD5 [0-9a-f]{32}, not c58f30108f718f92721af3b95e74349a\): .* '
                                         r'--any_archive'):
        main(['--archive', path, '--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_any_archive_without_an_archive_has_no_effect(tmp_path, capsys):
    with pytest.raises(InputError):
        main(['--any_archive', '--imbalance', '0'])
    assert '* Warning: --any_archive has no effect without --archive\n' in capsys.readouterr().out


def test_names_of_protocol_0_are_read(tmp_path):
    """The published batches.meta is a pickle of protocol 0."""
    content = b"(dp1\nS'num_vis'\np2\nI3072\nsS'label_names'\np3\n(lp4\n" + b''.join(b"S'thing %d'\na" % c for c in range(10)) + b's.'
    _, names = read_archive(archive(tmp_path / 'x.tar.gz', 10, replace={'batches.meta': content}), 10)
    assert names == [f'thing {c}' for c in range(10)]


def test_an_array_by_column_is_read_by_row(tmp_path):
    data = np.arange(40 * 3072, dtype=np.uint32).astype(np.uint8).reshape(40, 3072)
    path = archive(tmp_path / 'x.tar.gz', 10, replace={'test_batch': dumps({'data': np.asfortranarray(data), 'labels': [0] * 40})})
    images, _ = read_archive(path, 10)[0]['test']
    assert (images == data.reshape(40, 3, 32, 32).transpose(0, 2, 3, 1)).all()


IMAGES = np.zeros((40, 3072), np.uint8)


@pytest.mark.parametrize(('content', 'message'), [
    ({'data': np.zeros((40, 784), np.uint8)}, r'array of 31360 bytes must have the shape \(N, 3072\), not \(40, 784\)'),
    ({'data': np.zeros((40, 3072))}, r"unsigned bytes \(u1\), not 'f8'"), ({'data': np.zeros((40, 3072), np.int8)}, "not 'i1'"),
    ({'data': [[0] * 3072] * 40}, 'test_batch must hold'), ({'data': IMAGES[:0], 'labels': []}, 'test_batch must hold'),
    ({'labels': [10] * 40}, r'a label in 0\.\.9'), ({'labels': [-1] * 40}, 'test_batch must hold'),
    ({'labels': [0] * 39}, 'test_batch must hold'), ({'labels': [0.] * 40}, 'test_batch must hold'),
    ({'labels': [10 ** 30] * 40}, 'test_batch must hold'), ({'labels': None}, 'test_batch must hold')],
    ids=['shape', 'float', 'signed', 'list', 'empty', 'class 10', 'negative', 'short', 'float labels', 'huge label', 'no labels'])
def test_content_is_checked(tmp_path, content, message):
    content = {'data': IMAGES, 'labels': [0] * 40} | content
    path = archive(tmp_path / 'x.tar.gz', 10, replace={'test_batch': dumps(content)})
    with pytest.raises(InputError, match=message):
        read_archive(path, 10)


@pytest.mark.parametrize('names', [['a'] * 9, 'abcdefghij', [1] * 10, ['a\n* Next, x'] * 10, None])
def test_names_are_checked(tmp_path, names):
    with pytest.raises(InputError, match='label_names must hold the names of 10 classes'):
        read_archive(archive(tmp_path / 'x.tar.gz', 10, replace={'batches.meta': dumps({'label_names': names})}), 10)


class Evil:
    def __reduce__(self):
        return os.mkdir, ('hacked',)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive('x.tar.gz', 10, replace={'data_batch_2': dumps({'data': Evil()})})
    with pytest.raises(InputError, match=r'not a CIFAR-10 archive .*it asks for (posix|nt)\.mkdir'):
        main(['--archive', path, '--any_archive'])
    assert not os.path.exists('hacked') and not os.path.exists('data')


def array_pickle(shape, content, kind=b'cnumpy\ndtype\nU\x02u1\x85R', more=b''):
    """-> a pickle of {'data': array, ...}; shape, type and content of the array are given as opcodes"""
    return (b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01' + shape + kind + b'\x89'
            + content + b'tb' + more + b'u.')


# An array of four objects, with the 32 bytes AAAA... as their addresses.
FALSE_ADDRESSES = array_pickle(
    b'K\x04\x85', b'U\x20' + b'A' * 32, b'cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb',
    b'U\x06labels](K\x00K\x01K\x02K\x03e')


def test_an_array_of_false_addresses_is_refused(tmp_path):
    """numpy's own unpickling would use the bytes as pointers to objects and crash the process."""
    path = archive(tmp_path / 'x.tar.gz', 10, replace={f'data_batch_{i}': FALSE_ADDRESSES for i in range(1, 6)})
    command = [sys.executable, '-m', 'tools.prepare_cifar_lt_data', '--archive', path, '--any_archive', '--out', str(tmp_path / 'out')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f'error: {path} is not a CIFAR-10 archive (python version): its arrays must hold unsigned '
                                                 "bytes (u1), not 'O8'\n")


@pytest.mark.parametrize(('content', 'message'), [
    (array_pickle(b'J\xff\xff\xff\x7fM\x00\x0c\x86', b'U\x01A'), r'array of 1 bytes must have the shape'),
    (array_pickle(b'J\xff\xff\xff\xffM\x00\x0c\x86', b'U\x00'), 'array of 0 bytes must have the shape'),
    (array_pickle(b']M\x00\x0c\x86', b'U\x00'), 'array of 0 bytes must have the shape'),
    (array_pickle(b'K\x00M\x00\x0c\x86', b'](K\x00e'), 'must be bytes of type u1'),
    (array_pickle(b'K\x00M\x00\x0c\x86', b'U\x00', b'U\x02u1'), 'must be bytes of type u1'),
    (b'\x80\x02}r\xff\xff\xff\xff.', 'more than 5,000,000 opcodes or values'), (b"}p99999999999\n.", 'more than 5,000,000'),
    (b'\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.', 'expected 1099511627776 bytes'), (b'\x80\x05\x97.', 'opcode NEXT_BUFFER'),
    (b'\x80\x02(cnumpy\nndarray\no.', 'opcode OBJ'), (b'(inumpy\nndarray\n.', 'opcode INST'), (b'\x80\x02}U\xffa', 'expected 255 bytes'),
    (b'', 'pickle exhausted'), (b'\x80\x02cnumpy\nndarray\n}b.', 'CIFAR'), (b'\x80\x02cnumpy\ndtype\n}b.', 'CIFAR'),
    (b'cnumpy\nfromfile\n.', r'it asks for numpy\.fromfile'), (b'cnumpy.core.multiarray\nscalar\n.', r'numpy\.core\.multiarray\.scalar'),
    (b'(' + b']' * 10_000 + b'.', 'CIFAR')],
    ids=['claims 6 TB', 'negative shape', 'list in shape', 'list as bytes', 'text as dtype', 'memory of the memo', 'memo in text',
         'bytearray', 'buffer', 'obj', 'inst', 'cut', 'empty', 'state of a type', 'state of a stub', 'fromfile', 'scalar', 'nested'])
def test_crafted_pickles_give_a_one_line_error(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_archive(archive(tmp_path / 'x.tar.gz', 10, replace={'data_batch_1': content}), 10)
    assert len(str(error.value).splitlines()) == 1


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch):
    monkeypatch.setattr(cifar_pickle, 'MAX_OPCODES', 1000)
    with pytest.raises(pickle.UnpicklingError, match='more than 1,000'):
        cifar_pickle.read_cifar_pickle(dumps([0] * 2000))


def pax_chain(path):
    """Write a chain of headers, each of which describes the next: tarfile recurses for each of them."""
    header = tarfile.TarInfo('x')
    header.type, header.size = tarfile.XHDTYPE, 0
    with gzip.open(path, 'wb') as f:
        f.write(header.tobuf() * 5000)


def folder(path):
    write_tar(path, {'cifar-10-batches-py/batches.meta': b''}, tarfile.DIRTYPE)


def sparse(path):
    """Write a sparse file with one hole of 400 GB."""
    entry = tarfile.TarInfo('cifar-10-batches-py/batches.meta')
    entry.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386:410], header[483:495] = b'0' * 24, tarfile.itn(400 * 10 ** 9, 12, tarfile.GNU_FORMAT)
    header[148:156] = b'%06o\0 ' % (sum(header[:148]) + sum(header[156:512]) + 8 * ord(' '))
    with gzip.open(path, 'wb') as f:
        f.write(header + bytes(1024))


def zeros(path):
    with gzip.open(path, 'wb', compresslevel=1) as f:
        for _ in range(257):
            f.write(bytes(1 << 20))


def cut(path):
    archive(path, 10)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(('write', 'message'), [
    (zeros, 'more than 256 MB when unpacked'), (pax_chain, 'recursion'), (folder, r'batches\.meta is not a regular file'),
    (sparse, r'batches\.meta is not a regular file'), (cut, 'end-of-stream'),
    (lambda path: write_tar(path, {'other': b'x'}), "filename 'cifar-10-batches-py/batches.meta' not found"),
    (lambda path: path.write_text('text'), 'Not a gzipped file')], ids=['bomb', 'headers', 'folder', 'sparse', 'cut', 'other', 'text'])
def test_crafted_archives_give_a_one_line_error(tmp_path, write, message):
    write(tmp_path / 'x.tar.gz')
    with pytest.raises(InputError, match=rf'x\.tar\.gz is not a CIFAR-10 archive .*{message}') as error:
        read_archive(str(tmp_path / 'x.tar.gz'), 10)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(('flags', 'message'), [
    (['--archive', 'absent.tar.gz'], r'--archive absent\.tar\.gz: no such file'),
    (['--imbalance', '0.5'], '--imbalance .* must be 1 or more')])
def test_errors(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        main(flags)
