"""tools.download_file and get_endo_data.sh, tested against servers on this machine."""
import contextlib
import functools
import hashlib
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from tests.factories import ROOT, write_endo_zip
from tools import download_file
from utils.common import InputError


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, as the real server does; closes the connection after `short` bytes."""
    short, ranges = None, []

    def do_GET(self):
        content = Path(self.translate_path(self.path)).read_bytes()
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        value = self.headers.get('Range') if self.headers.get('If-Range') == etag else None
        begin = int(value.removeprefix('bytes=').removesuffix('-')) if value else 0
        Server.ranges.append(begin)
        if begin >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if value else 200)
        self.send_header('Content-Length', str(len(content) - begin))
        self.send_header('ETag', etag)
        if value:
            self.send_header('Content-Range', f'bytes {begin}-{len(content) - 1}/{len(content)}')
        self.end_headers()
        self.wfile.write(content[begin:][:Server.short])

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp('www')
    write_endo_zip(folder / 'endo.zip')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Server, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_port}/endo.zip', folder / 'endo.zip'
        httpd.shutdown()


def test_an_interrupted_download_is_resumed(server, tmp_path, monkeypatch):
    url, source = server
    out = tmp_path / 'new' / 'endo.zip'
    monkeypatch.setattr(Server, 'short', 5000)
    with pytest.raises(InputError, match='run the command again to resume'):
        download_file.download(url, str(out))
    assert not out.exists() and os.path.getsize(f'{out}.part') == 5000
    monkeypatch.setattr(Server, 'short', None)
    Server.ranges.clear()
    download_file.download(url, str(out))
    assert Server.ranges == [5000] and out.read_bytes() == source.read_bytes() and os.listdir(out.parent) == ['endo.zip']


def test_a_part_without_a_record_is_not_resumed(server, tmp_path):
    url, source = server
    (tmp_path / 'endo.zip.part').write_bytes(source.read_bytes() + b'more')
    download_file.download(url, str(tmp_path / 'endo.zip'))
    assert (tmp_path / 'endo.zip').read_bytes() == source.read_bytes()


class Answers:
    """A server that sends the nth of `answers` to the nth connection, whatever the request, and closes it. For None it sends nothing.
    `requests`: the requests received, as text."""

    def __init__(self, *answers):
        self.requests, self.done = [], threading.Event()
        self.socket = socket.create_server(('127.0.0.1', 0))
        self.port = self.socket.getsockname()[1]
        self.url = f'http://127.0.0.1:{self.port}/file.zip'
        threading.Thread(target=self._serve, args=(answers,), daemon=True).start()

    def _serve(self, answers):
        for answer in answers:
            with contextlib.suppress(OSError), self.socket.accept()[0] as connection:  # the client may have gone
                request = b''
                while b'\r\n\r\n' not in request and (more := connection.recv(65536)):
                    request += more
                self.requests.append(request.decode())
                if answer is None:
                    self.done.wait()
                else:
                    connection.sendall(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.done.set()
        self.socket.close()


def answer(status=200, body=b'', **headers):
    """-> the bytes of a response. Headers are given as ETag='"a"' or Content_Range='...'; Content-Length defaults to that of the body."""
    headers = {'Content_Length': len(body)} | headers
    lines = [f'HTTP/1.1 {status} X', *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None)]
    return ''.join(f'{line}\r\n' for line in lines).encode() + b'\r\n' + body


FILE = b'0123456789'
FIRST = answer(200, FILE[:4], Content_Length=10, ETag='"a"')  # the connection ends after four of ten bytes
REST = {'status': 206, 'body': FILE[4:], 'Content_Range': 'bytes 4-9/10', 'ETag': '"a"'}


def cut_then(tmp_path, first, *later):
    """Download twice; the connection breaks in the first run. -> (content of the file that the second run writes, requests)"""
    out = tmp_path / 'out'
    with Answers(first, *later) as at:
        with pytest.raises(InputError, match='run the command again'):
            download_file.download(at.url, str(out))
        download_file.download(at.url, str(out))
        assert not (tmp_path / 'out.part').exists() and not (tmp_path / 'out.part.json').exists()
        return out.read_bytes(), at.requests


def test_the_rest_is_requested_with_the_etag_of_the_first_part(tmp_path):
    content, requests = cut_then(tmp_path, FIRST, answer(**REST))
    assert content == FILE and 'Range: bytes=4-\r\nIf-Range: "a"\r\n' in requests[1]


@pytest.mark.parametrize('etag', [{}, {'ETag': 'W/"a"'}], ids=['none', 'weak'])
def test_without_a_strong_etag_last_modified_is_sent(tmp_path, etag):
    time = {'Last_Modified': 'Wed, 21 Oct 2015 07:28:00 GMT'}
    first = answer(200, FILE[:4], Content_Length=10, **etag, **time)
    _, requests = cut_then(tmp_path, first, answer(**REST | {'ETag': None} | etag | time))
    assert 'If-Range: Wed, 21 Oct 2015 07:28:00 GMT\r\n' in requests[1]


def test_without_a_validator_the_whole_file_is_requested(tmp_path):
    content, requests = cut_then(tmp_path, answer(200, FILE[:4], Content_Length=10), answer(200, FILE))
    assert content == FILE and 'Range' not in requests[1]


def test_a_changed_file_is_downloaded_from_the_start(tmp_path):
    content, requests = cut_then(tmp_path, FIRST, answer(200, b'changed', ETag='"b"'))
    assert content == b'changed' and len(requests) == 2


@pytest.mark.parametrize('rest', [
    {'Content_Range': 'bytes 0-5/10'}, {'Content_Range': 'bytes 5-9/10', 'body': FILE[5:]}, {'Content_Range': 'bytes 4-9/11'},
    {'Content_Range': 'bytes 4-9/9'}, {'Content_Range': None}, {'Content_Range': 'lines 4-9/10'}, {'Content_Range': 'bytes 9-4/10'},
    {'Content_Range': 'bytes 4-8/10'}, {'ETag': '"b"'}, {'status': 204, 'body': b''}, {'status': 416, 'body': b''},
    {'Content_Range': f"bytes 4-{'9' * 5000}/10"}],
    ids=['from 0', 'from 5', 'longer', 'too short', 'no range', 'unit', 'backwards', 'other length', 'other ETag', 'no content', 'beyond',
         'absurd'])
def test_a_response_that_does_not_continue_the_part_is_not_appended(tmp_path, rest):
    content, requests = cut_then(tmp_path, FIRST, answer(**REST | rest), answer(200, FILE))
    assert content == FILE and 'Range' not in requests[2]


def test_the_size_in_the_first_response_is_enough(tmp_path):
    assert cut_then(tmp_path, FIRST, answer(**REST | {'Content_Range': 'bytes 4-9/*'}))[0] == FILE


def test_parts_of_the_rest_are_joined(tmp_path):
    """A server may send less than was requested."""
    with Answers(FIRST, answer(206, FILE[4:6], Content_Range='bytes 4-5/10', ETag='"a"'),
                 answer(206, FILE[6:], Content_Range='bytes 6-9/10', ETag='"a"')) as at:
        for arrived in (4, 6):
            with pytest.raises(InputError, match=f'{arrived} of 10 bytes arrived'):
                download_file.download(at.url, str(tmp_path / 'out'))
        download_file.download(at.url, str(tmp_path / 'out'))
    assert (tmp_path / 'out').read_bytes() == FILE


def test_a_cut_chunked_response_is_downloaded_again(tmp_path):
    chunked = {'Transfer_Encoding': 'chunked', 'Content_Length': None, 'ETag': '"a"'}
    with Answers(answer(200, b'4\r\n0123\r\nff\r\n', **chunked), answer(200, b'4\r\n0123\r\n0\r\n\r\n', **chunked)) as at:
        with pytest.raises(InputError, match='IncompleteRead'):
            download_file.download(at.url, str(tmp_path / 'out'))
        download_file.download(at.url, str(tmp_path / 'out'))
    assert (tmp_path / 'out').read_bytes() == b'0123'


def test_the_part_of_another_address_is_not_resumed(tmp_path):
    with Answers(FIRST, answer(200, FILE)) as at:
        with pytest.raises(InputError):
            download_file.download(at.url, str(tmp_path / 'out'))
        download_file.download(f'{at.url}?version=2', str(tmp_path / 'out'))
        assert 'Range' not in at.requests[1] and (tmp_path / 'out').read_bytes() == FILE


def test_a_complete_part_is_renamed(tmp_path):
    (tmp_path / 'out.part').write_bytes(FILE)
    (tmp_path / 'out.part.json').write_text(json.dumps({'url': 'https://example.org/a', 'validator': '"a"', 'total': 10}))
    download_file.download('https://example.org/a', str(tmp_path / 'out'))
    assert (tmp_path / 'out').read_bytes() == FILE


@pytest.mark.parametrize('text', ['', '{}', '[' * 100_000, '{"url": "URL", "validator": 7, "total": 10}', '\xff',
                                  '{"url": "URL", "validator": "a\\r\\nHost: x", "total": 10}',
                                  '{"url": "URL", "validator": "a", "total": "10"}'])
def test_a_broken_record_of_the_part_restarts_the_download(tmp_path, text):
    with Answers(answer(200, FILE)) as at:
        (tmp_path / 'out.part').write_bytes(b'0123')
        (tmp_path / 'out.part.json').write_text(text.replace('URL', at.url), encoding='latin1')
        download_file.download(at.url, str(tmp_path / 'out'))
        assert 'Range' not in at.requests[0] and (tmp_path / 'out').read_bytes() == FILE


@pytest.mark.parametrize('first', [
    answer(200, b'5\r\n012', Transfer_Encoding='chunked', Content_Length=None), b'HTTP/1.1 abc X\r\n\r\n', b'', b'SSH-2.0-x\r\n', None,
    b'HTTP/1.1 200 ' + b'x' * 70_000 + b'\r\n\r\n', answer(200, FILE, Content_Length='abc'), answer(200, FILE, Content_Length='-1'),
    answer(200, FILE, Content_Length='9' * 5000), answer(200, FILE, Content_Length=20),
    answer(200, b'-5\r\n01234', Transfer_Encoding='chunked', Content_Length=None), answer(404), answer(500), answer(204), answer(206, FILE),
    answer(200, FILE, **{f'X{i}': i for i in range(200)}), answer(302), answer(302, Location='http://[::1/'),
    answer(302, Location='https://a:b/'), answer(302, Location='https://'), answer(302, Location='https://exa mple.org:99999/'),
    b'HTTP/1.1 404 \x1b[2J\x1b]0;x\x07\r\n\r\n'],
    ids=['cut chunk', 'status', 'nothing', 'other protocol', 'timeout', 'long line', 'length abc', 'length -1', 'absurd length', 'cut',
         'negative chunk', '404', '500', '204', '206', '200 headers', 'no location', 'location', 'location port', 'location host',
         'location blank', 'escape'])
def test_a_bad_response_gives_a_one_line_error(tmp_path, monkeypatch, first):
    monkeypatch.setattr(download_file, 'TIMEOUT', .5)
    with Answers(first) as at, pytest.raises(InputError, match=r'cannot be downloaded|redirects to a forbidden address') as error:
        download_file.download(at.url, str(tmp_path / 'out'))
    assert str(error.value).isprintable() and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('location', ['http://example.org/a', 'http://localhost.example.org/a', 'ftp://example.org/a', '//example.org/a',
                                      'http://127.0.0.1@example.org/'])
def test_a_redirect_to_another_machine_must_be_https(tmp_path, location):
    with Answers(answer(302, Location='/next'), answer(302, Location=location)) as at, pytest.raises(InputError, match=r'/next.*https'):
        download_file.download(at.url, str(tmp_path / 'out'))


def test_a_relative_redirect_is_followed(tmp_path):
    with Answers(answer(302, Location='/other?a=1'), answer(307, Location='third'), answer(200, FILE)) as at:
        download_file.download(at.url, str(tmp_path / 'out'))
        assert [request.split()[1] for request in at.requests] == ['/file.zip', '/other?a=1', '/third']
    assert (tmp_path / 'out').read_bytes() == FILE


def test_a_redirect_loop_ends(tmp_path):
    with Answers(*[answer(302, Location='/file.zip')] * 20) as at, pytest.raises(InputError, match='infinite loop') as error:
        download_file.download(at.url, str(tmp_path / 'out'))
    assert str(error.value).isprintable() and len(at.requests) <= 11


def test_the_body_of_a_redirect_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(download_file, 'TIMEOUT', 20)
    with Answers(answer(302, b'x', Location='/b', Content_Length=10 ** 15), answer(200, FILE)) as at:
        download_file.download(at.url, str(tmp_path / 'out'))
    assert (tmp_path / 'out').read_bytes() == FILE


@pytest.fixture
def https(monkeypatch):
    """Serves https://example.org/ from an `Answers` server without encryption: `https(at)`."""
    def serve(at):
        def open_https(self, request):
            return self.do_open(lambda host, timeout: http.client.HTTPConnection('127.0.0.1', at.port, timeout=timeout), request)
        monkeypatch.setattr(urllib.request.HTTPSHandler, 'https_open', open_https)
    return serve


