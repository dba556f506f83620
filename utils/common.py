"""What every script needs: one-line errors for what a user can fix, and files that appear whole or not at all."""
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tqdm import tqdm

NO_ROOM = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))  # a full disk, or a user's share of it (not on Windows)
BROKEN_PIPE = 13  # number of SIGPIPE, which Windows does not have
# Characters that move the cursor, start a line, change the direction of text or take no room: C0 and C1 controls except the tab, line
# separators, direction marks, and zero-width characters. The joiners U+200C and U+200D are kept: Persian and Hindi need them.
CONTROL = re.compile('[\0-\x08\n-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]')
NO_MEMORY = re.compile('out of memory|_ALLOC_FAILED|DefaultCPUAllocator')  # in errors of torch, CUDA, cuBLAS and cuDNN
MAX_TEXT = 64 << 20  # bytes of a text file of a run: config.cfg, log.jsonl, performance_*.txt
MAX_PIXELS = 1 << 26  # of --im_size: 200 MB an image, beyond what any network takes


class InputError(ValueError):
    """Something the user can fix (a file, a flag, a label): shown as one message, without a traceback."""


class Interrupted(Exception):
    """A signal, whose `number` this is, asked the program to end. `saved`: what is saved, and how to continue."""

    def __init__(self, number: int, saved: str = ''):
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


def printable(text: object) -> str:
    """`text` in one line, with U+FFFD for each character of CONTROL, so that a name from a file cannot forge a line or move the cursor."""
    return CONTROL.sub('\ufffd', str(text))


def preview(items: Any, n: int = 5) -> str:
    """Return the first `n` of the sequence `items`, separated by commas, and dots if there are more."""
    return ', '.join(map(str, items[:n])) + (', ...' if len(items) > n else '')


def counted(n: int, noun: str, verb: str = '') -> str:
    """Return a number with its words in the singular or plural: '1 image stands', '2,000 images stand'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}" + (f" {verb}{'s' if n == 1 else ''}" if verb else '')


def check_name(path: str | os.PathLike) -> None:
    """Raise `InputError` if the name of a file or folder, which messages and reports show, holds control characters."""
    if CONTROL.search(str(path)):
        raise InputError(f'{printable(path)}: this name holds control characters: rename it')


def _message(error):
    """The text of `error` for the console. Lines after the first are indented, so that none looks like a line of the program."""
    first, *more = (printable(line) for line in str(error).strip().split('\n'))
    return '\n'.join([first, *(line if line.startswith(' ') else f'  {line}' for line in more)])


def out_of_memory(error: BaseException) -> str | None:
    """What is full and how much more was asked for, if memory has run out, on the GPU or the host; None for any other `error`."""
    text = str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and NO_MEMORY.search(text)):
        return None
    full = 'memory is full' if isinstance(error, MemoryError) or 'DefaultCPUAllocator' in text else 'GPU memory is full'
    asked = re.search(r'allocate ([\d.]+) ?(bytes|[KMGT]i?B)', text)
    if not asked:
        return full
    amount, unit = asked.groups()
    return f"{full}, {f'{int(amount) / 2 ** 20:,.0f} MiB' if unit == 'bytes' else f'{amount} {unit}'} more were needed"


def run_script(main: Callable[[], Any], less_memory: str = 'end other programs that use it, or take a machine that has more') -> None:
    """Call `main()` and turn what ends it into one message and an exit status. `less_memory`: what to do where memory is full.

    1: an `InputError`, a file that cannot be read or written, full memory, a worker process that died. 130: Ctrl-C. 143: SIGTERM, where it
    is handled. 141, without a message: the reader of the output has gone, as in `| head`.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')  # a console that cannot show a class name shows ? in its place
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it flushes at exit
        sys.exit(128 + BROKEN_PIPE)
    except InputError as err:
        # Raised in a worker process, the message arrives behind that process's traceback.
        sys.exit(f"error: {_message(str(err).rsplit('InputError: ', 1)[-1])}")
    except OSError as err:  # no permission, a full disk: its text names the file
        sys.exit(f"error: {_message(err)}{': free some space there and run the same command again' if err.errno in NO_ROOM else ''}")
    except (RuntimeError, MemoryError) as err:
        if full := out_of_memory(err):
            sys.exit(f'error: {full}: {less_memory}')
        if not str(err).startswith('DataLoader worker'):
            raise
        sys.exit(f'error: {str(err).splitlines()[0]} Usually memory or shared memory is full: try --num_workers 0')
    except Interrupted as stop:
        print(f'interrupted by {stop}{stop.saved}', file=sys.stderr)
        sys.exit(128 + stop.number)
    except KeyboardInterrupt as stop:
        print('interrupted' + (str(stop) or ': the same command starts it again'), file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, only_mine: bool = False) -> Iterator[BinaryIO]:
    """Yield a new binary file beside `path`, whose folder is made; when the block ends without an error it is synced and becomes `path`.

    Its name cannot be guessed, and it is never opened through a link, so that nobody else who may write to the folder can lead the writing
    elsewhere. Permissions are those of the umask, and never wider than those of a file that is replaced. `only_mine`: no other user may
    change it, whatever the umask (`why_untrusted`). An `OSError` of a write, which names no file, gets the name.
    """
    temporary = f'{path}.{os.getpid()}-{secrets.token_hex(8)}.tmp'
    try:
        os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
        f = open(temporary, 'xb')  # noqa: SIM115  x: fails where the name exists, as a file or as a link
        try:
            with f:
                _narrow(f, path, ~0o022 if only_mine else ~0)
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)
            raise
    except OSError as err:
        if err.errno and err.filename in (None, temporary):
            err.filename = path
        raise


