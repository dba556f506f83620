"""Downloading, and get_endo_data.sh, against a server on this machine."""
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import download_file
from utils.common import InputError

from .test_prepare_endo_data import write_zip

ROOT = Path(__file__).parent.parent


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, as the real server does; `short` closes the connection after that many bytes."""
    short, ranges = None, []

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        value = self.headers.get('Range')
        begin = int(value.removeprefix('bytes=').removesuffix('-')) if value else 0
        Server.ranges.append(begin)
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if value else 200)
        self.send_header('Content-Length', str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][:Server.short])

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp('www')
    write_zip(folder / 'endo.zip')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Server, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}/endo.zip', folder / 'endo.zip'
        httpd.shutdown()


def test_download_continues(server, tmp_path, monkeypatch):
    url, source = server
    out = tmp_path / 'new' / 'endo.zip'
    monkeypatch.setattr(Server, 'short', 5000)
    with pytest.raises(InputError, match='run the command again'):
        download_file.download(url, str(out))
    assert not out.exists() and os.path.getsize(f'{out}.part') == 5000
    monkeypatch.setattr(Server, 'short', None)
    Server.ranges.clear()
    download_file.download(url, str(out))
    assert Server.ranges == [5000] and out.read_bytes() == source.read_bytes() and os.listdir(out.parent) == ['endo.zip']
    (out.parent / 'endo.zip.part').write_bytes(source.read_bytes() + b'more')  # left over from another file
    download_file.download(url, str(out))
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(('url', 'message'), [('http://example.org/a', 'no https address'), ('file:///etc/passwd', 'no https address'),
                                              ('http://127.0.0.1:1/a', 'cannot be downloaded .* with a browser and put it at')])
def test_download_errors(tmp_path, url, message):
    with pytest.raises(InputError, match=message):
        download_file.download(url, str(tmp_path / 'a'))


def test_get_endo_data_script(server, tmp_path):
    """The shell script end to end: download, digest, images, folds."""
    url, source = server
    for name in ('get_endo_data.sh', 'tools', 'utils', 'models', 'requirements.txt'):
        (tmp_path / name).symlink_to(ROOT / name)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    env = os.environ | {'ENDO_URL': url, 'VIRTUAL_ENV': sys.prefix}

    def script(*flags):
        command = ['bash', tmp_path / 'get_endo_data.sh', '--n_images', '230', '--num_workers', '1', *flags]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    mistyped = script('--selekt', '.1')  # ends before the download
    assert mistyped.returncode == 2 and 'unrecognized arguments: --selekt' in mistyped.stderr and not (tmp_path / 'data').exists()
    wrong = script('--sha256', 'f' * 64)
    assert wrong.returncode == 1 and 'is not the expected file' in wrong.stderr and not (tmp_path / 'data/images').exists()
    done = script('--sha256', digest)
    assert done.returncode == 0, done.stderr
    assert f'SHA-256 {digest}' in done.stdout and len(list((tmp_path / 'data/images').iterdir())) == 230
    assert not (tmp_path / 'data/hyper-kvasir-labeled-images.zip').exists()
    assert 'no such file' in script('--zip', 'absent.zip').stderr
