"""Takes the mount points that a sandbox made out of its layer again, and restores times.

Without this, a RUN on an image without /etc/resolv.conf would leave an empty one in the layer. A
stub that the step has filled stays. Directories that were only copied up for our sake, and that
nothing else touched, leave the layer too.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from buildkit_py.runtime.executor import StubRecord

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_stubs(upper: str | os.PathLike[str], record: StubRecord) -> None:
    """Clean an overlay upper directory. Paths whose parents are no directories are left alone."""
    with _Folders(os.fspath(upper)) as folders:
        times: dict[str, tuple[int, int]] = {}
        pristine: set[str] = set()
        for path in record.before:
            status = folders.status(path)
            if status is None or not stat.S_ISDIR(status.st_mode):
                continue
            atime, mtime, mode, uid, gid = record.before[path]
            same = (status.st_mode, status.st_uid, status.st_gid) == (mode, uid, gid)
            after_mtime, after_ctime = record.after.get(path, (0, 0))
            if same and status.st_ctime_ns == after_ctime:
                pristine.add(path)
            if status.st_mtime_ns == after_mtime:  # the step has added and removed nothing here
                times[path] = (atime, mtime)
            else:
                times[path] = (status.st_atime_ns, status.st_mtime_ns)
        for path in sorted(record.made, key=len, reverse=True):
            folders.remove_if_empty(path)
        for path in sorted(times, key=len, reverse=True):
            if path in pristine and path != "/" and path not in record.made:
                folders.remove_if_empty(path)
        for path, value in sorted(times.items(), key=lambda item: len(item[0]), reverse=True):
            fd = folders.open(path.strip("/"))
            if fd is not None:
                with suppress(OSError):
                    os.utime(fd, ns=value)


class _Folders:
    """The directories of a tree, each opened once, and no symbolic link followed."""

    def __init__(self, root: str) -> None:
        self._open: dict[str, int | None] = {"": os.open(root, _OPEN)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for fd in self._open.values():
            if fd is not None:
                os.close(fd)

    def open(self, path: str) -> int | None:
        """A directory, by its path without slashes around it; None if it is not there."""
        if path not in self._open:
            above, _, name = path.rpartition("/")
            parent = self.open(above)
            fd = None
            if parent is not None:
                with suppress(OSError):
                    fd = os.open(name, _OPEN, dir_fd=parent)
            self._open[path] = fd
        return self._open[path]

    def status(self, path: str) -> os.stat_result | None:
        """What is at a path, None for nothing."""
        above, _, name = path.strip("/").rpartition("/")
        fd = self.open(above)
        if fd is None:
            return None
        try:
            return os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        except OSError:
            return None

    def remove_if_empty(self, path: str) -> None:
        """Remove an empty directory or file."""
        status = self.status(path)
        if status is None:
            return
        above, _, name = path.strip("/").rpartition("/")
        with suppress(OSError):  # no longer empty: it is the step's own now
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=self.open(above))
                self._forget(path.strip("/"))
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(name, dir_fd=self.open(above))

    def _forget(self, path: str) -> None:
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)
