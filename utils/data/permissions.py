"""File permissions: may another user have changed a file that we read, and who may read the files that we write (--private).

Both use POSIX owners and modes. On Windows, Python sees neither: every file is trusted and --private has no effect.
"""
import argparse
import contextlib
import os
import stat
import tempfile
from typing import IO

from utils.common import InputError, nearest_existing

HAS_MODES = hasattr(os, 'geteuid')
OTHERS = 0o077  # all permissions of the group and of other users


def _keeps_owners(folder):
    """Return whether a file system stores owners and modes. Network shares and Windows disks may report the same ones for all files."""
    try:
        with tempfile.TemporaryFile(dir=folder) as f:  # requests mode 600
            made = os.fstat(f.fileno())
    except OSError:  # the folder is not writable
        return True
    return made.st_uid == os.geteuid() and not made.st_mode & OTHERS


def is_foreign(path: str) -> bool:
    """Return whether `path` (the link, not its target) belongs to another user."""
    return HAS_MODES and os.lstat(path).st_uid != os.geteuid() and _keeps_owners(os.path.dirname(path) or os.curdir)


def why_untrusted(file: IO) -> str:
    """Return the reason why another user may have written the open `file`; '' if only this user and root can have written it."""
    if not HAS_MODES:
        return ''
    found, why = os.fstat(file.fileno()), ''
    if found.st_uid not in (os.geteuid(), 0):
        why = f'belongs to another user (user id {found.st_uid})'
    elif found.st_mode & 0o022:
        why = f'is writable by other users (mode {stat.S_IMODE(found.st_mode):03o})'
    return why if why and _keeps_owners(os.path.dirname(file.name) or os.curdir) else ''


def free_path(path: str) -> str:
    """Return `path`, or a name with the id of this user if another user's file has this name, so that neither overwrites the other."""
    if not os.path.lexists(path) or not is_foreign(path):
        return path
    stem, extension = os.path.splitext(path)
    return f'{stem}.user{os.geteuid()}{extension}'


def add_private_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument('--private', action='store_true', help='write files that only you can read (mode 600), in folders of mode 700')


def private_flag(args: argparse.Namespace) -> list[str]:
    """Return ['--private'] for a suggested command if the flag was given, else []."""
    return ['--private'] if args.private else []


def keep_private(wanted: bool, folder: str | None = None, cache_dir: str | None = None, beside: str | None = None) -> None:
    """Apply --private if it is `wanted`: this process and its children create files with mode 600 and folders with mode 700.

    Existing files are closed to others, too: the `folder` of the run with everything in it, and the files of this user in `cache_dir`.
    `beside`: a shared folder to which a file will be written. Its mode is not changed; a note says who can list it.
    Raises `InputError` if `folder` belongs to another user.
    """
    if not wanted:
        return
    places = [place for place in (folder, cache_dir, beside) if place is not None]
    if not HAS_MODES or not all(_keeps_owners(nearest_existing(place)) for place in places):
        print('* Warning: --private has no effect on Windows, or on file systems without owners and modes. Restrict access to the folders '
              'yourself')
        return
    os.umask(OTHERS)
    if folder is not None and os.path.isdir(folder):
        if os.stat(folder).st_uid != os.geteuid():
            raise InputError(f'--private: {folder} belongs to another user, who can read what is written there: choose another folder')
        os.chmod(folder, 0o700)  # first, and even if it is a link
        for place, folders, files in os.walk(folder):
            for name in folders + files:
                _close(os.path.join(place, name))
    if cache_dir is not None and os.path.isdir(cache_dir):
        for name in os.listdir(cache_dir):
            if os.path.isfile(path := os.path.join(cache_dir, name)):
                _close(path)
    if beside is not None and os.path.isdir(beside or os.curdir) and os.stat(beside or os.curdir).st_mode & OTHERS:
        print(f'* Note: other users can list {os.path.abspath(beside)}, but not read what --private writes there')


def _close(path):
    """Remove all permissions of others from `path` if it belongs to this user and is not a link."""
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not stat.S_ISLNK(found.st_mode):
            os.chmod(path, stat.S_IMODE(found.st_mode) & ~OTHERS)
