"""Garbage collection: mark from the roots, delete rows, then files.

Roots are images, cache records, and what live leases and pins hold. A snapshot that is a root
keeps its parents. Rows go first, in one transaction; a crash afterwards leaves files without rows,
which the next collection sweeps. Whoever puts a file into its place does so in the transaction
that adds its row, so under a lock of the database a file without a row is nobody's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from buildkit_py.digest import Digest
from buildkit_py.errors import StoreError
from buildkit_py.store.database import Database, forget_snapshots
from buildkit_py.store.downloads import lost_repositories
from buildkit_py.store.leases import is_alive
from buildkit_py.store.locks import FileLock, mount_lock
from buildkit_py.store.partial import MAX_AGE, forget_partials
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.trash import discard, empty_trash, hide, remove_tree, tree_size

_PASSING_LOCKS = ("layer-", "step-", "cache-", "mount-", "lease-")
_ROOTS = """
    SELECT snapshot AS id FROM images WHERE snapshot IS NOT NULL
    UNION SELECT snapshot FROM cache_records WHERE snapshot IS NOT NULL
    UNION SELECT CAST(item AS INTEGER) FROM leases WHERE kind = 'snapshot'
"""
_UNREACHABLE = f"""
    WITH RECURSIVE kept (id) AS (
        SELECT id FROM ({_ROOTS})
        UNION SELECT snapshots.parent FROM snapshots JOIN kept ON snapshots.id = kept.id
        WHERE snapshots.parent IS NOT NULL
    ) SELECT id FROM snapshots WHERE id NOT IN (SELECT id FROM kept)
"""  # noqa: S608
_BLOB_REFERENCES = (
    "SELECT id FROM images",
    "SELECT json_extract(manifest, '$.digest') FROM images WHERE manifest IS NOT NULL",
    "SELECT json_extract(blob, '$.digest') FROM layers WHERE blob IS NOT NULL",
    "SELECT json_extract(descriptor, '$.digest') FROM layer_blobs",
    "SELECT item FROM leases WHERE kind = 'blob'",
    "SELECT digest FROM http_records",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed."""

    snapshots: tuple[int, ...] = ()
    blobs: tuple[Digest, ...] = ()
    freed: int = 0


def collect_garbage(
    db: Database, paths: StatePaths, *, clock: Callable[[], float] = time.time
) -> Collected:
    """Remove everything that no root leads to, and leftovers of processes that are gone."""
    drop_dead_leases(db, paths)
    with db.transaction() as connection:
        doomed = [row["id"] for row in connection.execute(_UNREACHABLE)]
        before = _layer_sizes(connection)
        forget_snapshots(connection, doomed)
        after = _layer_sizes(connection)
        blobs = _unreferenced_blobs(connection)
        connection.executemany("DELETE FROM blobs WHERE digest = ?", [(d,) for d, _ in blobs])
    freed = sum(size for _, size in blobs)
    for name in before.keys() - after.keys():
        folder = paths.snapshots / name
        if folder.exists():
            freed += before[name] or tree_size(folder)
        discard(paths, folder)
    remove_blobs(db, paths, [digest for digest, _ in blobs])
    freed += sweep_orphans(db, paths)
    freed += forget_partials(paths, clock() - MAX_AGE)
    sweep_locks(paths)
    empty_trash(paths)
    return Collected(
        snapshots=tuple(doomed), blobs=tuple(digest for digest, _ in blobs), freed=freed
    )


def _layer_sizes(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        "SELECT directory, CASE unpacked WHEN 1 THEN COALESCE(size, 0) ELSE 0 END AS size"
        " FROM layers"
    )
    return {row["directory"]: row["size"] for row in rows}


def _unreferenced_blobs(connection: Connection) -> list[tuple[Digest, int]]:
    union = " UNION ".join(_BLOB_REFERENCES)
    rows = connection.execute(
        f"SELECT digest, size FROM blobs WHERE digest NOT IN (SELECT * FROM ({union})"  # noqa: S608
        " WHERE 1)"
    )
    return [(Digest(row["digest"]), row["size"]) for row in rows]


