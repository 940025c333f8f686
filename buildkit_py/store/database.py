"""The open state root: SQLite connections, transactions, and this process' lease.

WAL with synchronous=NORMAL: a power cut may lose the last transactions but never damages the file,
which is enough for what can be built again. Every transaction that writes starts as BEGIN
IMMEDIATE: a deferred one that is upgraded later fails at once whenever somebody else has written.
Connections belong to threads; `close` ends them all.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from buildkit_py.errors import StoreError
from buildkit_py.store.failures import explain_os_errors, sqlite_error
from buildkit_py.store.leases import PIN, Lease, sweep_dead
from buildkit_py.store.locks import FileLock
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.room import make_room, reserve_memory
from buildkit_py.store.schema import MIGRATIONS, SCHEMA, VERSION

_BUSY_SECONDS = 60.0
_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"})
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _ThreadState(threading.local):
    connection: sqlite3.Connection | None = None
    depth: int = 0


class Database:
    """The state database of one root. Any thread may use it."""

    def __init__(self, paths: StatePaths) -> None:
        self.paths = paths
        paths.ensure()
        self._local = _ThreadState()
        self._guard = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._lease: Lease | None = None
        self._protected: set[tuple[str, str]] = set()
        self._prepare()

    # -------------------------------------------------------------- connections
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for reading."""
        if self._local.connection is None:
            self._local.connection = self._connect()
        return self._local.connection

    def _connect(self) -> sqlite3.Connection:
        make_room(self.paths)
        try:
            connection = sqlite3.connect(
                self.paths.database,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,  # only so that close() may end it
            )
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            reserve_memory(self.paths, connection)
        except sqlite3.Error as error:
            raise sqlite_error(os.fspath(self.paths.database), error) from error
        with self._guard:
            self._connections.append(connection)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction; an inner one joins the outer. Any error rolls all of it back."""
        connection = self.connection()
        if self._local.depth:
            yield connection
            return
        with self.explained():
            connection.execute("BEGIN IMMEDIATE")
        self._local.depth = 1
        try:
            with self.explained():
                yield connection
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        finally:
            self._local.depth = 0

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of SQLite into StoreError."""
        try:
            yield
        except sqlite3.Error as error:
            raise sqlite_error(os.fspath(self.paths.database), error) from error

    def close(self) -> None:
        """End all connections and give up the lease. The object may not be used any more."""
        if self._lease is not None:
            lease, self._lease = self._lease, None
            with self.transaction() as connection:
                connection.execute("DELETE FROM leases WHERE lease = ?", (lease.name,))
            lease.close()
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = _ThreadState()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -------------------------------------------------------------- the file
    def _prepare(self) -> None:
        with self.explained():
            version = self._version()
            if version > VERSION:
                raise StoreError(
                    f"{self.paths.root} was written by a newer version of this program",
                    hint="upgrade, or choose another state root with --root or PYBUILD_ROOT",
                )
            if version < VERSION:
                self._migrate()

    def _version(self) -> int:
        return int(self.connection().execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        with FileLock(self.paths.lock("schema")):
            connection = self.connection()
            mode = "TRUNCATE" if _on_network(self.paths.root) else "WAL"
            connection.execute(f"PRAGMA journal_mode={mode}")
            version = self._version()
            with self.transaction() as connection:
                for statement in _statements(SCHEMA):
                    connection.execute(statement)
                for number in range(version or VERSION, VERSION):
                    for statement in _statements([MIGRATIONS[number]]):
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")

    def seen_boot(self) -> str | None:
        """The boot in which this root was last checked, None for a new one."""
        with self.explained():
            row = self.connection().execute("SELECT value FROM meta WHERE key='boot'").fetchone()
        return None if row is None else str(row["value"])

    # -------------------------------------------------------------- leases
    @property
    def lease(self) -> Lease:
        """This process' lease, taken on first use."""
        with self._guard:
            if self._lease is None:
                self._lease = Lease(self.paths)
                with suppress(OSError):  # whoever is in the way tries again
                    sweep_dead(self.paths)
            return self._lease

    def scratch(self, prefix: str = "t") -> Path:
        """A fresh name for something half-made, on the file system of the state root."""
        return self.lease.scratch(prefix)

    def protect(self, kind: str, items: Iterable[str | int]) -> bool:
        """Keep items from garbage collection while this process runs.

        Call it before relying on an item, then check that the item exists.
        """
        wanted = {(kind, str(item)) for item in items} - self._protected
        if wanted:
            name = self.lease.name
            with self.transaction() as connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO leases (lease, kind, item) VALUES (?, ?, ?)",
                    [(name, *pair) for pair in wanted],
                )
            with self._guard:
                self._protected |= wanted
        return bool(wanted)

    def pin(self, owner: str, kind: str, item: str | int) -> None:
        """Keep an item until `unpin(owner)`, also when no process runs."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO leases (lease, kind, item) VALUES (?, ?, ?)",
                (PIN + owner, kind, str(item)),
            )

    def unpin(self, owner: str) -> None:
        """End what `pin` began."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE lease = ?", (PIN + owner,))


def boot_id() -> str:
    """A name for the time since the kernel started."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"


def _statements(scripts: Iterable[str]) -> Iterator[str]:
    # executescript() would commit the transaction that we are in
    for script in scripts:
        lines = (line.partition("--")[0].rstrip() for line in script.splitlines())
        for statement in "\n".join(lines).split(";"):
            if statement.strip():
                yield statement


def _on_network(root: Path) -> bool:
    """Whether the root is on a file system without shared memory, which WAL needs."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    best, kind = "", ""
    target = os.path.realpath(root)
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind in _NETWORK_FILE_SYSTEMS


def forget_snapshots(connection: sqlite3.Connection, ids: list[int]) -> None:
    """Delete snapshot rows and whatever stands on them. `ids` is closed under children."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS doomed (id INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM doomed")
    connection.executemany("INSERT OR IGNORE INTO doomed VALUES (?)", [(item,) for item in ids])
    gone = "(SELECT id FROM doomed)"
    for statement in (
        "DELETE FROM image_names WHERE image IN (SELECT id FROM images WHERE snapshot IN {})",
        "DELETE FROM images WHERE snapshot IN {}",
        "DELETE FROM cache_records WHERE snapshot IN {}",
        "UPDATE snapshots SET parent = NULL WHERE id IN {}",  # any order of deletion will do
        "DELETE FROM snapshots WHERE id IN {}",
    ):
        connection.execute(statement.format(gone))
    connection.execute("DELETE FROM layers WHERE id NOT IN (SELECT layer FROM snapshots)")


def open_database(root: Path) -> Database:
    """Open, or make, the state under `root`. Raises StoreError."""
    with explain_os_errors(f"cannot use the state root {root}"):
        return Database(StatePaths(root=root.absolute()))
