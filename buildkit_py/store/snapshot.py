"""A snapshot as a value, and how a row of the database gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Row

from buildkit_py.digest import Digest
from buildkit_py.oci.descriptor import Descriptor, descriptor_from_json
from buildkit_py.store.paths import StatePaths


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
    blob: Descriptor | None
    origin: str
    unpacked: bool
    chain: Digest | None
    kind: str
    description: str
    created: float
    last_used: float
    uses: int
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
