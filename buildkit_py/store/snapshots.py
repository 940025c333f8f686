"""Committed file trees: a layer on a parent snapshot.

A layer is a directory in the format of an overlay upper directory. A snapshot's file system is the
stack of the layers of its chain; `directories` gives it, lowest first. Layers that come from
outside are rows with a blob until their files are needed: then the blob is fetched (by the
callable given to the store) and unpacked, once, whoever asks.

New layers grow in the process' own scratch folder and are renamed to their place when they are
committed, so an interrupted step leaves nothing but scratch.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection, Row
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest
from buildkit_py.errors import StoreError
from buildkit_py.oci.config import chain_id
from buildkit_py.oci.descriptor import Descriptor, descriptor_to_json
from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import Database
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.layer import LayerBlob, Variant
from buildkit_py.store.layers import Fetch, LayerStore, copy_root
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.snapshot import (
    EMPTY_LAYER,
    Active,
    Snapshot,
    is_idle,
    layer_of,
    snapshot_from_row,
)
from buildkit_py.store.trash import remove_unmounted

if TYPE_CHECKING:
    from buildkit_py.layers.tar import Sink
    from buildkit_py.store.growing import Follow

__all__ = ["Active", "Snapshot", "SnapshotStore"]

_HOUR = 3600.0
_COLUMNS = """
    snapshots.id, snapshots.parent, snapshots.layer, snapshots.chain, snapshots.kind,
    snapshots.description, snapshots.created, snapshots.last_used, snapshots.uses,
    layers.directory, layers.unpacked, layers.diff_id, layers.size, layers.blob, layers.origin,
    layers.settle
"""
_CHAIN = f"""
    WITH RECURSIVE up (id, height) AS (
        VALUES (?, 0)
        UNION ALL SELECT snapshots.parent, up.height + 1 FROM up
        JOIN snapshots ON snapshots.id = up.id WHERE snapshots.parent IS NOT NULL
    ) SELECT {_COLUMNS} FROM up JOIN snapshots ON snapshots.id = up.id
    JOIN layers ON layers.id = snapshots.layer ORDER BY up.height DESC
