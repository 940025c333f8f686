"""Watches what a step writes to the disk: `--resource disk=…`, and the last of the free space.

No file system that a state root may lie on has limits for a directory tree that any user may set,
so the step is watched and ended. What it uses is the layer that grows, and files that it has
unlinked but holds open. To look costs time, so it is done only when the free space has shrunk by
what is left of the limit, and once a second. Without a limit a step is ended when it takes the
last of the disk: builds share it with whatever else the machine does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from buildkit_py.runtime.executor import RunHooks

_BLOCK = 512
_LOOK_SECONDS = 1.0
_SHARE_KEPT = 100  # the last hundredth of a disk …
_MOST_KEPT = 256 << 20  # … but no more than this
_BLAMED = 1 << 20


class DiskGuard:
    """One step's. `exceeded` is asked about ten times a second; `reason` says why it was true."""

    def __init__(
        self, folder: Path, limit: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.limit = limit
        self.reason = ""
        self.pid = 0
        self._clock = clock
        self._at_start = 0  # bytes in the folder that are not the step's
        self._used = 0
        self._first, self._size = _space(folder)
        self._free = self._first  # when it was last looked at
        self._looked = clock()

    def begin(self, folder: Path) -> None:
        """What is in this folder now was not written by the step (a copied root)."""
        self.folder = folder
        self._at_start = tree_bytes(os.fspath(folder)) if self.limit is not None else 0

    def exceeded(self) -> bool:
        """Whether the step has to end."""
        free, _size = _space(self.folder)
        if free < min(self._size // _SHARE_KEPT, _MOST_KEPT) and self._first - free > _BLAMED:
            self.reason = "full"
        elif self.limit is not None and self._is_over(free, self.limit):
            self.reason = "limit"
        return bool(self.reason)

    def exceeded_in_all(self) -> bool:
        """After the step's end: what was written in less time than passes between two looks."""
        if self.limit is not None and not self.reason:
            used = tree_bytes(os.fspath(self.folder)) - self._at_start
            self.reason = "limit" if used > self.limit else ""
        return bool(self.reason)

    def _is_over(self, free: int, limit: int) -> bool:
        grown = max(0, self._free - free)
        late = self._clock() - self._looked > _LOOK_SECONDS
        if late or self._used + grown > limit:
            self._used = tree_bytes(os.fspath(self.folder)) - self._at_start
            self._used += unlinked_bytes(self.pid) if self.pid else 0
            self._free, self._looked = free, self._clock()
        return self._used > limit


def guarded(
    hooks: RunHooks | None, guard: DiskGuard, waiting: Callable[[], None] | None = None
) -> RunHooks:
    """These hooks, with the guard's question, and what to do while the step runs."""
    own = hooks or RunHooks()

    def started(pid: int, send: Callable[[int], None]) -> None:
        guard.pid = pid
        if own.started is not None:
            own.started(pid, send)

    return replace(own, started=started, exceeded=guard.exceeded, waiting=waiting)


def _space(folder: Path) -> tuple[int, int]:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def tree_bytes(top: str) -> int:
    """What the files below a directory take, hard links once; of one file system."""
    total, seen, pending = 0, set(), [top]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * _BLOCK
        except OSError:
            continue  # it is a moving target
    return total


def unlinked_bytes(pid: int) -> int:
    """What files take that processes of a pid namespace hold open without a name."""
    namespace = _inode(f"/proc/{pid}/ns/pid")
    sizes: dict[tuple[int, int], int] = {}
    for name in os.listdir("/proc") if namespace else ():
        if not name.isdigit() or _inode(f"/proc/{name}/ns/pid") != namespace:
            continue
        for place in ("fd", "map_files"):
            sizes |= _unlinked(f"/proc/{name}/{place}")
    return sum(sizes.values())


def _unlinked(folder: str) -> dict[tuple[int, int], int]:
    sizes = {}
    try:
        for name in os.listdir(folder):
            status = os.stat(f"{folder}/{name}")
            if status.st_nlink == 0:
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    except OSError:
        return sizes  # it ended meanwhile
    return sizes


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
