"""The page of tools.serve in headless Chromium: the predictions of tools.predict, without a request to another machine."""
import contextlib
import csv as csv_module
import io
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.factories import ROOT, train_flags
from tools import calibrate, predict, serve
from train_lt_mxp import get_parser
from train_lt_mxp import main as train_main
from utils.common import InputError
from utils.data.new_images import unique_names
from utils.prediction.predictions import read_predictions

NETWORK = '''from torch import nn

def build(n_classes, pretrained, im_size):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, n_classes))
'''
# Prints the host and port of every connection, and the host of every look-up.
SERVER = '''import sys
def hook(event, args):
    if event in ('socket.connect', 'socket.getaddrinfo'):
        print('socket', args[1] if event == 'socket.connect' else args[:2], file=sys.stderr)
sys.addaudithook(hook)
from tests import tiny_network
from tools.serve import main
from utils.common import run_script
tiny_network.register()
run_script(main)
'''
CELLS = '[...document.querySelectorAll("[role=row]")].slice(1).map(r => [...r.querySelectorAll("[role=gridcell]")].map(c => c.innerText))'
BARS = 'Object.fromEntries([...document.querySelectorAll("meter")].map(m => [m.getAttribute("aria-label"), m.value]))'
PICTURE = '(i => i && i.complete && i.naturalWidth)(document.querySelector(".image-frame img"))'


@contextlib.contextmanager
def served(root, run, *flags):
    """Run the server. -> its address, process, output and folder for temporary files"""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    temporary = root / f'temporary_{port}'
    temporary.mkdir()
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'TMPDIR': str(temporary)}
    with open(root / f'{port}.log', 'w+') as log:
        command = [sys.executable, '-c', SERVER, '--load_path', run, '--port', str(port), '--device', 'cpu', *flags]
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            def output():
                return (root / f'{port}.log').read_text()
            end = time.monotonic() + 120
            while '* Open ' not in output():
                assert process.poll() is None and time.monotonic() < end, output()
                time.sleep(.1)
            yield SimpleNamespace(url=f'http://127.0.0.1:{port}/', process=process, output=output, temporary=temporary)
        finally:
            process.kill()
            process.wait()


def ended(server, number):
    """End the server by a signal. -> its last lines, without those about sockets"""
    server.process.send_signal(number)
    assert server.process.wait(60) == 0
    assert list(server.temporary.iterdir()) == []
    lines = server.output().splitlines()
    assert not [line for line in lines if line.startswith('socket') and "'127.0.0.1'" not in line]
    return [line for line in lines if not line.startswith('socket')]


@pytest.fixture(scope='module')
def root(tiny, tmp_path_factory):
    """A folder with two runs: `a` has decisions, `b` has a network without a feature map. `new` holds images."""
    root = tmp_path_factory.mktemp('served')
    with contextlib.chdir(root):
        train_main(get_parser().parse_args(train_flags(tiny, '--save_path a')))
        calibrate.main(['--load_path', 'experiments/a', '--num_workers', '0', '--abstain', '0.5'])
        (root / 'network.py').write_text(NETWORK)
        train_main(get_parser().parse_args(train_flags(tiny, '--save_path b --model_name network.py:build')))
        (root / 'new').mkdir()
        for i, name in enumerate(('0.jpg', 'Auge (1) ä.jpg', '<b>&.png', '3.tif', '4.jpg')):
            Image.open(tiny / 'images' / f'test_{i % 3}_{i // 3}.jpg').save(root / 'new' / name)
        (root / 'new' / '<i>text.png').write_text('text')
    return root


def upload(browser, server, files, width=1200):
    browser.open(server.url, width)
    browser.wait('!!document.querySelector("input[type=file]")')
    browser.choose_files('input[type=file]', files)
    browser.wait('document.body.innerText.includes("No predictions") || document.querySelectorAll("meter").length > 0')


def select(browser, row, image_id):
    """Click on a row of the table until its image is shown: the page may move while it loads. -> the text beside the image"""
    shown, end = '', time.monotonic() + 60
    while image_id not in shown and time.monotonic() < end:
        browser.click(f'[role=gridcell][data-row="{row}"]')
        time.sleep(.3)
        shown = browser.run('document.querySelector("h3").parentElement.innerText')
    return shown


def expected_of(root, run, *flags):
    """-> predictions of tools.predict for the images in `new`, in the order of the files there, and the text of its csv"""
    files = sorted((root / 'new').iterdir())
    with contextlib.chdir(root):
        predict.main(['--load_path', f'experiments/{run}', '--num_workers', '0', *flags, *map(str, files)])
        csv = root / 'results' / run / 'predictions.csv'
        return files, read_predictions(csv), csv.read_text()


