"""Download one file over HTTPS; an interrupted download goes on where it stopped.

Example, the archive that get_endo_data.sh takes (4 GB):

  python -m tools.download_file https://datasets.simula.no/downloads/hyper-kvasir/hyper-kvasir-labeled-images.zip --out data/hk.zip
"""
import os
import urllib.error
import urllib.parse
import urllib.request

from tqdm import tqdm

from utils.common import InputError, file_digest, file_sha256, run_script
from utils.console import say_next, script_parser


def _check_address(url):
    """Only https, and http of this machine (for tests and tunnels)."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != 'https' and not (parts.scheme == 'http' and parts.hostname in ('localhost', '127.0.0.1')):
        raise InputError(f'{url} is no https address')


def _open(url, begin):
    request = urllib.request.Request(url, headers={'Range': f'bytes={begin}-'} if begin else {})
    answer = urllib.request.urlopen(request, timeout=60)
    _check_address(answer.geturl())  # after redirections
    return answer


def download(url, out):
    """Write `url` to `out`, which appears only when it is complete; until then the bytes are in `out`.part.
    Raises `InputError` that says how to go on."""
    _check_address(url)
    part = f'{out}.part'
    begin = os.path.getsize(part) if os.path.exists(part) else 0
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    try:
        try:
            answer = _open(url, begin)
        except urllib.error.HTTPError as err:
            if err.code != 416:  # the server has no bytes beyond `begin`: all are here, or the file is another one now
                raise
            begin, answer = 0, _open(url, 0)
        if answer.status != 206:  # the server cannot continue: from the start
            begin = 0
        total = begin + int(answer.headers['Content-Length']) if answer.headers['Content-Length'] else None
        with answer, open(part, 'ab' if begin else 'wb') as f, \
                tqdm(total=total, initial=begin, unit='B', unit_scale=True, desc=os.path.basename(out), disable=None) as bar:
            while chunk := answer.read(1 << 20):
                f.write(chunk)
                bar.update(len(chunk))
    except (urllib.error.URLError, OSError) as err:
        raise InputError(f'{url} cannot be downloaded ({err}): run the command again to go on where it stopped, or fetch the file '
                         f'with a browser and put it at {out}') from err
    if total is not None and os.path.getsize(part) != total:
        raise InputError(f'{url}: {os.path.getsize(part)} of {total} bytes arrived: run the command again to go on')
    os.replace(part, out)


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