def drop_dead_leases(db: Database, paths: StatePaths) -> None:
    """Forget what processes that are gone have held, and what they had half made."""
    with db.explained():
        rows = db.connection().execute("SELECT DISTINCT lease FROM leases").fetchall()
    names = {row["lease"] for row in rows}
    with os.scandir(paths.tmp) as entries:
        folders = {entry.name for entry in entries}
    dead = [name for name in names | folders if not is_alive(paths, name)]
    with db.transaction() as connection:
        connection.executemany("DELETE FROM leases WHERE lease = ?", [(name,) for name in dead])
    for name in dead:
        remove_tree(paths.tmp / name)
        paths.lock(f"lease-{name}").unlink(missing_ok=True)


def drop_blobs(db: Database, paths: StatePaths, digests: Iterable[Digest]) -> None:
    """Take back blobs that this process has just added, unless something refers to them."""
    own = db.lease.name
    dropped: list[Digest] = []
    with db.transaction() as connection:
        for digest in dict.fromkeys(digests):
            connection.execute(
                "DELETE FROM leases WHERE lease = ? AND kind = 'blob' AND item = ?", (own, digest)
            )
        unreferenced = {digest for digest, _ in _unreferenced_blobs(connection)}
        dropped = [digest for digest in dict.fromkeys(digests) if digest in unreferenced]
        connection.executemany("DELETE FROM blobs WHERE digest = ?", [(d,) for d in dropped])
    remove_blobs(db, paths, dropped)


def remove_blobs(db: Database, paths: StatePaths, digests: Iterable[Digest]) -> None:
    """Delete the files of blobs whose rows are gone, unless somebody has just added them again."""
    hidden: list[Path] = []
    with db.transaction() as connection:
        for digest in digests:
            row = connection.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                hidden += hide(paths, paths.blob(digest))
    for path in hidden:
        remove_tree(path)


def sweep_orphans(db: Database, paths: StatePaths) -> int:
    """Delete files that no row names; returns the bytes freed."""
    with db.transaction():
        hidden = [found for item in orphans(db, paths) for found in hide(paths, item)]
    freed = 0
    for item in hidden:
        with suppress(FileNotFoundError):  # another process empties the trash
            freed += tree_size(item) if item.is_dir() else item.lstat().st_size
        remove_tree(item)
    return freed


def sweep_locks(paths: StatePaths) -> None:
    """Delete lock files of single layers, steps, mounts and processes that nobody holds.

    Whoever waits for one sees that it is gone, and makes another.
    """
    with os.scandir(paths.locks) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.startswith(_PASSING_LOCKS):
            lock = FileLock(paths.lock(name))
            with suppress(StoreError):
                if lock.try_acquire(create=False):
                    paths.lock(name).unlink(missing_ok=True)
                    lock.release()


def abandoned(db: Database, paths: StatePaths) -> Sequence[Path]:
    """What `sweep_orphans` would delete."""
    with db.transaction():
        return orphans(db, paths)


def _is_worked_in(paths: StatePaths, directory: str) -> bool:
    """Whether a step runs on a directory of a cache mount, which may have been replaced since."""
    lock = FileLock(paths.lock(mount_lock(directory)))
    if lock.try_acquire():
        lock.release()
        return False
    return True


def orphans(db: Database, paths: StatePaths) -> Sequence[Path]:
    """Files and folders of the root that no row names. For use in a transaction."""
    with db.explained():
        connection = db.connection()
        builds = {row[0] for row in connection.execute("SELECT ref FROM builds")}
        layers = {row[0] for row in connection.execute("SELECT directory FROM layers")}
        blobs = {row[0] for row in connection.execute("SELECT digest FROM blobs")}
        mounts = {row[0] for row in connection.execute("SELECT directory FROM cache_mounts")}
    out = [entry for entry in sorted(paths.snapshots.iterdir()) if entry.name not in layers]
    out += [
        entry
        for entry in sorted(paths.cache_mounts.iterdir())
        if entry.name not in mounts and not _is_worked_in(paths, entry.name)
    ]
    out += [entry for entry in sorted(paths.builds.iterdir()) if entry.name not in builds]
    for folder in sorted(paths.blobs.iterdir()):
        out += [
            entry
            for entry in sorted(folder.iterdir())
            if f"{folder.name}:{entry.name}" not in blobs
        ]
    return [*out, *lost_repositories(db, paths)]