def test_page(root, browser, tmp_path):
    files, table, csv = expected_of(root, 'a')
    with served(root, 'experiments/a') as server:
        for width in (1200, 400):
            upload(browser, server, files, width)
            cells = browser.wait(f'(c => c.length == 5 && c)({CELLS})')
            assert [row[0] for row in cells] == table.image_ids
            for row, probs in zip(cells, table.probs, strict=True):
                top = probs.argmax()
                assert row[1].split() == [table.class_names[top], f'{100 * probs[top]:.1f}', '%']
            rows = list(csv_module.DictReader(io.StringIO(csv)))
            assert [row[4:] for row in cells] == [[row['prediction_set'], row['not_sure']] for row in rows]
            text = browser.run('document.body.innerText')
            assert '<i>text.png: not an image in a supported format' in text and 'It is not a medical device' in text
            assert 'decision.json, fitted on 9 images' in text and 'Possible classes: ' in text
            browser.wait(f'{PICTURE} >= 512')
            assert browser.run('document.documentElement.scrollWidth <= innerWidth')
            assert all(url.startswith(server.url) for url in browser.requests())
            assert not [message for message in browser.messages if message.get('type') == 'error' or 'exceptionDetails' in message]
        assert oct(next(server.temporary.iterdir()).stat().st_mode)[-3:] == '700'

        upload(browser, server, files)
        for row, (image_id, probs) in enumerate(zip(table.image_ids, table.probs, strict=True)):
            shown = select(browser, row, image_id)
            unsure = cells[row][5] == 'yes'
            assert image_id in shown and shown.startswith('Not sure (most likely ' if unsure else f'{table.class_names[probs.argmax()]}: ')
            bars = browser.wait(f'(b => Math.abs(b.{table.class_names[0]} - {probs[0]}) < 1e-6 && b)({BARS})')
            np.testing.assert_allclose([bars[name] for name in table.class_names], probs, atol=1e-6)
        assert {row[5] for row in cells} == {'yes', 'no'}

        browser.call('Page.setDownloadBehavior', behavior='allow', downloadPath=str(tmp_path))
        browser.run('[...document.querySelectorAll("button")].find(b => b.innerText.includes("csv")).click()')
        end = time.monotonic() + 60
        while not (tmp_path / 'predictions.csv').exists() and time.monotonic() < end:
            time.sleep(.1)
        assert (tmp_path / 'predictions.csv').read_text() == csv
        assert ended(server, signal.SIGINT)[-1].startswith(f'* Open {server.url.rstrip("/")} in a browser')


def test_page_without_decisions_and_heat_maps(root, browser):
    files, table, _ = expected_of(root, 'b', '--model_name', 'network.py:build')
    with served(root, 'experiments/b', '--model_name', 'network.py:build') as server:
        upload(browser, server, [file for file in files if file.name == '<i>text.png'])
        text = browser.run('document.body.innerText')
        assert 'none of the images can be read' in text and '<i>text.png: not an image' in text
        assert 'The probabilities are not calibrated. To calibrate them, run python -m tools.calibrate --load_path experiments/b' in text
        assert 'There are no heat maps' in text and 'Possible classes' not in text
        upload(browser, server, files, 400)
        cells = browser.wait(f'(c => c.length == 5 && c)({CELLS})')
        assert [row[0] for row in cells] == table.image_ids and {len(row) for row in cells} == {4}
        bars = browser.run(BARS)
        np.testing.assert_allclose([bars[name] for name in table.class_names], table.probs[0], atol=1e-6)
        assert not browser.run(PICTURE) and browser.run('document.documentElement.scrollWidth <= innerWidth')
        assert 'Traceback' not in '\n'.join(ended(server, signal.SIGTERM))


def test_a_port_in_use():
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f'--port {port} cannot be used'):
            serve.main(['--load_path', 'none', '--port', str(port)])
    for port in (0, 70000):
        with pytest.raises(InputError, match=f'--port {port} cannot be used'):
            serve.main(['--load_path', 'none', '--port', str(port)])


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    monkeypatch.setattr(signal, 'signal', lambda *arguments: None)
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match='the page needs gradio, which is missing: pip install gradio'):
        serve.main(['--load_path', 'none', '--port', str(port)])


def test_names_of_uploads_are_unique():
    names = ['a.jpg', 'b/a.jpg', 'a (2).jpg', 'a.jpg', 'x\ny', '\ud800']
    assert unique_names(names) == ['a.jpg', 'a (2).jpg', 'a (2) (2).jpg', 'a (3).jpg', 'x\ufffdy', '?']
