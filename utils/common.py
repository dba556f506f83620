"""Basics for every script: one-line messages for errors that the user can fix, and atomic file writes."""
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

NO_ROOM = (errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC))  # a full disk, or a full quota (Windows has no EDQUOT)
BROKEN_PIPE = 13  # the number of SIGPIPE, which Windows does not define
# Characters that move the cursor, start a new line, change the text direction or have no width: C0 and C1 controls except the tab, line
# separators, direction marks, and zero-width characters. The joiners U+200C and U+200D are allowed because Persian and Hindi need them.
CONTROL = re.compile('[\0-\x08\n-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]')
NO_MEMORY = re.compile('out of memory|_ALLOC_FAILED|DefaultCPUAllocator')  # in error messages of torch, CUDA, cuBLAS and cuDNN
MAX_TEXT = 64 << 20  # size limit in bytes of the text files of a run: config.cfg, log.jsonl, performance_*.txt
MAX_PIXELS = 1 << 26  # limit of --im_size: 200 MB per image, more than any network accepts


class InputError(ValueError):
    """An error that the user can fix (in a file, a flag, a label). It is shown as one message without a traceback."""


class Interrupted(BaseException):
    """The program was asked to end by the signal `number`. `saved` tells the user what is saved and how to continue.

    As with KeyboardInterrupt, `except Exception` must not catch it.
    """

    def __init__(self, number: int, saved: str = ''):
        super().__init__(signal.Signals(number).name)
        self.number, self.saved = number, saved


def printable(text: object) -> str:
    """Return `text` on one line, with every CONTROL character replaced by U+FFFD.

    This way a name from a file can neither fake a line of output nor move the cursor.
    """
    return CONTROL.sub('\ufffd', str(text))


def preview(items: Any, n: int = 5) -> str:
    """Return the first `n` of `items`, separated by commas, followed by dots if there are more."""
    return ', '.join(map(str, items[:n])) + (', ...' if len(items) > n else '')


def counted(n: int, noun: str, verb: str = '') -> str:
    """Return a count with its noun and verb in the singular or plural: '1 image needs', '2,000 images need'."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}" + (f" {verb}{'s' if n == 1 else ''}" if verb else '')


def gigabytes(n_bytes: float) -> str:
    """27_600_000_000 -> '27.6 GB', 5_000_000 -> '5.0 MB'"""
    return f'{n_bytes / 1e9:.1f} GB' if n_bytes >= 1e8 else f'{n_bytes / 1e6:.1f} MB'


def check_name(path: str | os.PathLike) -> None:
    """Raise `InputError` if the name of a file or folder contains control characters. Messages and reports show these names."""
    if CONTROL.search(str(path)):
        raise InputError(f'{printable(path)}: the name contains control characters: rename it')


def _message(error):
    """Return the text of `error` for the console. Lines after the first are indented, so that none looks like output of the program."""
    first, *more = (printable(line) for line in str(error).strip().split('\n'))
    return '\n'.join([first, *(line if line.startswith(' ') else f'  {line}' for line in more)])


def out_of_memory(error: BaseException) -> str | None:
    """Return which memory is full (GPU or host) and how much was requested; None for any other `error`."""
    text = str(error)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and NO_MEMORY.search(text)):
        return None
    full = 'memory is full' if isinstance(error, MemoryError) or 'DefaultCPUAllocator' in text else 'GPU memory is full'
    asked = re.search(r'allocate ([\d.]+) ?(bytes|[KMGT]i?B)', text)
    if not asked:
        return full
    amount, unit = asked.groups()
    return f"{full}, {f'{int(amount) / 2 ** 20:,.0f} MiB' if unit == 'bytes' else f'{amount} {unit}'} more were needed"


def run_script(main: Callable[[], Any], less_memory: str = 'close other programs that use it, or use a machine with more memory') -> None:
    """Call `main()`; if it fails, print one message and set the exit status. `less_memory`: advice to the user if memory is full.

    1: an `InputError`, a file that cannot be read or written, full memory, or a worker process that died. 130: Ctrl-C. 143: SIGTERM, if
    the script handles it. 141, without a message: the reader of the output has closed the pipe, as in `| head`.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='replace')  # print ? for characters that the console cannot show
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports an error when it flushes at exit
        sys.exit(128 + BROKEN_PIPE)
    except InputError as err:
        # If it was raised in a worker process, that process's traceback comes before the message.
        sys.exit(f"error: {_message(str(err).rsplit('InputError: ', 1)[-1])}")
    except OSError as err:  # no permission or a full disk; the text names the file
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
        print('interrupted' + (str(stop) or ': run the same command to start again'), file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, only_mine: bool = False) -> Iterator[BinaryIO]:
    """Write `path` atomically: yield a temporary binary file beside it, which is synced and renamed to `path` if the block succeeds.

    The folder is created if needed. The temporary name cannot be guessed and is never opened through a link, so that another user with
    write access to the folder cannot redirect the write. Permissions follow the umask and are never wider than those of a file that is
    replaced. With `only_mine`, no other user may change the file, whatever the umask (see `why_untrusted`). An `OSError` without a file
    name, as raised by a write, gets the name `path`.
    """
    temporary = f'{path}.{os.getpid()}-{secrets.token_hex(8)}.tmp'
    try:
        os.makedirs(os.path.dirname(path) or os.curdir, exist_ok=True)
        f = open(temporary, 'xb')  # noqa: SIM115  x: fails if the name exists, as a file or as a link
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
    """Remove the permissions of the open `file` that are not in `mask`, or that the existing file at `path` does not have."""
    if not hasattr(os, 'fchmod'):  # Windows before Python 3.13
        return
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(path)
        if stat.S_ISREG(before.st_mode):
            mask &= before.st_mode
    mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    if mode & ~mask:
        with contextlib.suppress(PermissionError):  # a file system without permission bits
            os.fchmod(file.fileno(), mode & mask)