def _narrow(file, path, mask):
    """Take away the permissions of the open `file` that are not in `mask`, and those that the file at `path` does not have."""
    if not hasattr(os, 'fchmod'):  # Windows before Python 3.13
        return
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(path)
        if stat.S_ISREG(before.st_mode):
            mask &= before.st_mode
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if mode & ~mask:
        with contextlib.suppress(PermissionError):  # a file system without modes
            os.fchmod(file.fileno(), mode & mask)


def no_link(path: str, flags: int) -> int:
    """An `opener` for `open` that refuses a link: for a file that is appended to in a folder where others may write."""
    if not hasattr(os, 'O_NOFOLLOW') and os.path.islink(path):  # Windows
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, flags | getattr(os, 'O_NOFOLLOW', 0), 0o666)


def remove(path: str | os.PathLike) -> None:
    """Delete a file or a folder with what is in it; of a link the link, and not what it leads to."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def nearest_existing(folder: str) -> str:
    """`folder`, or the nearest one above it that exists."""
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing


def check_writable(folder: str) -> None:
    """Raise `InputError` unless a file can be made in `folder`, or in the nearest folder above it that exists. Leaves nothing behind."""
    existing = nearest_existing(folder)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as err:
        raise InputError(f'cannot write to {folder}: {err.strerror} ({existing})') from err


def read_limited(path: str | os.PathLike, limit: int = MAX_TEXT) -> bytes:
    """The content of the file at `path`, in bytes. Raises `InputError` if it is larger than `limit`, and, instead of waiting for ever, if
    it is a device, a pipe or a folder; `FileNotFoundError` if there is none."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f'{path} is no regular file: remove it, or put the file there')
    with open(path, 'rb') as f:
        if os.path.getsize(path) > limit:
            raise InputError(f'{path} has {os.path.getsize(path):,} bytes, more than {limit:,}: it is no file of this kind')
        return f.read(limit)


def read_text(path: str | os.PathLike, limit: int = MAX_TEXT) -> str:
    """`read_limited`, as text with any end of line. Raises `InputError` if it is not UTF-8, too."""
    try:
        return read_limited(path, limit).decode().replace('\r\n', '\n')
    except UnicodeDecodeError as err:
        raise InputError(f'{path} is not UTF-8 text (byte {err.start + 1})') from err


def write_text(path: str | os.PathLike, text: str, only_mine: bool = False) -> None:
    """`only_mine`: see `whole_file`."""
    with whole_file(path, only_mine) as f:
        f.write(text.encode())


def file_digest(path: str | os.PathLike, algorithm: str) -> str:
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


def file_sha256(path: str | os.PathLike) -> str:
    return file_digest(path, 'sha256')


class _Lines(tqdm):
    """In place of a bar in a file: what takes more than a minute says then, and every ten minutes, how far it is."""

    def __init__(self, **options):
        super().__init__(mininterval=60, delay=60, miniters=1,
                         bar_format='{desc}: {percentage:.0f} % after {elapsed}, {remaining} left', **options)

    def display(self, msg=None, pos=None):
        if msg != '':  # else it is to be cleared
            self.fp.write(f'{self}\n')
            self.mininterval = 600


def progress(total: int, desc: str, initial: int = 0, unit: str = 'img') -> tqdm:
    """A bar of images, or of another `unit`, on a terminal, else `_Lines`; in the first of several processes only."""
    bar = tqdm if sys.stderr.isatty() else _Lines
    return bar(total=total, initial=initial, desc=desc, unit=unit, leave=False, disable=os.environ.get('RANK', '0') != '0')
