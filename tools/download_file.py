"""Download one file over HTTPS, and resume the download if it was interrupted.

Example, with the zip that get_endo_data.sh downloads (4 GB):

  python -m tools.download_file https://datasets.simula.no/downloads/hyper-kvasir/hyper-kvasir-labeled-images.zip --out data/hk.zip
"""
import contextlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from tqdm import tqdm

from utils.cli import say_next, script_parser
from utils.common import InputError, file_digest, file_sha256, no_link, run_script, write_text
from utils.datasets.archives import one_line

TIMEOUT = 60  # seconds without data
CHUNK = 1 << 20


def _is_local(url):
    """True for plain http on this machine, which tests and tunnels use."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == 'http' and parts.hostname in ('localhost', '127.0.0.1')


def _check_address(url, local=True):
    """Raise `InputError` unless `url` is an https address or, with `local`, an http address of this machine."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  raises if the port is not a number
    except ValueError as err:
        raise InputError(f'{one_line(url)} is not an https address: {one_line(err)}') from err
    if not (parts.hostname and (parts.scheme == 'https' or (local and _is_local(url)))):
        raise InputError(f'{one_line(url)} is not an https address')
    if not re.fullmatch('[!-~]+', url):
        raise InputError(f'{one_line(url)} is not an https address: percent-encode blanks and non-ASCII characters (%20, ...)')


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows up to ten redirects to https addresses; only this machine may redirect to itself over http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        fp.close()  # otherwise urllib reads its body, of any size, into memory
        try:
            _check_address(newurl, _is_local(req.full_url))
        except InputError as err:
            raise InputError(f'{one_line(req.full_url)} redirects to a forbidden address: {err}') from err
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Part(NamedTuple):
    """Contents of `out`.part.json, which describes the bytes in `out`.part."""
    url: str
    validator: str | None  # ETag or Last-Modified of the file on the server; without it, the download cannot be resumed
    total: int | None  # size of the whole file in bytes, if the server reports it

    @classmethod
    def read(cls, path):
        """-> the contents of the file at `path`; None if it is missing or invalid"""
        try:
            with open(path, encoding='utf-8') as f:
                part = cls(**json.load(f))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return part if isinstance(part.url, str) and _is_text(part.validator) and type(part.total) in (int, type(None)) else None


def _is_text(value):
    return isinstance(value, str) and bool(re.fullmatch('[ -~]+', value))


@contextlib.contextmanager
def _network_errors(url, out, resumes):
    """Turn network and server errors into one line that says how to continue. `resumes`: true if the downloaded bytes can be kept."""
    try:
        yield
    except InputError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as err:  # ValueError: invalid addresses and lengths
        what_next = 'to resume' if resumes else 'to start over'
        raise InputError(f'{url} cannot be downloaded ({one_line(err) or type(err).__name__}): run the command again {what_next}, or '
                         f'download the file with a browser and save it as {out}') from err


def _open(url, begin=0, validator=None):
    """-> the server's response: the bytes from `begin` on if the file still matches `validator`, else the whole file"""
    request = urllib.request.Request(url, headers={'Range': f'bytes={begin}-', 'If-Range': validator} if begin else {})
    return urllib.request.build_opener(_CheckedRedirects).open(request, timeout=TIMEOUT)


def _validator(answer):
    etag = answer.headers['ETag']
    value = etag if etag and not etag.startswith('W/') else answer.headers['Last-Modified']  # a weak ETag does not work with ranges
    return value if _is_text(value) else None


def _length(answer):
    """-> the Content-Length, or None if there is none. Raises `ValueError` for an invalid one."""
    text = answer.headers['Content-Length']
    if text is None or answer.headers['Transfer-Encoding'] is not None:
        return None
    if not re.fullmatch('[0-9]{1,18}', text.strip()):
        raise ValueError(f'the server sent the Content-Length {text!r}')
    return int(text)


