"""Takes the mount points that a sandbox made out of its layer again, and restores times.

Without this, a RUN on an image without /etc/resolv.conf would leave an empty one in the layer. A
stub that the step has filled stays. Directories that were only copied up for our sake, and that
nothing else touched, leave the layer too.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit_py.runtime.executor import StubRecord

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_stubs(upper: str | os.PathLike[str], record: StubRecord) -> None:
    """Clean an overlay upper directory. Paths whose parents are no directories are left alone."""
    root = os.fspath(upper)
    times: dict[str, tuple[int, int]] = {}
    pristine: set[str] = set()
    for path in record.before:
        status = _stat(root, path)
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
        _remove_if_empty(root, path)
    for path in sorted(times, key=len, reverse=True):
        if path in pristine and path != "/" and path not in record.made:
            _remove_if_empty(root, path)
    for path, value in sorted(times.items(), key=lambda item: len(item[0]), reverse=True):
        fd = _open_parent(root, path + "/.")
        if fd is not None:
            with suppress(OSError):
                os.utime(fd, ns=value)
            os.close(fd)


def _open_parent(root: str, path: str) -> int | None:
    """The directory that holds `path`, no symbolic link followed; None if it is not there."""
    fd = os.open(root, _OPEN)
    for name in path.split("/")[:-1]:
        if not name:
            continue
        try:
            inner = os.open(name, _OPEN, dir_fd=fd)
        except OSError:
            os.close(fd)
            return None
        os.close(fd)
        fd = inner
    return fd


def _stat(root: str, path: str) -> os.stat_result | None:
    fd = _open_parent(root, path)
    if fd is None:
        return None
    try:
        return os.stat(path.rpartition("/")[2] or ".", dir_fd=fd, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(fd)


def _remove_if_empty(root: str, path: str) -> None:
    fd = _open_parent(root, path)
    if fd is None:
        return
    name = path.rpartition("/")[2]
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=fd)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(name, dir_fd=fd)
    except OSError:
        pass  # not there, or no longer empty: it is the step's own now
    finally:
        os.close(fd)
