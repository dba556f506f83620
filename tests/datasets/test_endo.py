"""Preparation of Hyper-Kvasir, on small zips with the structure of the real one."""
import os
import sys
import zipfile

import pandas as pd
import pytest
from PIL import Image

from tests.factories import IMAGES_PER_FINDING, N_FINDINGS, write_endo_zip
from tests.next_steps import next_words, parse
from tools import endo_folds, prepare_endo_data
from utils.common import InputError


def prepare(monkeypatch, flags):
    monkeypatch.setattr(sys, 'argv', ['prepare', *flags.split(), '--n_images', str(IMAGES_PER_FINDING * N_FINDINGS), '--num_workers', '1'])
    prepare_endo_data.main()


def test_folds_of_the_original(tmp_path, monkeypatch, capsys):
    prepare(monkeypatch, f'--zip {write_endo_zip(tmp_path / "a.zip")} --out {tmp_path}/data')
    args = parse(next_words(capsys.readouterr().out))[1]
    assert (args.data_path, args.recipe) == (f'{tmp_path}/data/images', 'finetune')
    with Image.open(tmp_path / 'data/images/00-00-abc.jpg') as image:
        assert image.size == (640, 512)
    tables = {(s, i): pd.read_csv(tmp_path / f'data/{s}_endo{i}.csv') for s in ('train', 'val') for i in range(1, 6)}
    assert list(tables['val', 1].columns) == ['image_id', 'finding_name', 'finding']
    everything = pd.concat([tables['val', i] for i in range(1, 6)])
    assert everything.image_id.is_unique and len(everything) == 230
    for i in range(1, 6):
        assert set(tables['train', i].image_id) == set(everything.image_id) - set(tables['val', i].image_id)
        assert tables['val', i].finding.value_counts().eq(2).all()
        assert (tables['val', i].finding_name == tables['val', i].finding.map('finding-{:02d}'.format)).all()


def test_official_folds_and_selection_split(tmp_path, monkeypatch):
    names = [(f'{f:02d}-{i:02d}-abc.jpg', f'finding-{f:02d}', (f + i) % 5) for f in range(N_FINDINGS) for i in range(IMAGES_PER_FINDING)]
    pd.DataFrame(names, columns=['file-name', 'class-name', 'split-index']).to_csv(tmp_path / 'official.csv', sep=';', index=False)
    prepare(monkeypatch, f'--zip {write_endo_zip(tmp_path / "a.zip")} --out {tmp_path}/data --splits official {tmp_path}/official.csv '
                         '--select_fraction 0.25')
    for i in range(1, 6):
        train, val, select = (pd.read_csv(tmp_path / f'data/{s}_endo{i}.csv') for s in ('train', 'val', 'select'))
        assert sorted(val.image_id) == sorted(name[:-4] for name, _, fold in names if fold == i - 1)
        assert len(select) == 46 and select.finding.value_counts().eq(2).all()
        assert len(set(train.image_id) | set(val.image_id) | set(select.image_id)) == 230 == len(train) + len(val) + len(select)


def refused(tmp_path, monkeypatch, message):
    with pytest.raises(InputError, match=message) as error:
        prepare(monkeypatch, f'--zip {tmp_path}/a.zip --out {tmp_path}/data')
    assert str(error.value).isprintable()
    assert not (tmp_path / 'data').exists() or not os.listdir(tmp_path / 'data')


def line(number, text):
    """Replace a line of the csv; lines count from 1, as in a spreadsheet."""
    def replace(csv):
        lines = csv.splitlines(keepends=True)
        return ''.join([*lines[:number - 1], text, *lines[number:]])
    return replace


IN_ZIP = r'a\.zip, labeled-images/image-labels\.csv'