@pytest.mark.parametrize('location', ['http://example.org/b', 'http://127.0.0.1/b', 'http://localhost/b'])
def test_https_may_not_redirect_through_http(tmp_path, https, location):
    with Answers(answer(302, Location=location), answer(302, Location='https://example.org/c'), answer(200, FILE)) as at:
        https(at)
        with pytest.raises(InputError, match=f'https://example.org/a redirects to a forbidden address: {location} is not an https'):
            download_file.download('https://example.org/a', str(tmp_path / 'out'))
        assert len(at.requests) == 1


def test_https_may_redirect_to_https(tmp_path, https):
    with Answers(answer(302, Location='https://example.com/b'), answer(301, Location='c'), answer(200, FILE)) as at:
        https(at)
        download_file.download('https://example.org/a', str(tmp_path / 'out'))
    assert (tmp_path / 'out').read_bytes() == FILE


def test_a_link_in_place_of_the_part_is_refused(tmp_path):
    (tmp_path / 'other').write_text('kept')
    (tmp_path / 'out.part').symlink_to(tmp_path / 'other')
    with Answers(answer(200, FILE)) as at, pytest.raises(OSError, match=r'out\.part'):
        download_file.download(at.url, str(tmp_path / 'out'))
    assert (tmp_path / 'other').read_text() == 'kept'


