"""Room on the disk for SQLite: without it, a signal would end the process.

In WAL mode the processes share a small file (`state.db-shm`) by mapping it. SQLite makes it long
enough, but where blocks are smaller than pages it stays full of holes, and writing to a hole of a
mapped file on a full disk is no error that anybody could report: it is a SIGBUS.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from buildkit_py.store.failures import os_error
from buildkit_py.store.leases import sweep_dead
from buildkit_py.store.trash import empty_trash

if TYPE_CHECKING:
    import sqlite3

    from buildkit_py.store.paths import StatePaths

LEAST_ROOM = 1 << 16
_SHARED_MEMORY = 32_768
_PAGE = 4096


def make_room(paths: StatePaths) -> None:
    """See that the database can be opened. On a full disk leftovers go; raises StoreError."""
    if _has_room(paths):
        return
    try:
        sweep_dead(paths)
        empty_trash(paths)
    except OSError as error:
        raise os_error(f"cannot clean up {paths.root}", error) from error
    if not _has_room(paths):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise os_error(f"cannot use the state database {paths.database}", full)


def _has_room(paths: StatePaths) -> bool:
    try:
        status = os.statvfs(paths.root)
        if status.f_bavail * status.f_frsize >= LEAST_ROOM:
            return True
        file = os.open(paths.root, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        return True  # whatever is wrong, opening says it
    try:
        os.posix_fallocate(file, 0, LEAST_ROOM)  # some of the disk may be reserved for root
    except OSError as error:
        return error.errno not in {errno.ENOSPC, errno.EDQUOT}
    finally:
        os.close(file)
    return True


def reserve_memory(paths: StatePaths, connection: sqlite3.Connection) -> None:
    """Fill the holes of the shared memory. Raises sqlite3.Error, StoreError."""
    if os.statvfs(paths.root).f_frsize >= _PAGE:
        return
    connection.execute("PRAGMA user_version").fetchone()  # which maps it
    try:
        file = os.open(f"{paths.database}-shm", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # no WAL, or nobody may write
    try:
        os.posix_fallocate(file, 0, _SHARED_MEMORY)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise os_error(f"cannot use the state database {paths.database}", error) from error
    finally:
        os.close(file)
