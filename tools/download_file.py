"""Download one file over HTTPS; an interrupted download goes on where it stopped.

Example, the archive that get_endo_data.sh takes (4 GB):

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

TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


def _is_local(url):
    """True for http of this machine, which tests and tunnels need."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == 'http' and parts.hostname in ('localhost', '127.0.0.1')


def _check_address(url, local=True):
    """Raise `InputError` unless `url` is an https address, or one of this machine where `local` permits it."""
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  raises where it is no number
    except ValueError as err:
        raise InputError(f'{one_line(url)} is no https address: {one_line(err)}') from err
    if not (parts.hostname and (parts.scheme == 'https' or (local and _is_local(url)))):
        raise InputError(f'{one_line(url)} is no https address')
    if not re.fullmatch('[!-~]+', url):
        raise InputError(f'{one_line(url)} is no https address: blanks and letters that are not ASCII are written as %20 and the like')


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows up to ten redirects, each of them to https; only this machine may redirect to itself over http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        fp.close()  # else its body, of any size, is read into memory
        try:
            _check_address(newurl, _is_local(req.full_url))
        except InputError as err:
            raise InputError(f'{one_line(req.full_url)} redirects to an address that is refused: {err}') from err
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Part(NamedTuple):
    """What `out`.part.json says of the bytes in `out`.part."""
    url: str
    validator: str | None  # ETag or Last-Modified of the file on the server; without it, nothing can be added to the bytes
    total: int | None  # bytes of the whole file, where the server says it

    @classmethod
    def read(cls, path):
        """None where there is no such file, or another one."""
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
    """Turn what a network and a server can do into one line that says how to go on; `resumes`: true if the bytes so far can be kept."""
    try:
        yield
    except InputError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as err:  # ValueError: broken addresses and lengths
        go_on = 'to go on where it stopped' if resumes else 'to download it again'
        raise InputError(f'{url} cannot be downloaded ({one_line(err) or type(err).__name__}): run the command again {go_on}, or fetch the '
                         f'file with a browser and put it at {out}') from err


def _open(url, begin=0, validator=None):
    """The server's answer: the bytes from `begin` on if the file is still that of `validator`, else the whole file."""
    request = urllib.request.Request(url, headers={'Range': f'bytes={begin}-', 'If-Range': validator} if begin else {})
    return urllib.request.build_opener(_CheckedRedirects).open(request, timeout=TIMEOUT)


def _validator(answer):
    etag = answer.headers['ETag']
    value = etag if etag and not etag.startswith('W/') else answer.headers['Last-Modified']  # a weak ETag is not for ranges
    return value if _is_text(value) else None


def _length(answer):
    """Content-Length; None without it. Raises `ValueError` for what is no length."""
    text = answer.headers['Content-Length']
    if text is None or answer.headers['Transfer-Encoding'] is not None:
        return None
    if not re.fullmatch('[0-9]{1,18}', text.strip()):
        raise ValueError(f'the server sends the length {text!r}')
    return int(text)


def _total(answer, begin, part):
    """Bytes of the whole file if `answer` holds those from `begin` on, of the same file as `part`; else None."""
    found = re.fullmatch(r'bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)', (answer.headers['Content-Range'] or '').strip())
    if answer.status != 206 or not found or _validator(answer) not in (None, part.validator):
        return None
    first, end = int(found[1]), int(found[2]) + 1
    total = part.total if found[3] == '*' else int(found[3])
    fits = total is not None and begin == first < end <= total and total == (part.total or total) and _length(answer) in (None, end - begin)
    return total if fits else None


def _resume(url, begin, part):
    """-> the answer with the rest of the file after `begin` bytes, and the file's size; the answer with the whole of a changed file, and
    None; or None, None where the file must be asked for again."""
    try:
        answer = _open(url, begin, part.validator)
    except urllib.error.HTTPError as err:
        if err.code != 416:  # the server has no bytes beyond `begin`: the file is another one now
            raise
        err.close()
        return None, None
    total = _total(answer, begin, part)
    if total or answer.status == 200:
        return answer, total
    answer.close()
    return None, None


def download(url, out):
    """Write `url` to `out`, which appears only when it is complete; until then the bytes are in `out`.part, and `out`.part.json says which
    file of the server they belong to. Raises `InputError` that says how to go on."""
    _check_address(url)
    path, state = f'{out}.part', f'{out}.part.json'
    part = _Part.read(state)
    resumes = part is not None and part.url == url and os.path.isfile(path)
    begin = os.path.getsize(path) if resumes else 0
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    if begin == 0 or begin != part.total:  # else the end of the last run came between the last byte and the new name
        with _network_errors(url, out, resumes):
            answer, total = _resume(url, begin, part) if begin else (None, None)
            answer = answer or _open(url)
            if total is None and answer.status != 200:
                raise ValueError(f'the server answers with status {answer.status}')
            part = part._replace(total=total) if total else _Part(url, _validator(answer), _length(answer))
        _write(answer, out, part, begin if total else 0)
    os.replace(path, out)
    os.remove(state)


def _write(answer, out, part, begin):
    """Write `answer` to `out`.part, which keeps its first `begin` bytes. Raises `InputError` where it is not the whole file then."""
    path = f'{out}.part'
    with answer, open(path, 'ab' if begin else 'wb', opener=no_link) as f, \
            tqdm(total=part.total, initial=begin, unit='B', unit_scale=True, desc=os.path.basename(out), disable=None) as bar:
        write_text(f'{path}.json', json.dumps(part._asdict()))  # after the bytes of another file are gone
        while True:
            with _network_errors(part.url, out, part.validator):
                chunk = answer.read(CHUNK)
            if not chunk:
                break
            f.write(chunk)
            bar.update(len(chunk))
    with _network_errors(part.url, out, part.validator):
        if part.total is not None and os.path.getsize(path) != part.total:
            raise ValueError(f'{os.path.getsize(path)} of {part.total} bytes arrived')


def fetch(url, out, md5):
    """`download`, unless `out` exists, and compare its MD5 with the published one."""
    if not os.path.exists(out):
        download(url, out)
    if file_digest(out, 'md5') != md5:
        raise InputError(f'{out} is not the file that {url} is known for (its MD5 differs from {md5}): delete it to download it again')


def get_parser():
    parser = script_parser(__doc__)
    parser.add_argument('url', help='https address of the file')
    parser.add_argument('--out', required=True, metavar='FILE', help='file to write; a complete one is not downloaded again')
    parser.add_argument('--sha256', metavar='HEX', help='expected SHA-256 of the file (default: any)')
    return parser


def main(argv=None):
    args = get_parser().parse_args(argv)
    if not os.path.exists(args.out):
        download(args.url, args.out)
    digest = file_sha256(args.out)
    print(f'* {args.out}: SHA-256 {digest}')
    if args.sha256 and args.sha256.lower() != digest:
        raise InputError(f'{args.out} is not the expected file: --sha256 says {args.sha256}; delete it to download it again')
    say_next('make data of it, if it is Hyper-Kvasir', 'python', '-m', 'tools.prepare_endo_data', '--zip', args.out)


if __name__ == '__main__':
    run_script(main)
