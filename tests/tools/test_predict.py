"""Predictions for images that are not in a csv."""
import numpy as np
import pytest
from PIL import Image

from tools.predict import main
from utils.common import InputError, run_script
from utils.data.new_images import find_new_images
from utils.prediction.predictions import read_predictions
from utils.testing import scoring


@pytest.fixture
def predict(train, tiny, tmp_path):
    train('--save_path a/b')

    def run(*flags):
        main(['--load_path', 'experiments/a/b', '--num_workers', '0', *map(str, flags)])
        return read_predictions(tmp_path / 'results' / 'a' / 'b' / 'predictions.csv')
    return run


def test_agrees_with_the_test_script(predict, tiny, tmp_path, capsys):
    table = predict(tiny / 'images')
    scoring.main('test', {'test': str(tiny / 'test.csv')}, 0,
                  ['--load_path', 'experiments/a/b', '--num_workers', '0'])
    tested = read_predictions(tmp_path / 'results' / 'a' / 'b' / 'results_test.csv')
    assert table.class_names == tested.class_names == ['class0', 'class1', 'class2'] and table.labels is None and len(table.image_ids) == 39
    rows = [table.image_ids.index(f'{image_id}.jpg') for image_id in tested.image_ids]
    np.testing.assert_allclose(table.probs[rows], tested.probs, atol=1e-6)
    out = capsys.readouterr().out
    assert '... and 19 more' in out and '* Next, see heat maps of the predictions: ' in out


def test_unreadable_files_are_listed(predict, tiny, tmp_path, capsys):
    folder = tmp_path / 'new'
    (folder / 'deep').mkdir(parents=True)
    whole = (tiny / 'images' / 'test_0_0.jpg').read_bytes()
    (folder / 'deep' / 'a.jpg').write_bytes(whole)
    Image.open(tiny / 'images' / 'test_1_0.jpg').save(folder / 'a.PNG')
    (folder / 'cut.jpg').write_bytes(whole[:len(whole) * 3 // 4])
    (folder / 'text.png').write_text('text')
    (folder / 'empty.jpg').touch()
    (folder / 'notes.txt').write_text('no image by its name')
    (tmp_path / 'new' / 'hollow').mkdir()
    table = predict(folder, folder / 'absent.jpg', folder / 'a.PNG', folder / 'hollow', '--gradcam')
    assert table.image_ids == ['a.PNG', 'deep/a.jpg']
    out = capsys.readouterr().out
    assert '5 of 7 images cannot be read' in out and 'hollow: no images' in out and 'absent.jpg: no such file' in out and 'notes' not in out
    assert 'cut.jpg: image file is truncated' in out and str(tmp_path) not in out.split('cannot be read')[1]
    assert Image.open('results/a/b/gradcam/deep/a.jpg').width == Image.open('results/a/b/gradcam/a.jpg').width == 512  # magnified


def test_errors(predict, tmp_path):
    (tmp_path / 'x.jpg').write_text('text')
    (tmp_path / 'none').mkdir()
    for flags, message in ((['x.jpg'], 'none of the images can be read:\n  x.jpg: not an image in a supported format'),
                           (['none'], 'none of .*\n  none: no images in this folder'),
                           (['x.jpg', '--csv_out', 'a/b.csv'], '--csv_out a/b.csv must be a file name'),
                           (['x.jpg', '--batch_size', 0], '--batch_size'),
                           (['x.jpg', '--zoom_tta', '0.9'], '--zoom_tta 0.9: factors must differ')):
        with pytest.raises(InputError, match=message):
            predict(*flags)
    assert not (tmp_path / 'results').exists()


def test_exit_status(predict, tiny, tmp_path):
    (tmp_path / 'x.jpg').write_text('text')
    with pytest.raises(SystemExit) as error:
        run_script(lambda: predict(tmp_path / 'x.jpg'))
    assert error.value.code.startswith('error: none of the images')
    run_script(lambda: predict(tmp_path / 'x.jpg', tiny / 'images' / 'test_0_0.jpg'))


def test_ids_are_relative_to_the_common_folder(tmp_path):
    for name in ('a/x.jpg', 'b/x.jpg', 'b/.hidden/x.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_new_images([tmp_path / 'a', tmp_path / 'b'])[1] == ['a/x.jpg', 'b/x.jpg']
    assert find_new_images([tmp_path / 'a'])[1] == find_new_images([tmp_path / 'a' / 'x.jpg'] * 2)[1] == ['x.jpg']
