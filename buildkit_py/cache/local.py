"""The state root's own cache: records, file lists and snapshot digests in its database.

A record is only as good as its snapshot: a hit is leased first and then checked to exist, so that
no garbage collection can take it in between. Times of last use are written once, by `flush`, and
only where they are an hour old: a build that is all hits writes next to nothing.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from buildkit_py.cache.base import CacheRecord
from buildkit_py.digest import Digest

if TYPE_CHECKING:
    import sqlite3

    from buildkit_py.store.database import Database

_TOUCH_AFTER = 3600.0
_MOST_FILES = 100_000
_MOST_LISTS = 400

_FIND = """
SELECT r.key, r.canonical, r.snapshot, r.parts, r.description, r.slot, r.created, r.last_used
FROM cache_records AS r LEFT JOIN snapshots AS s ON s.id = r.snapshot
WHERE {} AND (r.snapshot IS NULL OR s.id IS NOT NULL)
"""


class LocalCache:
    """Cache records of one state root. `ttl` (seconds, 0 for none) is the age that still hits."""

    name = "local"

    def __init__(
        self, database: Database, *, ttl: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._ttl = ttl
        self._clock = clock
        self._touched: dict[str, int | None] = {}
        self._guard = threading.Lock()

    # -------------------------------------------------------------- records
    def find(self, key: Digest) -> CacheRecord | None:
        """The record of a key, its snapshot leased to this process."""
        record = self.peek(key)
        if record is None or record.snapshot is None:
            return record
        if self._database.protect("snapshot", [record.snapshot]):
            record = self.peek(key)
        return record

    def peek(self, key: Digest) -> CacheRecord | None:
        """The record of a key, without a lease: to look, not to use."""
        row = self._select("r.key = ?", (key,))
        if not row:
            return None
        found = row[0]
        now = self._clock()
        if self._ttl and found["created"] < now - self._ttl:
            return None
        if found["last_used"] < now - _TOUCH_AFTER:
            with self._guard:
                self._touched[key] = found["snapshot"]
        return _record(found)

    def save(self, record: CacheRecord, aliases: Sequence[Digest] = ()) -> None:
        """Keep a record under its canonical key and its aliases."""
        now = self._clock()
        keys = dict.fromkeys((record.canonical, *aliases))
        parts = json.dumps(record.parts, separators=(",", ":"))
        rows = [
            (
                key,
                record.canonical,
                record.snapshot,
                parts if key == record.canonical else "{}",
                record.description,
                record.slot,
                record.created or now,
                now,
            )
            for key in keys
        ]
        with self._database.transaction() as connection:
            connection.executemany(
                "REPLACE INTO cache_records (key, canonical, snapshot, parts, description, slot,"
                " created, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def alias(self, record: CacheRecord, aliases: Sequence[Digest]) -> None:
        """Make a record that was found be found by further keys."""
        now = self._clock()
        with self._database.transaction() as connection:
            connection.executemany(
                "REPLACE INTO cache_records (key, canonical, snapshot, parts, description, slot,"
                " created, last_used) VALUES (?, ?, ?, '{}', ?, ?, ?, ?)",
                [
                    (
                        key,
                        record.canonical,
                        record.snapshot,
                        record.description,
                        record.slot,
                        record.created,
                        now,
                    )
                    for key in aliases
                ],
            )

    def candidates(self, description: str, slot: str) -> Sequence[CacheRecord]:
        """Earlier canonical records of the same place or text, newest first.

        Those of the same build come before those that have but the text.
        """
        build = slot.rsplit("|", 2)[0] + "|"
        found: dict[str, CacheRecord] = {}
        for where, values in (
            ("r.slot = ?", (slot,)),
            ("r.description = ? AND substr(r.slot, 1, ?) = ?", (description, len(build), build)),
            ("r.description = ?", (description,)),
        ):
            if values[0]:
                rows = self._select(
                    f"{where} AND r.key = r.canonical", values, "ORDER BY r.created DESC LIMIT 6"
                )
                found.update({row["key"]: _record(row) for row in rows})
        return tuple(found.values())

    def was_built(self, description: str) -> bool:
        """Whether an earlier build had a step of that text."""
        with self._database.explained():
            rows = self._database.connection().execute(
                "SELECT 1 FROM steps WHERE text = ? LIMIT 1", (description,)
            )
            return rows.fetchone() is not None

    def is_expired(self, key: Digest) -> bool:
        """Whether a record of a key is here, but older than `ttl`."""
        return bool(self._ttl) and bool(self._select("r.key = ?", (key,)))

    def _select(
        self, where: str, values: tuple[object, ...], order: str = ""
    ) -> list[sqlite3.Row]:
        query = _FIND.format(where) + order
        with self._database.explained():
            return self._database.connection().execute(query, values).fetchall()

    # -------------------------------------------------------------- file lists
    def files(self, content: str) -> Mapping[str, str] | None:
        """The list of files that a content digest was taken of."""
        with self._database.explained():
            row = (
                self._database.connection()
                .execute("SELECT files FROM cache_files WHERE content = ?", (content,))
                .fetchone()
            )
        if row is None:
            return None
        files: dict[str, str] = json.loads(zlib.decompress(row["files"]))
        return files

    def save_files(self, content: str, files: Mapping[str, str]) -> None:
        """Keep a list; the oldest go when there are too many, and huge ones are not kept."""
        if len(files) > _MOST_FILES:
            return
        packed = zlib.compress(json.dumps(files, separators=(",", ":")).encode(), 1)
        with self._database.transaction() as connection:
            connection.execute(
                "REPLACE INTO cache_files (content, files, created) VALUES (?, ?, ?)",
                (content, packed, self._clock()),
            )
            connection.execute(
                "DELETE FROM cache_files WHERE content IN (SELECT content FROM cache_files"
                " ORDER BY created DESC LIMIT -1 OFFSET ?)",
                (_MOST_LISTS,),
            )

    # -------------------------------------------------------------- snapshot digests
    def snapshot_digest(self, snapshot: int, selection: Digest) -> str | None:
        """The remembered content digest of a selection of a snapshot, which never changes."""
        with self._database.explained():
            row = (
                self._database.connection()
                .execute(
                    "SELECT content FROM snapshot_digests WHERE snapshot = ? AND selection = ?",
                    (snapshot, selection),
                )
                .fetchone()
            )
        return None if row is None else str(row["content"])

    def save_snapshot_digest(self, snapshot: int, selection: Digest, content: str) -> None:
        """Remember the content digest of a selection of a snapshot."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO snapshot_digests (snapshot, selection, content)"
                " SELECT id, ?, ? FROM snapshots WHERE id = ?",
                (selection, content, snapshot),
            )

    # -------------------------------------------------------------- end of a build
    def flush(self) -> None:
        """Write when records were last used, in one transaction."""
        with self._guard:
            touched, self._touched = self._touched, {}
        if not touched:
            return
        now = self._clock()
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE cache_records SET last_used = ? WHERE key = ?",
                [(now, key) for key in touched],
            )
            connection.executemany(
                "UPDATE snapshots SET last_used = ?, uses = uses + 1 WHERE id = ?",
                [(now, item) for item in {*touched.values()} if item is not None],
            )


def _record(row: sqlite3.Row) -> CacheRecord:
    return CacheRecord(
        key=Digest(row["key"]),
        canonical=Digest(row["canonical"]),
        snapshot=row["snapshot"],
        parts=json.loads(row["parts"]),
        description=row["description"],
        slot=row["slot"],
        created=row["created"],
    )
