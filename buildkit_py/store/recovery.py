"""After a reboot: finds out which of the last files reached the disk.

Nothing is flushed while building; a rebuild is cheaper than waiting for the disk at every step.
So a power cut may leave rows whose files are empty or torn. The kernel writes dirty pages back
within half a minute, so only what was made in the last minutes before the reboot is in doubt:
blobs of that time are read and compared with their digest, layers with their diff_id. What came
from a blob is unpacked again, what has no known digest (a result that never left) is given up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from sqlite3 import Connection, Row
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, hex_of
from buildkit_py.errors import PybuildError
from buildkit_py.layers.diff import write_layer
from buildkit_py.store.content import READ_SIZE
from buildkit_py.store.database import boot_id, forget_snapshots
from buildkit_py.store.leases import PIN
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from buildkit_py.store import Store

_DOUBTFUL_SECONDS = 600.0
_SUSPECT_LAYERS = """
    SELECT layers.*, MAX(snapshots.created) AS made FROM layers
    JOIN snapshots ON snapshots.layer = layers.id
    WHERE layers.synced = 0 AND layers.unpacked = 1 GROUP BY layers.id
"""


def recover(store: Store) -> None:
    """Check what is in doubt, once after each reboot."""
    if store.db.seen_boot() == boot_id():
        return
    with FileLock(store.paths.lock("recovery")):
        before = store.db.seen_boot()
        if before == boot_id():
            return
        if before is not None:
            _recover(store)
        with store.db.transaction() as connection:
            connection.execute("REPLACE INTO meta (key, value) VALUES ('boot', ?)", (boot_id(),))


def _recover(store: Store) -> None:
    with store.db.explained():
        connection = store.db.connection()
        last = connection.execute(
            "SELECT MAX(t) FROM (SELECT MAX(created) AS t FROM blobs UNION ALL"
            " SELECT MAX(created) FROM snapshots UNION ALL SELECT MAX(last_used) FROM snapshots)"
        ).fetchone()[0]
        since = (last or 0.0) - _DOUBTFUL_SECONDS
        blobs = connection.execute(
            "SELECT digest FROM blobs WHERE synced = 0 AND created >= ?", (since,)
        ).fetchall()
        layers = [row for row in connection.execute(_SUSPECT_LAYERS) if row["made"] >= since]
    torn = [row["digest"] for row in blobs if not _is_whole(store, Digest(row["digest"]))]
    again = [row["id"] for row in layers if row["blob"] is not None]
    lost = [row["id"] for row in layers if row["blob"] is None and not _is_intact(store, row)]
    with store.db.transaction() as connection:
        connection.execute("DELETE FROM leases WHERE lease NOT LIKE ?", (PIN + "%",))
        _forget_blobs(connection, torn)
        connection.executemany(
            "UPDATE layers SET unpacked = 0 WHERE id = ?", [(item,) for item in again]
        )
        _forget_layers(connection, lost)
        connection.execute("UPDATE blobs SET synced = 1")
        connection.execute("UPDATE layers SET synced = 1 WHERE unpacked = 1")


def _is_whole(store: Store, digest: Digest) -> bool:
    found = hashlib.new(digest.partition(":")[0])
    try:
        with store.content.open(digest) as file:
            while chunk := file.read(READ_SIZE):
                found.update(chunk)
    except PybuildError:
        return False
    return found.hexdigest() == hex_of(digest)


def _is_intact(store: Store, row: Row) -> bool:
    directory = store.paths.layer(row["directory"])
    if row["diff_id"] is None or not directory.is_dir():
        return False
    try:
        found = write_layer(directory, clamp_mtime=row["settle"]).diff_id
        return bool(found == row["diff_id"])
    except (PybuildError, OSError):
        return False


def _forget_blobs(connection: Connection, digests: Iterable[str]) -> None:
    gone = [(digest,) for digest in digests]
    for statement in (
        "DELETE FROM layer_blobs WHERE json_extract(descriptor, '$.digest') = ?",
        "UPDATE images SET manifest = NULL WHERE json_extract(manifest, '$.digest') = ?",
        "DELETE FROM image_names WHERE image = ?",
        "DELETE FROM image_digests WHERE image = ?",
        "DELETE FROM images WHERE id = ?",
        "DELETE FROM blobs WHERE digest = ?",
    ):
        connection.executemany(statement, gone)


def _forget_layers(connection: Connection, layers: Iterable[int]) -> None:
    ids: set[int] = set()
    for layer in layers:
        rows = connection.execute(
            "WITH RECURSIVE lost (id) AS (SELECT id FROM snapshots WHERE layer = ?"
            " UNION SELECT snapshots.id FROM snapshots JOIN lost ON snapshots.parent = lost.id)"
            " SELECT id FROM lost",
            (layer,),
        )
        ids.update(row["id"] for row in rows)
    forget_snapshots(connection, sorted(ids))