@pytest.mark.parametrize(('labels', 'message'), [
    (lambda csv: csv.replace('Lower', 'L\xf6wer').encode('latin1'), rf'{IN_ZIP} is not a csv table: row 2 is not UTF-8 text'),
    (lambda csv: csv.encode('utf-16'), f'{IN_ZIP} is not a csv table: it contains zero bytes'),
    (line(5, 'a,b,c,d,e,f\n'), f'{IN_ZIP} is not a csv table: row 5 has 6 cells'),
    (line(5, '00-00-abc\n'), f"{IN_ZIP}, row 5: the cell 'Finding' is empty"),
    (line(7, ',x,finding-01,x\n'), "row 7: the cell 'Video file' is empty"),
    (lambda csv: line(9, csv.splitlines()[1] + '\n')(csv), "row 9: the cell 'Video file' repeats an earlier row"),
    (line(3, '"00-00-abc,x,finding-01,x\n'), f'{IN_ZIP}, row 3: unclosed quotation mark'),
    (lambda csv: '', f'{IN_ZIP} is not a csv table'), (lambda csv: '\n\n', f'{IN_ZIP} is not a csv table'),
    (lambda csv: csv.splitlines()[0], r'a\.zip has 0 labels, expected 230'),
    (lambda csv: None, r'a\.zip holds 0 files named image-labels\.csv'),
    (lambda csv: csv.replace('Finding', 'Diagnosis'), f"{IN_ZIP} has no columns 'Video file' and 'Finding'"),
    (lambda csv: csv.replace('Organ', 'Finding'), f'{IN_ZIP}, row 1: columns 2 and 3 have the same name'),
    (line(3, '../../x,x,finding-01,x\n'), '1 labels without an image, expected 0')],
    ids=['latin-1', 'utf-16', 'long row', 'short row', 'empty id', 'repeated', 'quote', 'empty', 'blank', 'header', 'none', 'other column',
         'same column', 'outside'])
def test_broken_labels_give_a_one_line_error(tmp_path, monkeypatch, labels, message):
    write_endo_zip(tmp_path / 'a.zip', labels=labels)
    refused(tmp_path, monkeypatch, message)


def test_labels_of_any_dialect_are_read(tmp_path, monkeypatch):
    write_endo_zip(tmp_path / 'a.zip', labels=lambda csv: '\ufeff' + csv.replace(',', ';').replace('\n', '\r\n'))
    prepare(monkeypatch, f'--zip {tmp_path}/a.zip --out {tmp_path}/data')
    assert len(pd.read_csv(tmp_path / 'data/val_endo1.csv')) == 46


def test_damaged_labels_give_a_one_line_error(tmp_path, monkeypatch):
    content = write_endo_zip(tmp_path / 'a.zip').read_bytes()
    (tmp_path / 'a.zip').write_bytes(content.replace(b'Lower GI,finding-07', b'Lower GI,finding-17'))
    refused(tmp_path, monkeypatch, f'{IN_ZIP} is damaged: Bad CRC-32')


def test_two_label_tables_give_a_one_line_error(tmp_path, monkeypatch):
    write_endo_zip(tmp_path / 'a.zip', more=[('image-labels.csv', 'a,b\n')])
    refused(tmp_path, monkeypatch, r'a\.zip holds 2 files named image-labels\.csv')


def test_a_name_with_control_characters_is_shown_without_them(tmp_path, monkeypatch):
    write_endo_zip(tmp_path / 'a.zip', more=[('\x1b[2J\n* Next, x/../../evil.jpg', 'x')])
    refused(tmp_path, monkeypatch, r'a\.zip is refused: �\[2J \* Next, x/\.\./\.\./evil\.jpg leads out of the folder')


