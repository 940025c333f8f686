"""Garbage collection: mark from the roots, delete rows, then files.

Roots are images, cache records, and what live leases and pins hold. A snapshot that is a root
keeps its parents. Rows go first, in one transaction; a crash afterwards leaves files without rows,
which the next collection sweeps: at once when no other process is at work, else when they are old
enough that no running step can be about to name them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from buildkit_py.digest import Digest
from buildkit_py.store.database import Database, forget_snapshots
from buildkit_py.store.downloads import lost_repositories
from buildkit_py.store.leases import is_alive
from buildkit_py.store.locks import FileLock
from buildkit_py.store.partial import MAX_AGE, forget_partials
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.trash import discard, empty_trash, remove_tree, tree_size

_ORPHAN_AGE = 3600.0
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
    for digest, _ in blobs:
        paths.blob(digest).unlink(missing_ok=True)
    freed += sweep_orphans(db, paths, now=clock())
    freed += forget_partials(paths, clock() - MAX_AGE)
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
    for digest in dropped:
        paths.blob(digest).unlink(missing_ok=True)


def sweep_orphans(db: Database, paths: StatePaths, *, now: float) -> int:
    """Delete files that no row names; returns the bytes freed.

    Beside other processes only old ones: theirs may be files whose rows are about to be written.
    """
    alone = FileLock(paths.lock("use"))
    db.release_use()
    limit = now if alone.try_acquire() else now - _ORPHAN_AGE
    try:
        return sum(_sweep(paths, item, limit) for item in orphans(db, paths))
    finally:
        alone.release()
        db.retake_use()


def orphans(db: Database, paths: StatePaths) -> Sequence[Path]:
    """Files and folders of the root that no row names."""
    with db.explained():
        connection = db.connection()
        layers = {row[0] for row in connection.execute("SELECT directory FROM layers")}
        blobs = {row[0] for row in connection.execute("SELECT digest FROM blobs")}
        mounts = {row[0] for row in connection.execute("SELECT directory FROM cache_mounts")}
    out = [entry for entry in sorted(paths.snapshots.iterdir()) if entry.name not in layers]
    out += [entry for entry in sorted(paths.cache_mounts.iterdir()) if entry.name not in mounts]
    for folder in sorted(paths.blobs.iterdir()):
        out += [
            entry
            for entry in sorted(folder.iterdir())
            if f"{folder.name}:{entry.name}" not in blobs
        ]
    return [*out, *lost_repositories(db, paths)]


def _sweep(paths: StatePaths, item: Path, limit: float) -> int:
    try:
        status = item.lstat()
    except FileNotFoundError:
        return 0
    if max(status.st_mtime, status.st_ctime) > limit:
        return 0
    size = tree_size(item) if item.is_dir() else status.st_size
    discard(paths, item)
    return size