def _total(answer, begin, part):
    """-> the size of the whole file if `answer` holds its bytes from `begin` on and it is the file of `part`; else None"""
    found = re.fullmatch(r'bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)', (answer.headers['Content-Range'] or '').strip())
    if answer.status != 206 or not found or _validator(answer) not in (None, part.validator):
        return None
    first, end = int(found[1]), int(found[2]) + 1
    total = part.total if found[3] == '*' else int(found[3])
    fits = total is not None and begin == first < end <= total and total == (part.total or total) and _length(answer) in (None, end - begin)
    return total if fits else None


def _resume(url, begin, part):
    """-> (response with the bytes from `begin` on, size of the file); (response with the whole file, None) if the file has changed;
    (None, None) if the file must be requested again"""
    try:
        answer = _open(url, begin, part.validator)
    except urllib.error.HTTPError as err:
        if err.code != 416:  # no bytes beyond `begin`: the file on the server has changed
            raise
        err.close()
        return None, None
    total = _total(answer, begin, part)
    if total or answer.status == 200:
        return answer, total
    answer.close()
    return None, None


def download(url, out):
    """Download `url` to `out`, which appears only when it is complete. Until then the bytes are in `out`.part, and `out`.part.json says to
    which file on the server they belong. Raises `InputError` that says how to continue."""
    _check_address(url)
    path, state = f'{out}.part', f'{out}.part.json'
    part = _Part.read(state)
    resumes = part is not None and part.url == url and os.path.isfile(path)
    begin = os.path.getsize(path) if resumes else 0
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    if begin == 0 or begin != part.total:  # otherwise the last run was killed just before the renaming below
        with _network_errors(url, out, resumes):
            answer, total = _resume(url, begin, part) if begin else (None, None)
            answer = answer or _open(url)
            if total is None and answer.status != 200:
                raise ValueError(f'the server answered with status {answer.status}')
            part = part._replace(total=total) if total else _Part(url, _validator(answer), _length(answer))
        _write(answer, out, part, begin if total else 0)
    os.replace(path, out)
    os.remove(state)


def _write(answer, out, part, begin):
    """Write `answer` to `out`.part, after its first `begin` bytes. Raises `InputError` if the file is incomplete afterwards."""
    path = f'{out}.part'
    with answer, open(path, 'ab' if begin else 'wb', opener=no_link) as f, \
            tqdm(total=part.total, initial=begin, unit='B', unit_scale=True, desc=os.path.basename(out), disable=None) as bar:
        write_text(f'{path}.json', json.dumps(part._asdict()))  # not before the bytes of an older file are gone
        while True:
            with _network_errors(part.url, out, part.validator):
                chunk = answer.read(CHUNK)
            if not chunk:
                break
            f.write(chunk)
            bar.update(len(chunk))
    with _network_errors(part.url, out, part.validator):
        if part.total is not None and os.path.getsize(path) != part.total:
            raise ValueError(f'only {os.path.getsize(path)} of {part.total} bytes arrived')


def fetch(url, out, md5):
    """Download `url` to `out` unless it exists, and compare its MD5 with the published one."""
    if not os.path.exists(out):
        download(url, out)
    if file_digest(out, 'md5') != md5:
        raise InputError(f'{out} is not the published file of {url} (its MD5 is not {md5}): delete it to download it again')


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('url', help='https address of the file')
    parser.add_argument('--out', required=True, metavar='FILE', help='file to write; if it exists, nothing is downloaded')
    parser.add_argument('--sha256', metavar='HEX', help='expected SHA-256 of the file (default: any)')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not os.path.exists(args.out):
        download(args.url, args.out)
    digest = file_sha256(args.out)
    print(f'* {args.out}: SHA-256 {digest}')
    if args.sha256 and args.sha256.lower() != digest:
        raise InputError(f'{args.out} is not the expected file, its SHA-256 is not --sha256 {args.sha256}: delete it to download it again')
    say_next('prepare the data, if this is Hyper-Kvasir', 'python', '-m', 'tools.prepare_endo_data', '--zip', args.out)


if __name__ == '__main__':
    run_script(main)