@pytest.mark.parametrize('method', [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_methods_without_a_memory_limit_are_refused(tmp_path, monkeypatch, method):
    write_endo_zip(tmp_path / 'a.zip', method=method)
    refused(tmp_path, monkeypatch, r'\.jpg is not compressed with deflate')


def test_a_total_of_many_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_endo_data, 'MOST_IN_TOTAL', 100_000)
    write_endo_zip(tmp_path / 'a.zip')
    refused(tmp_path, monkeypatch, r'a\.zip is refused: it has [0-9]{3},[0-9]{3} bytes when unpacked, more than 100,000')


@pytest.mark.parametrize('damage', ['', 'PK', 'PK\5\6' + 18 * '\0', 'text'], ids=['empty', 'two bytes', 'no files', 'text'])
def test_a_file_that_is_not_a_zip_gives_a_one_line_error(tmp_path, monkeypatch, damage):
    (tmp_path / 'a.zip').write_text(damage)
    refused(tmp_path, monkeypatch, r'a\.zip (cannot be read as a zip|holds 0 files)')


def test_a_name_that_is_not_utf8_gives_a_one_line_error(tmp_path, monkeypatch):
    """The zip declares its names as UTF-8."""
    content = write_endo_zip(tmp_path / 'a.zip', more=[('\xfc\xfc.txt', 'x')]).read_bytes()
    (tmp_path / 'a.zip').write_bytes(content.replace('\xfc\xfc'.encode(), b'\xff\xff\xff\xff'))
    refused(tmp_path, monkeypatch, r'a\.zip cannot be read as a zip: .*decode')


@pytest.mark.parametrize(('content', 'message'), [
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', r'00-00-abc\.jpg: cannot identify image file'),
    (b'\xff\xd8\xff\xc0\0\x0b\x08\x23\x28\x23\x28\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0',
     r'00-00-abc\.jpg: it has 9000 x 9000 pixels')],
    ids=['Postscript', 'large'])
def test_unsuitable_images_are_named(tmp_path, monkeypatch, content, message):
    write_endo_zip(tmp_path / 'old.zip')
    with zipfile.ZipFile(tmp_path / 'old.zip') as old, zipfile.ZipFile(tmp_path / 'a.zip', 'w') as new:
        for member in old.namelist():
            new.writestr(member, content if member.endswith('00-00-abc.jpg') else old.read(member))
    refused(tmp_path, monkeypatch, message)


def test_damaged_zip_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r'1 damaged image: .*Bad CRC'):
        prepare(monkeypatch, f'--zip {write_endo_zip(tmp_path / "a.zip", damage=3000)} --out {tmp_path}/data')
    assert list((tmp_path / 'data').iterdir()) == []
    half = tmp_path / 'half.zip'
    half.write_bytes((tmp_path / 'a.zip').read_bytes()[:9000])
    with pytest.raises(InputError, match=r'half\.zip cannot be read'):
        prepare(monkeypatch, f'--zip {half} --out {tmp_path}/data')
    monkeypatch.setattr(sys, 'argv', ['prepare', '--zip', str(write_endo_zip(tmp_path / 'b.zip')), '--out', f'{tmp_path}/data'])
    with pytest.raises(InputError, match='has 230 images, expected 10662'):
        prepare_endo_data.main()


def test_real_official_folds(real_data):
    """The authors' csv has 10,662 images in five folds, with each finding in every training set."""
    official = pd.read_csv(os.path.join(real_data, 'labels', 'hyper_kvasir_5_fold_split.csv'), sep=';')
    table = pd.DataFrame({'image_id': official['file-name'].str.removesuffix('.jpg'),
                          'finding': official['class-name'].astype('category').cat.codes}).sample(frac=1, random_state=1)
    folds = endo_folds.official_folds(table, os.path.join(real_data, 'labels', 'hyper_kvasir_5_fold_split.csv'))
    assert sum(map(len, folds)) == 10662 and all(table.drop(fold.index).finding.nunique() == 23 for fold in folds)
    assert [len(fold) for fold in endo_folds.original_folds(table)] == [2132] * 4 + [2134]


def test_official_folds_of_any_dialect(tmp_path):
    rows = ''.join(f' {i}.jpg,x,{i % 5}.0\n' for i in range(10))
    (tmp_path / 'official.csv').write_text('\ufefffile-name, class-name, split-index\n' + rows)
    folds = endo_folds.official_folds(pd.DataFrame({'image_id': [str(i) for i in range(10)]}), tmp_path / 'official.csv')
    assert [fold.image_id.tolist() for fold in folds] == [[str(i), str(i + 5)] for i in range(5)]


def test_absent_official_folds(tmp_path):
    with pytest.raises(InputError, match=r'no such csv of folds \(--splits official\): absent\.csv'):
        endo_folds.official_folds(pd.DataFrame({'image_id': ['a']}), 'absent.csv')