@pytest.mark.parametrize('url', ['http://example.org/a', 'file:///etc/passwd', 'https://[::1/a', 'https://a:b/c', 'https://a:99999/c', 'https://',
                                 'https:///a', 'text', '', 'https://example.org/a b', 'https://example.org/\xe4', 'https://example.org/\n'])
def test_addresses_that_are_refused(tmp_path, url):
    with pytest.raises(InputError, match='not an https address') as error:
        download_file.download(url, str(tmp_path / 'a'))
    assert str(error.value).isprintable()


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/a', f"https://{'a' * 70}.invalid/a", 'https://user:word@127.0.0.1:1/'])
def test_addresses_that_do_not_answer(tmp_path, url):
    with pytest.raises(InputError, match=r'cannot be downloaded .* with a browser and save it as') as error:
        download_file.download(url, str(tmp_path / 'a'))
    assert str(error.value).isprintable()


def test_get_endo_data_script(server, tmp_path):
    """Run the whole shell script: download, digest, images and folds."""
    url, source = server
    for name in ('get_endo_data.sh', 'tools', 'utils', 'models', 'requirements.txt'):
        (tmp_path / name).symlink_to(ROOT / name)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    env = os.environ | {'ENDO_URL': url, 'VIRTUAL_ENV': sys.prefix}

    def script(*flags):
        command = ['bash', tmp_path / 'get_endo_data.sh', '--n_images', '230', '--num_workers', '1', *flags]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    mistyped = script('--selekt', '.1')  # fails before the download
    assert mistyped.returncode == 2 and 'unrecognized arguments: --selekt' in mistyped.stderr and not (tmp_path / 'data').exists()
    wrong = script('--sha256', 'f' * 64)
    assert wrong.returncode == 1 and 'is not the expected file' in wrong.stderr and not (tmp_path / 'data/images').exists()
    done = script('--sha256', digest)
    assert done.returncode == 0, done.stderr
    assert f'SHA-256 {digest}' in done.stdout and len(list((tmp_path / 'data/images').iterdir())) == 230
    assert not (tmp_path / 'data/hyper-kvasir-labeled-images.zip').exists()
    assert 'no such file' in script('--zip', 'absent.zip').stderr