"""  # noqa: S608


class SnapshotStore:
    """The snapshots of a state root. Any thread may use it."""

    def __init__(
        self,
        paths: StatePaths,
        db: Database,
        content: ContentStore,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._db = db
        self._clock = clock
        self.content = content
        self.layers = LayerStore(paths, db, content, fetch=fetch)
        self._stacks: dict[int, tuple[Path, tuple[Path, ...]]] = {}  # of what was made here

    # -------------------------------------------------------------- reading
    def get(self, snapshot: int) -> Snapshot:
        """A snapshot by id. Raises StoreError."""
        found = self.find(snapshot)
        if found is None:
            raise StoreError(f"snapshot {snapshot} is not in the store")
        return found

    def find(self, snapshot: int) -> Snapshot | None:
        """A snapshot by id, or None."""
        query = (
            f"SELECT {_COLUMNS} FROM snapshots JOIN layers ON layers.id = snapshots.layer"  # noqa: S608
            " WHERE snapshots.id = ?"
        )
        with self._db.explained():
            row = self._db.connection().execute(query, (snapshot,)).fetchone()
        return None if row is None else self._snapshot(row)

    def chain(self, snapshot: int | None) -> tuple[Snapshot, ...]:
        """A snapshot and all below it, lowest first. Raises StoreError."""
        if snapshot is None:
            return ()
        with self._db.explained():
            rows = self._db.connection().execute(_CHAIN, (snapshot,)).fetchall()
        if not rows:
            raise StoreError(f"snapshot {snapshot} is not in the store")
        return tuple(self._snapshot(row) for row in rows)

    def _snapshot(self, row: Row) -> Snapshot:
        return snapshot_from_row(row, self._paths)

    def use(self, snapshot: int) -> bool:
        """Protect a snapshot while this process runs; False when it is gone.

        For a result that was found by its cache key: call this before relying on it.
        """
        self._db.protect("snapshot", [snapshot])
        found = self.find(snapshot)
        return found is not None and (
            found.blob is not None or not found.unpacked or found.directory.is_dir()
        )

    def directories(self, snapshot: int | None) -> tuple[Path, ...]:
        """The layers to stack, lowest first; fetches and unpacks what is not there yet.

        A layer that occurs twice stands only at its highest place: overlay refuses a directory
        that is given twice, and the lower one shows nothing that the higher one does not.
        """
        known = None if snapshot is None else self._stacks.get(snapshot)
        if known is not None and self.get(snapshot or 0).directory == known[0]:
            return known[1]
        chain = self.chain(snapshot)
        if not all(item.unpacked for item in chain):
            if snapshot is not None:
                self._db.protect("snapshot", [snapshot])
            self.layers.unpack([layer_of(item) for item in chain])
        topmost = {item.directory: item for item in chain}
        return tuple(item.directory for item in chain if topmost[item.directory] is item)

    # -------------------------------------------------------------- making
    @contextmanager
    def prepare(self, parent: int | None) -> Iterator[Active]:
        """A new, empty layer on `parent`; it disappears unless it is committed inside."""
        folder = self._db.scratch("s")
        active = Active(
            parent=parent,
            folder=folder,
            upper=folder / "fs",
            work=folder / "work",
            below=self.directories(parent),
        )
        with explain_os_errors("cannot write to the store"):
            os.mkdir(folder, 0o711)
            os.mkdir(active.upper, 0o755)
            os.mkdir(active.work, 0o711)
            active.upper.chmod(0o755)  # whatever the umask
            if active.below:
                copy_root(active.below[-1], active.upper)
        try:
            yield active
        finally:
            with suppress(OSError):
                remove_unmounted(active.folder)

    def commit(
        self,
        active: Active,
        *,
        description: str = "",
        kind: str = "regular",
        settle: int | None = None,
    ) -> Snapshot:
        """Make a layer permanent. Its files are not touched again.

        In its tar, times later than `settle` (seconds) become that; on disk they stay, so that
        steps that follow see which file is newer.
        """
        # A layer that changes nothing is known already, and is not mounted: that takes time.
        idle = bool(active.below) and is_idle(active.upper, active.below[-1])
        tar = (*EMPTY_LAYER, 0) if idle else (None, None, None)
        with self._db.transaction() as connection:  # what has no row may be swept
            name = self._place(active.upper)
            layer = connection.execute(
                "INSERT INTO layers (directory, unpacked, settle, diff_id, tar_size, size)"
                " VALUES (?, 1, ?, ?, ?, ?)",
                (name, settle, *tar),
            ).lastrowid
            assert layer is not None
            now = self._clock()
            snapshot = self._insert(connection, active.parent, layer, kind, description, at=now)
        made = Snapshot(
            id=snapshot,
            parent=active.parent,
            layer=layer,
            directory=self._paths.layer(name),
            diff_id=tar[0],
            size=tar[2],
            kind=kind,
            description=description,
            created=now,
            last_used=now,
            settle=settle,
        )
        top = () if idle else (made.directory,)
        self._stacks[snapshot] = (made.directory, (*active.below, *top))
        return made

    def _place(self, upper: Path) -> str:
        while True:
            name = _new_name()
            folder = self._paths.snapshots / name
            with explain_os_errors("cannot write to the store"):
                try:
                    folder.mkdir(mode=0o711)
                except FileExistsError:
                    continue
                upper.rename(folder / "fs")
                return name

    def _insert(
        self,
        connection: Connection,
        parent: int | None,
        layer: int,
        kind: str,
        description: str,
        chain: Digest | None = None,
        *,
        at: float | None = None,
    ) -> int:
        now = self._clock() if at is None else at
        snapshot = connection.execute(
            "INSERT INTO snapshots (parent, layer, chain, kind, description, created, last_used)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (parent, layer, chain, kind, description, now, now),
        ).lastrowid
        assert snapshot is not None
        self._lease(connection, snapshot)
        return snapshot

    def _lease(self, connection: Connection, snapshot: int) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO leases (lease, kind, item) VALUES (?, 'snapshot', ?)",
            (self._db.lease.name, str(snapshot)),
        )

    def from_layer(
        self,
        parent: int | None,
        descriptor: Descriptor,
        diff_id: Digest,
        origin: str = "",
        *,
        description: str = "",
    ) -> Snapshot:
        """The snapshot of a layer blob on `parent`; nothing is fetched or unpacked yet.

        Idempotent by chain id: the same layer on the same stack gives the same snapshot. The same
        layer on another stack is another directory: links in it may lead into the layers below.
        """
        below = "" if parent is None else self.chain_id(parent)
        chain = chain_id([Digest(below), diff_id] if below else [diff_id])
        with self._db.transaction() as connection:
            row = connection.execute(
                "SELECT id FROM snapshots WHERE chain = ? AND parent IS ? ORDER BY id LIMIT 1",
                (chain, parent),
            ).fetchone()
            if row is None:
                layer = self._insert_layer(connection, descriptor, diff_id, origin)
                found = self._insert(connection, parent, layer, "source.image", description, chain)
            else:
                found = row["id"]
                self._lease(connection, found)
                if diff_id in self.layers.lost.gone:
                    text = _descriptor_text(descriptor)
                    self.layers.lost.move(connection, found, text, origin)
        return self.get(found)

    def _insert_layer(
        self, connection: Connection, descriptor: Descriptor, diff_id: Digest, origin: str
    ) -> int:
        while True:
            name = _new_name()
            taken = connection.execute("SELECT 1 FROM layers WHERE directory = ?", (name,))
            if taken.fetchone() is None and not (self._paths.snapshots / name).exists():
                break
        layer = connection.execute(
            "INSERT INTO layers (directory, unpacked, diff_id, blob, origin)"
            " VALUES (?, 0, ?, ?, ?)",
            (name, diff_id, _descriptor_text(descriptor), origin),
        ).lastrowid
        assert layer is not None
        return layer

    def rebase(self, parent: int | None, top: int, *, description: str = "") -> Snapshot:
        """The top layer of `top` on another parent (`COPY --link`); copies nothing."""
        layer = self.get(top).layer
        with self._db.transaction() as connection:
            row = connection.execute(
                "SELECT id FROM snapshots WHERE parent IS ? AND layer = ? ORDER BY id LIMIT 1",
                (parent, layer),
            ).fetchone()
            if row is None:
                found = self._insert(connection, parent, layer, "regular", description)
            else:
                found = row["id"]
                self._lease(connection, found)
        return self.get(found)

    # -------------------------------------------------------------- layers
    def diff_id(self, snapshot: int) -> Digest:
        """Digest of the top layer's uncompressed tar; computed once."""
        return self._diff_id(self.get(snapshot))

    def diff_ids(self, snapshot: int | None) -> tuple[Digest, ...]:
        """The diff_ids of the whole stack, lowest first."""
        return tuple(self._diff_id(item) for item in self.chain(snapshot))

    def _diff_id(self, item: Snapshot) -> Digest:
        return item.diff_id or self.layers.diff_id(layer_of(item))

    def chain_id(self, snapshot: int) -> Digest:
        """The digest that names the stack, remembered."""
        found = self.get(snapshot)
        if found.chain is not None:
            return found.chain
        chain = chain_id(self.diff_ids(snapshot))
        with self._db.transaction() as connection:
            connection.execute("UPDATE snapshots SET chain = ? WHERE id = ?", (chain, snapshot))
        return chain

    def layer_blob(self, snapshot: int, variant: Variant | None = None) -> Descriptor:
        """The top layer as a blob of the content store; see `layer`."""
        blob = self.layer(snapshot, variant)
        self.ensure_blob(snapshot, blob)
        return blob.descriptor

    def ensure_blob(self, snapshot: int, blob: LayerBlob) -> None:
        """Have the bytes of what `layer` gave in the content store."""
        self.layers.ensure_blob(layer_of(self.get(snapshot)), blob)

    def layer(
        self,
        snapshot: int,
        variant: Variant | None = None,
        watch: Callable[[], None] | None = None,
        follow: Follow | None = None,
    ) -> LayerBlob:
        """Descriptor and diff_id of the top layer in a given form.

        A layer that came from outside stays as it came, and is not fetched, unless the variant
        forces another form. A layer made here is compressed, once for each variant; `watch` is
        called meanwhile and may raise to end that, `follow` may read the blob meanwhile.
        """
        return self.layers.blob(layer_of(self.get(snapshot)), variant or Variant(), watch, follow)

    def copy_blob(self, snapshot: int, blob: LayerBlob, out: Sink) -> None:
        """Write the bytes of what `layer` gave, verified."""
        self.layers.copy_blob(layer_of(self.get(snapshot)), blob, out)

    def usage(self, snapshot: int) -> int:
        """Bytes of the top layer's files; those of its blob while it is not unpacked."""
        found = self.get(snapshot)
        if found.size is not None:
            return found.size
        if not found.unpacked:
            return found.blob.size if found.blob else 0
        return self.layers.measure(layer_of(found))

    # -------------------------------------------------------------- keeping
    def touch(self, snapshots: Iterable[int]) -> None:
        """Note that snapshots were used, at most once an hour each: one transaction or none."""
        now = self._clock()
        stale = [
            item
            for item in (self.find(number) for number in set(snapshots))
            if item is not None and now - item.last_used > _HOUR
        ]
        if stale:
            with self._db.transaction() as connection:
                connection.executemany(
                    "UPDATE snapshots SET last_used = ?, uses = uses + 1 WHERE id = ?",
                    [(now, item.id) for item in stale],
                )


def _new_name() -> str:
    """Short, because many of these make up the options of one overlay mount."""
    return base64.b32encode(os.urandom(5)).decode().lower()[:6]


def _descriptor_text(descriptor: Descriptor) -> str:
    return json.dumps(descriptor_to_json(replace(descriptor, platform=None)))
