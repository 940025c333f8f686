"""The state root: blobs, snapshots, images, leases, garbage collection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.platforms import Platform, host_platform

if TYPE_CHECKING:
    from buildkit_py.store.content import ContentStore
    from buildkit_py.store.database import Database
    from buildkit_py.store.images import ImageStore
    from buildkit_py.store.layers import Fetch
    from buildkit_py.store.paths import StatePaths
    from buildkit_py.store.snapshots import SnapshotStore


_COLLECT_EVERY = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An open state root with all its parts."""

    paths: StatePaths
    db: Database
    content: ContentStore
    snapshots: SnapshotStore
    images: ImageStore

    def is_collection_due(self, now: float) -> bool:
        """Whether the last automatic collection was an hour ago, or never."""
        with self.db.explained():
            query = "SELECT value FROM meta WHERE key = 'collected'"
            row = self.db.connection().execute(query).fetchone()
        return row is None or not 0 <= now - float(row["value"]) < _COLLECT_EVERY

    def close(self) -> None:
        """Give up the lease and close the database."""
        self.db.close()


@contextmanager
def open_store(
    root: Path, *, fetch: Fetch | None = None, host: Platform | None = None
) -> Iterator[Store]:
    """Open, or make, a state root for a while. Raises StoreError."""
    store = make_store(root, fetch=fetch, host=host)
    try:
        yield store
    finally:
        store.close()


def make_store(root: Path, *, fetch: Fetch | None = None, host: Platform | None = None) -> Store:
    """Open, or make, a state root; the caller closes it. Raises StoreError."""
    from buildkit_py.store.content import ContentStore  # noqa: PLC0415
    from buildkit_py.store.database import boot_id, open_database  # noqa: PLC0415
    from buildkit_py.store.images import ImageStore  # noqa: PLC0415
    from buildkit_py.store.snapshots import SnapshotStore  # noqa: PLC0415

    db = open_database(root)
    content = ContentStore(db.paths, db)
    snapshots = SnapshotStore(db.paths, db, content, fetch=fetch)
    images = ImageStore(db, content, snapshots, host=host or host_platform(os.uname().machine))
    store = Store(paths=db.paths, db=db, content=content, snapshots=snapshots, images=images)
    if db.seen_boot() != boot_id():
        from buildkit_py.store.recovery import recover  # noqa: PLC0415 - once after a reboot

        recover(store)
    return store
