"""One process at a time trains into a run folder."""
import os

from filelock import FileLock, Timeout

from utils.common import InputError


def lock_folder(folder: str) -> FileLock:
    """Make `folder` and lock it; the lock goes with the process, however it ends. Raises `InputError` where another process holds it, and
    where the lock file is a link or another user's."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, '.lock')
    lock = FileLock(path)  # neither follows a link nor empties a file
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f'another process is training into {folder}: choose another --save_path') from None
    except (OSError, NotImplementedError) as err:
        if os.path.islink(path) or isinstance(err, PermissionError):
            raise InputError(f'{path} is a link or the file of another user, so {folder} cannot be locked: delete it, or choose '
                             'another --save_path') from err
        # else a file system without locks
    return lock
