"""Intercept the writes of a program to disk."""
import builtins
import errno
import io
import os
from fnmatch import fnmatch


def watched_open(pattern, strike):
    """-> a substitute for `open` that calls `strike(raw, data)` before each write to a file whose path matches `pattern`

    A write is one that reaches the operating system, when a buffer is full, flushed or closed. `strike` may raise an error, like a full
    disk. `raw` is an `io.FileIO`.
    """
    plain = builtins.open

    class Raw(io.FileIO):
        def write(self, data):
            strike(self, data)
            return super().write(data)

    def substitute(file, mode='r', *args, **kwargs):
        if not isinstance(file, (str, os.PathLike)) or not {'w', 'x'} & set(mode) or not fnmatch(os.fspath(file), pattern):
            return plain(file, mode, *args, **kwargs)
        buffer = io.BufferedWriter(Raw(file, 'x' if 'x' in mode else 'w'))
        return buffer if 'b' in mode else io.TextIOWrapper(buffer, encoding=kwargs.get('encoding'))
    return substitute


class FullDisk:
    """A disk on which all writes after the first `room` fail; without `room` all succeed. `paths`: the files of all writes."""

    def __init__(self, monkeypatch, pattern, room=None):
        self.room, self.paths = room, []
        monkeypatch.setattr(builtins, 'open', watched_open(pattern, self.strike))

    def strike(self, raw, data):
        self.paths.append(raw.name)
        if self.room is not None and len(self.paths) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
