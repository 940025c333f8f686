"""Persistent directories of `RUN --mount=type=cache`, and who may use one at a time.

A directory is found by its id, the owner and mode asked for, and what it started from. `shared`
holds a shared lock while the step runs, `locked` an exclusive one; `private` takes the first of a
row of directories that nobody uses. Locks are files, so they count between processes too.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.digest import digest_of, hex_of
from buildkit_py.store.locks import FileLock, mount_lock
from buildkit_py.store.trash import discard

if TYPE_CHECKING:
    import threading

    from buildkit_py.graph import CacheMount
    from buildkit_py.store.database import Database
    from buildkit_py.store.paths import StatePaths

_MOST_PRIVATE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRequest:
    """One cache mount of a step. `base` names what it starts from; `fill` copies that in."""

    mount: CacheMount
    base: str = ""
    fill: Callable[[Path], None] | None = None

    @property
    def key(self) -> str:
        """The identity of the directory."""
        mount = self.mount
        parts = [mount.id, mount.uid, mount.gid, mount.mode, self.base, mount.source]
        return hex_of(digest_of(parts))[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMounts:
    """The cache directories of a state root.

    `imported` gives a directory to start one with, by its name, or None.
    """

    paths: StatePaths
    db: Database
    clock: Callable[[], float] = time.time
    imported: Callable[[str], Path | None] | None = None

    def open(
        self,
        requests: list[CacheRequest],
        stack: ExitStack,
        *,
        cancelled: threading.Event,
        empty: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> dict[str, Path]:
        """Directories by key, locked until `stack` unwinds; `empty` starts them afresh.

        Locks are taken in the order of their names, so two steps never wait for each other.
        """
        found: dict[str, Path] = {}
        strictest: dict[str, CacheRequest] = {}
        order = ["shared", "private", "locked"]
        for request in requests:
            known = strictest.get(request.key)
            if known is None or order.index(request.mount.sharing) > order.index(
                known.mount.sharing
            ):
                strictest[request.key] = request
        for key in sorted(strictest):
            request = strictest[key]
            replaced: list[str] = []
            stack.callback(self._retire, replaced)  # after the lock is given back
            name = self._lock(key, request, stack, cancelled, on_wait)
            found[key] = self._directory(name, request, replaced, stack, empty=empty)
        return found

    def _retire(self, replaced: list[str]) -> None:
        """Remove directories that were replaced, unless another step may still use them.

        Those are left to the collection of garbage.
        """
        for directory in replaced:
            lock = FileLock(self.paths.lock(mount_lock(directory)))
            folder = self.paths.cache_mounts / directory
            if folder.is_dir() and lock.try_acquire():
                try:
                    discard(self.paths, folder)
                finally:
                    lock.release()

    def _lock(
        self,
        key: str,
        request: CacheRequest,
        stack: ExitStack,
        cancelled: threading.Event,
        on_wait: Callable[[str], None] | None,
    ) -> str:
        if request.mount.sharing == "private":
            for number in range(_MOST_PRIVATE):
                name = key if number == 0 else f"{key}.{number}"
                lock = FileLock(self.paths.lock(f"cache-{name}"))
                if lock.try_acquire():
                    stack.callback(lock.release)
                    return name
        waited = None if on_wait is None else lambda: on_wait(request.mount.id)
        lock = FileLock(
            self.paths.lock(f"cache-{key}"),
            shared=request.mount.sharing == "shared",
            cancelled=cancelled,
            on_wait=waited,
        )
        stack.enter_context(lock)
        return key

    def _directory(
        self,
        name: str,
        request: CacheRequest,
        replaced: list[str],
        stack: ExitStack,
        *,
        empty: bool,
    ) -> Path:
        self.db.protect("cache-mount", [name])
        known = self._row(name)
        new = known is None and not empty
        while known is not None and not empty:
            self._hold(known, stack)
            if self._row(name) == known and (self.paths.cache_mounts / known).is_dir():
                with self.db.transaction() as connection:
                    connection.execute(
                        "UPDATE cache_mounts SET last_used = ? WHERE id = ?", (self.clock(), name)
                    )
                return self.paths.cache_mounts / known
            before, known = known, self._row(name)
            empty = known == before  # its directory is gone
        imported = self.imported(name) if new and self.imported is not None else None
        made = self._make(name, imported or self._fresh(request), request.mount.id, known, stack)
        if known is not None and made.name != known:
            replaced.append(known)
        return made

    def _row(self, name: str) -> str | None:
        with self.db.explained():
            row = (
                self.db.connection()
                .execute("SELECT directory FROM cache_mounts WHERE id = ?", (name,))
                .fetchone()
            )
        return None if row is None else str(row["directory"])

    def _hold(self, directory: str, stack: ExitStack) -> None:
        """Keep a directory from being swept while the step runs, also if it is replaced."""
        stack.enter_context(FileLock(self.paths.lock(mount_lock(directory)), shared=True))

    def _make(
        self, name: str, folder: Path, mount: str, old: str | None, stack: ExitStack
    ) -> Path:
        """Put a directory under this name; another process may have been faster."""
        chosen = secrets.token_hex(6)
        self._hold(chosen, stack)
        now = self.clock()
        with self.db.transaction() as connection:
            other = self._row(name)
            if other is not None and other != old:
                discard(self.paths, folder)
                self._hold(other, stack)
                return self.paths.cache_mounts / other
            folder.rename(self.paths.cache_mounts / chosen)
            connection.execute(
                "INSERT OR REPLACE INTO cache_mounts (id, directory, description, created,"
                " last_used) VALUES (?, ?, ?, ?, ?)",
                (name, chosen, f"cache mount {mount}", now, now),
            )
        return self.paths.cache_mounts / chosen

    def _fresh(self, request: CacheRequest) -> Path:
        folder = self.db.scratch("c")
        folder.mkdir(mode=0o755)
        if request.fill is not None:
            request.fill(folder)
        mount = request.mount
        os.chown(folder, mount.uid, mount.gid)
        folder.chmod(mount.mode)
        return folder
