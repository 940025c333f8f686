"""What the store holds, record by record: the view of `du`, `system df` and pruning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.store.downloads import download_records
from buildkit_py.store.leases import PIN, is_alive
from buildkit_py.store.trash import tree_size

if TYPE_CHECKING:
    from buildkit_py.store import Store
    from buildkit_py.store.images import ImageSummary

CACHE_MOUNT = "exec.cachemount"
_SNAPSHOTS = """
    SELECT snapshots.id, snapshots.parent, snapshots.layer, snapshots.kind, snapshots.description,
        snapshots.created, snapshots.last_used, snapshots.uses, layers.unpacked, layers.size,
        COALESCE(json_extract(layers.blob, '$.digest'), '') AS blob
    FROM snapshots JOIN layers ON layers.id = snapshots.layer ORDER BY snapshots.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One thing that takes space. `in_use`: something needs it; `shared`: an image has it.

    `last_used` of a snapshot is never older than that of what stands on it.
    """

    id: str
    kind: str
    size: int
    created: float
    last_used: float
    uses: int
    description: str = ""
    parent: str = ""
    in_use: bool = False
    shared: bool = False
    mutable: bool = False

    @property
    def reclaimable(self) -> bool:
        """Whether pruning may take it."""
        return not self.in_use


def usage_records(store: Store) -> tuple[UsageRecord, ...]:
    """Everything in the build cache: snapshots, mounts, downloads; the longest unused first."""
    records = [*_snapshot_records(store), *_mount_records(store), *download_records(store)]
    records.sort(key=lambda record: (record.last_used, record.id))
    return tuple(records)


def held_items(store: Store, kind: str) -> set[str]:
    """What live leases and pins hold."""
    with store.db.explained():
        rows = store.db.connection().execute(
            "SELECT lease, item FROM leases WHERE kind = ?", (kind,)
        )
        found = [(row["lease"], row["item"]) for row in rows]
    alive = {
        lease
        for lease in {lease for lease, _ in found}
        if lease.startswith(PIN) or is_alive(store.paths, lease)
    }
    return {item for lease, item in found if lease in alive}


def _snapshot_records(store: Store) -> list[UsageRecord]:
    with store.db.explained():
        connection = store.db.connection()
        rows = connection.execute(_SNAPSHOTS).fetchall()
        tops = connection.execute(
            "SELECT snapshot FROM images WHERE snapshot IS NOT NULL"
        ).fetchall()
        blobs = {row["digest"]: row["size"] for row in connection.execute(_BLOB_SIZES)}
        variants: dict[int, int] = defaultdict(int)
        for row in connection.execute(_VARIANT_SIZES):
            variants[row["layer"]] = row["size"]
    parents = {row["id"]: row["parent"] for row in rows}
    of_images = _closure((row["snapshot"] for row in tops), parents)
    held = _closure((int(item) for item in held_items(store, "snapshot")), parents)
    latest = _latest_use({row["id"]: row["last_used"] for row in rows}, parents)
    seen: set[int] = set()
    out = []
    for row in rows:
        size = 0
        if row["layer"] not in seen:
            seen.add(row["layer"])
            size = variants[row["layer"]] + blobs.get(row["blob"], 0)
            if row["unpacked"]:
                known = row["size"]
                size += store.snapshots.usage(row["id"]) if known is None else known
        out.append(
            UsageRecord(
                id=str(row["id"]),
                kind=row["kind"],
                size=size,
                created=row["created"],
                last_used=latest[row["id"]],
                uses=row["uses"],
                description=row["description"],
                parent="" if row["parent"] is None else str(row["parent"]),
                in_use=row["id"] in of_images or row["id"] in held,
                shared=row["id"] in of_images,
            )
        )
    return out


def images_below(store: Store, images: Iterable[ImageSummary]) -> set[str]:
    """The ids of the records of snapshots that some images stand on."""
    return {
        str(item.id)
        for top in {image.snapshot for image in images}
        for item in store.snapshots.chain(top)
    }


_BLOB_SIZES = "SELECT digest, size FROM blobs"
_VARIANT_SIZES = """
    SELECT layer, SUM(blobs.size) AS size FROM layer_blobs
    JOIN blobs ON blobs.digest = json_extract(descriptor, '$.digest') GROUP BY layer
"""


def _closure(starts: Iterable[int], parents: dict[int, int | None]) -> set[int]:
    out: set[int] = set()
    for start in starts:
        item: int | None = start
        while item is not None and item in parents and item not in out:
            out.add(item)
            item = parents[item]
    return out


def _latest_use(own: dict[int, float], parents: dict[int, int | None]) -> dict[int, float]:
    latest = dict(own)
    for item in sorted(own, reverse=True):  # children have higher ids than their parents
        parent = parents[item]
        if parent is not None and parent in latest:
            latest[parent] = max(latest[parent], latest[item])
    return latest


def _mount_records(store: Store) -> list[UsageRecord]:
    held = held_items(store, "cache-mount")
    with store.db.explained():
        rows = store.db.connection().execute("SELECT * FROM cache_mounts").fetchall()
    return [
        UsageRecord(
            id=row["directory"],
            kind=CACHE_MOUNT,
            size=_folder_size(store.paths.cache_mounts / row["directory"]),
            created=row["created"],
            last_used=row["last_used"],
            uses=1,
            description=row["description"] or f"cache mount {row['id']}",
            in_use=row["id"] in held,
            mutable=True,
        )
        for row in rows
    ]


def _folder_size(folder: Path) -> int:
    try:
        return tree_size(folder)
    except FileNotFoundError:  # another process has just pruned it
        return 0


def total(records: Sequence[UsageRecord]) -> tuple[int, int]:
    """Bytes of all records, and of those that can be reclaimed."""
    return (
        sum(record.size for record in records),
        sum(record.size for record in records if record.reclaimable),
    )
