"""flock as a context manager.

flock, not fcntl locks: those are dropped when any descriptor of the file is closed in the process.
A lock belongs to the open file, so two threads with a FileLock each exclude one another as two
processes do. Only who holds a lock may delete its file; whoever waited for that one takes another.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from buildkit_py.errors import BuildCancelled
from buildkit_py.store.failures import explain_os_errors

_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.2


class FileLock:
    """An advisory lock on a file, exclusive unless `shared`.

    `with lock:` waits; the wait ends early, with BuildCancelled, when `cancelled` is set.
    `on_wait` is called once if the lock is not free at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        shared: bool = False,
        cancelled: threading.Event | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._cancelled = cancelled
        self._on_wait = on_wait
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def try_acquire(self, *, create: bool = True) -> bool:
        """Take the lock if it is free; without `create` only if its file is there."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        with explain_os_errors(f"cannot lock {self._path}"):
            while True:
                try:
                    file = os.open(self._path, flags, 0o600)
                except FileNotFoundError:
                    if create:
                        raise
                    return False
                if not self._lock(file, self._mode | fcntl.LOCK_NB):
                    os.close(file)
                    return False
                if os.fstat(file).st_nlink:
                    self._file = file
                    return True
                os.close(file)  # whoever held it has deleted it: there may be a new one

    def acquire(self) -> None:
        """Take the lock, waiting for it in short polls so that a cancelled build can leave."""
        if self.try_acquire():
            return
        if self._on_wait:
            self._on_wait()
        sleeper = self._cancelled or threading.Event()
        pause = _FIRST_WAIT
        while not self.try_acquire():
            if sleeper.wait(pause):
                raise BuildCancelled("the build was interrupted")
            pause = min(pause * 1.5, _LONGEST_WAIT)

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _lock(file: int, mode: int) -> bool:
        try:
            fcntl.flock(file, mode)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}:
                return False
            os.close(file)
            raise
        return True

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def mount_lock(directory: str) -> str:
    """The lock that whoever works in a directory below cache-mounts/ holds, shared."""
    return f"mount-{directory}"
