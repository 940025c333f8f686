"""What a running process protects from garbage collection.

A lease is a random name with a locked file: while the lock is held, its rows in `leases` count as
roots. The kernel drops the lock when the process ends, however it ends, so a lease whose lock can
be taken is dead, in any pid namespace. The lease's name is that of its folder in `tmp/`, too.
Rows of owners that are no process (a stopped container) have a name that starts with `pin:`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.locks import FileLock
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.trash import discard, remove_tree

PIN = "pin:"


class Lease:
    """One process' claim: a locked file and a folder for half-made things."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._serial = 0
        self._guard = threading.Lock()
        while True:
            self.name = os.urandom(8).hex()
            self._lock = FileLock(paths.lock(lock_name(self.name)))
            if self._lock.try_acquire():
                break
        self.folder = paths.tmp / self.name
        with explain_os_errors(f"cannot write to {paths.tmp}"):
            self.folder.mkdir(mode=0o700)

    def scratch(self, prefix: str = "t") -> Path:
        """A name in the folder that nobody has had."""
        with self._guard:
            self._serial += 1
            return self.folder / f"{prefix}{self._serial}"

    def close(self) -> None:
        """Remove the folder, the lock file, and let go."""
        remove_tree(self.folder)
        # While we hold the lock nobody else can be waiting for it: its name is ours alone, and
        # sweepers only try. So this lock file, unlike others, may go.
        self._paths.lock(lock_name(self.name)).unlink(missing_ok=True)
        self._lock.release()


def lock_name(lease: str) -> str:
    """The lock file of a lease."""
    return f"lease-{lease}"


def is_alive(paths: StatePaths, lease: str) -> bool:
    """Whether the owner of a lease still runs."""
    if lease.startswith(PIN):
        return True
    path = paths.lock(lock_name(lease))
    lock = FileLock(path)
    if lock.try_acquire(create=False):
        lock.release()
        return False
    return path.exists()


def sweep_dead(paths: StatePaths) -> None:
    """Remove what processes that were killed had half made."""
    with os.scandir(paths.tmp) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if not is_alive(paths, name):
            discard(paths, paths.tmp / name)
            paths.lock(lock_name(name)).unlink(missing_ok=True)
