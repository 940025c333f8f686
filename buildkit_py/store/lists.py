"""Manifest lists: names that lead to images of several platforms, and what their index adds.

A list is an image name like any other, so it can be saved, tagged and built on. Kept besides are
the order of its entries, annotations, and what an entry says of its platform more than the image.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from sqlite3 import Connection
from typing import Any

from buildkit_py.digest import Digest
from buildkit_py.errors import NoSuchImage, UsageError
from buildkit_py.oci.reference import Reference
from buildkit_py.platforms import Platform, normalize
from buildkit_py.store.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a list says of one image."""

    image: Digest
    platform: Platform
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """A list as it stands: entries in the index's order."""

    entries: tuple[Entry, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    several: bool = False  # an index even with one entry

    def with_entry(self, entry: Entry) -> ImageList:
        """The list with an image for a platform, in the place of one for the same platform."""
        kept = [item for item in self.entries if item.platform != entry.platform]
        position = next(
            (i for i, item in enumerate(self.entries) if item.platform == entry.platform),
            len(kept),
        )
        kept.insert(position, entry)
        return replace(self, entries=tuple(kept))


class ListStore:
    """The lists of a state root."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    def find(self, name: Reference) -> ImageList | None:
        """The list of a name; also of a name that a build gave to several platforms."""
        with self._db.explained():
            connection = self._db.connection()
            row = connection.execute(
                "SELECT data FROM image_lists WHERE name = ?", (str(name),)
            ).fetchone()
            rows = connection.execute(
                "SELECT platform, image FROM image_names WHERE name = ? ORDER BY platform",
                (str(name),),
            ).fetchall()
        if row is None and len(rows) < 2:
            return None
        return _decode(json.loads(row["data"]) if row else {}, rows)

    def get(self, name: Reference) -> ImageList:
        """As `find`. Raises NoSuchImage."""
        found = self.find(name)
        if found is None:
            raise NoSuchImage(f"no such manifest list: {name.familiar}")
        return found

    def put(self, name: Reference, value: ImageList) -> None:
        """Point the name at the list's images, and keep what the list says of them."""
        seen: set[Platform] = set()
        for entry in value.entries:
            if entry.platform in seen:
                raise UsageError(f"{name.familiar} has two images for {entry.platform}")
            seen.add(entry.platform)
        now = self._clock()
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM image_names WHERE name = ?", (str(name),))
            connection.executemany(
                "INSERT INTO image_names (name, platform, image, tagged) VALUES (?, ?, ?, ?)",
                [(str(name), str(item.platform), item.image, now) for item in value.entries],
            )
            self._keep(connection, name, value)

    def note(self, names: Sequence[Reference], value: ImageList) -> None:
        """Keep what a list says of images that the names lead to already."""
        with self._db.transaction() as connection:
            for name in names:
                self._keep(connection, name, value)

    @staticmethod
    def _keep(connection: Connection, name: Reference, value: ImageList) -> None:
        data = {
            "annotations": dict(value.annotations),
            "entries": [_encode(entry) for entry in value.entries],
        }
        connection.execute(
            "REPLACE INTO image_lists (name, data) VALUES (?, ?)", (str(name), json.dumps(data))
        )


def _encode(entry: Entry) -> dict[str, Any]:
    raw = asdict(entry)
    return {**raw, "key": str(entry.platform)}


def _platform(raw: dict[str, Any]) -> Platform:
    return Platform(**{**raw, "os_features": tuple(raw.get("os_features", ()))})


def _decode(data: dict[str, Any], rows: Sequence[Any]) -> ImageList:
    """The rows say which images there are, the data in which order and what else."""
    images = {row["platform"]: Digest(row["image"]) for row in rows}
    entries = []
    for raw in data.get("entries", ()):
        image = images.pop(raw["key"], None)
        if image is not None:
            entries.append(
                Entry(
                    image=image,
                    platform=_platform(raw["platform"]),
                    annotations=raw["annotations"],
                )
            )
    for key, image in images.items():
        entries.append(Entry(image=image, platform=normalize(*key.split("/"))))
    return ImageList(
        entries=tuple(entries),
        annotations=data.get("annotations", {}),
        several=bool(data) or len(entries) > 1,
    )
