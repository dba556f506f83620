"""Lock a run folder, so that only one process at a time trains in it."""
import os

from filelock import FileLock, Timeout

from utils.common import InputError


def lock_folder(folder: str) -> FileLock:
    """Create `folder` and lock it until the process ends, however that happens. Raises `InputError` if another process holds the lock, or
    if the lock file is a link or belongs to another user."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, '.lock')
    lock = FileLock(path)  # does not follow links and does not empty the file
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f'another process is training in {folder}: choose another --save_path') from None
    except (OSError, NotImplementedError) as err:
        if os.path.islink(path) or isinstance(err, PermissionError):
            raise InputError(f'{path} is a link or the file of another user, so {folder} cannot be locked: delete it, or choose '
                             'another --save_path') from err
        # otherwise the file system has no locks: go on without one
    return lock
