"""A snapshot as a value, and how a row of the database gives it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Row

from buildkit_py.digest import Digest, sha256
from buildkit_py.oci.descriptor import Descriptor, descriptor_from_json
from buildkit_py.store.layer import Layer
from buildkit_py.store.paths import StatePaths

EMPTY_LAYER = (sha256(bytes(1024)), 1024)
"""Digest and size of the tar of a layer without entries: its end mark alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """A layer being made: `upper` is written to, `work` is overlay's work directory.

    Both are in `folder`, and empty at first. `below` are the layers of its parent, lowest first.
    """

    parent: int | None
    folder: Path
    upper: Path
    work: Path
    below: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A file tree: `directory` holds its top layer, `parent` is what that lies on.

    `blob` is the layer as it came from outside, `diff_id` and `size` are None until known.
    """

    id: int
    parent: int | None
    layer: int
    directory: Path
    diff_id: Digest | None
    size: int | None
    blob: Descriptor | None = None
    origin: str = ""
    unpacked: bool = True
    chain: Digest | None = None
    kind: str
    description: str
    created: float
    last_used: float
    uses: int = 1
    settle: int | None = None


def snapshot_from_row(row: Row, paths: StatePaths) -> Snapshot:
    """The snapshot of a row that joins `snapshots` and `layers`."""
    return Snapshot(
        id=row["id"],
        parent=row["parent"],
        layer=row["layer"],
        directory=paths.layer(row["directory"]),
        diff_id=None if row["diff_id"] is None else Digest(row["diff_id"]),
        size=row["size"],
        blob=None if row["blob"] is None else descriptor_from_json(json.loads(row["blob"])),
        origin=row["origin"],
        unpacked=bool(row["unpacked"]),
        chain=None if row["chain"] is None else Digest(row["chain"]),
        kind=row["kind"],
        description=row["description"],
        created=row["created"],
        last_used=row["last_used"],
        uses=row["uses"],
        settle=row["settle"],
    )


def is_idle(upper: Path, below: Path) -> bool:
    """Whether a layer has no entries, and a root like that of the layer below it."""
    with os.scandir(upper) as entries:
        if any(True for _ in entries):
            return False
    mine, other = upper.stat(), below.stat()
    same = (mine.st_mode, mine.st_uid, mine.st_gid, mine.st_mtime_ns) == (
        *(other.st_mode, other.st_uid, other.st_gid, other.st_mtime_ns),
    )
    return same and not _own_attributes(upper) and not _own_attributes(below)


def _own_attributes(path: Path) -> list[str]:
    """Extended attributes but those that overlay keeps for itself."""
    return [
        name
        for name in os.listxattr(path)
        if not name.startswith(("trusted.overlay.", "user.overlay."))
    ]


def layer_of(snapshot: Snapshot) -> Layer:
    """The top layer of a snapshot."""
    return Layer(
        id=snapshot.layer,
        directory=snapshot.directory,
        unpacked=snapshot.unpacked,
        diff_id=snapshot.diff_id,
        blob=snapshot.blob,
        origin=snapshot.origin,
        settle=snapshot.settle,
    )