def no_link(path: str, flags: int) -> int:
    """An `opener` for `open` that refuses to follow a link. Use it to append to a file in a folder where other users may write."""
    if not hasattr(os, 'O_NOFOLLOW') and os.path.islink(path):  # Windows
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return os.open(path, flags | getattr(os, 'O_NOFOLLOW', 0), 0o666)


def remove(path: str | os.PathLike) -> None:
    """Delete a file, or a folder with its contents. A link is deleted, but not its target."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def nearest_existing(folder: str) -> str:
    """Return `folder` if it exists, else its nearest parent that exists."""
    existing = os.path.abspath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing


def check_writable(folder: str) -> None:
    """Raise `InputError` unless a file can be created in `folder`, or in its nearest existing parent. Leaves nothing behind."""
    existing = nearest_existing(folder)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as err:
        raise InputError(f'cannot write to {folder}: {err.strerror} ({existing})') from err


def read_limited(path: str | os.PathLike, limit: int = MAX_TEXT) -> bytes:
    """Return the content of the file at `path`.

    Raises `InputError` if it has more than `limit` bytes, or if it is a folder, a device or a pipe, where reading could block for ever.
    Raises `FileNotFoundError` if it does not exist.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f'{path} is not a regular file: remove it, or replace it with a file')
    with open(path, 'rb') as f:
        if os.path.getsize(path) > limit:
            raise InputError(f'{path} has {os.path.getsize(path):,} bytes, more than the limit of {limit:,}: it is not the expected file')
        return f.read(limit)


def read_text(path: str | os.PathLike, limit: int = MAX_TEXT) -> str:
    """Read a file like `read_limited` and decode it, with CRLF changed to LF. Raises `InputError` if it is not UTF-8."""
    try:
        return read_limited(path, limit).decode().replace('\r\n', '\n')
    except UnicodeDecodeError as err:
        raise InputError(f'{path} is not UTF-8 text (byte {err.start + 1})') from err


def write_text(path: str | os.PathLike, text: str, only_mine: bool = False) -> None:
    """Write `text` atomically. `only_mine`: see `whole_file`."""
    with whole_file(path, only_mine) as f:
        f.write(text.encode())


def file_digest(path: str | os.PathLike, algorithm: str) -> str:
    with open(path, 'rb') as f:
        return hashlib.file_digest(f, algorithm).hexdigest()


def file_sha256(path: str | os.PathLike) -> str:
    return file_digest(path, 'sha256')


class _Lines(tqdm):
    """Progress lines for output that is not a terminal: one after the first minute, then one every ten minutes."""

    def __init__(self, **options):
        super().__init__(mininterval=60, delay=60, miniters=1,
                         bar_format='{desc}: {percentage:.0f} % after {elapsed}, {remaining} left', **options)

    def display(self, msg=None, pos=None):
        if msg != '':  # an empty message clears the bar
            self.fp.write(f'{self}\n')
            self.mininterval = 600


def progress(total: int, desc: str, initial: int = 0, unit: str = 'img') -> tqdm:
    """Return a progress bar on a terminal, else `_Lines`. Only rank 0 shows it."""
    bar = tqdm if sys.stderr.isatty() else _Lines
    return bar(total=total, initial=initial, desc=desc, unit=unit, leave=False, disable=os.environ.get('RANK', '0') != '0')
