"""Who else may have changed a file that we read, and who may read what we write (--private). By owners and modes of POSIX; Windows has
none that Python can see, so there every file is trusted and --private has no effect."""
import os
import stat
import tempfile

HAS_MODES = hasattr(os, 'geteuid')


def _keeps_owners(folder):
    """False on file systems that show one owner or one mode for all files (network shares, Windows disks): nothing follows from theirs."""
    try:
        with tempfile.TemporaryFile(dir=folder) as f:  # asks for mode 600
            made = os.fstat(f.fileno())
    except OSError:  # no file can be made there
        return True
    return made.st_uid == os.geteuid() and not made.st_mode & 0o077


def is_foreign(path):
    """Whether `path`, not followed if it is a link, belongs to another user."""
    return HAS_MODES and os.lstat(path).st_uid != os.geteuid() and _keeps_owners(os.path.dirname(path) or os.curdir)


def why_untrusted(file):
    """Why another user may have written what the open `file` holds, '' if only this user and root can have done so."""
    if not HAS_MODES:
        return ''
    found, why = os.fstat(file.fileno()), ''
    if found.st_uid not in (os.geteuid(), 0):
        why = f'belongs to another user (number {found.st_uid})'
    elif found.st_mode & 0o022:
        why = f'can be changed by other users (mode {stat.S_IMODE(found.st_mode):03o})'
    return why if why and _keeps_owners(os.path.dirname(file.name) or os.curdir) else ''


def free_path(path):
    """`path`; where another user's file has this name, one with this user's number, so that neither replaces the other's."""
    if not os.path.lexists(path) or not is_foreign(path):
        return path
    stem, extension = os.path.splitext(path)
    return f'{stem}.user{os.geteuid()}{extension}'
