"""Images by name and id: a config blob on a snapshot, and the names that lead to it.

A name leads to one image for each platform. Lists are answered from rows alone; only `get` reads
a config. An image's size is the sum of its layers' files (of their blobs while not unpacked).
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sqlite3 import Connection, Row
from typing import Any, TypeAlias

from buildkit_py.digest import Digest, parse_digest
from buildkit_py.errors import ContentError, NoSuchImage, UsageError
from buildkit_py.oci.config import ImageConfig, config_from_json, seconds_of
from buildkit_py.oci.descriptor import (
    Descriptor,
    MediaType,
    descriptor_from_json,
    descriptor_to_json,
)
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.platforms import Platform, normalize, satisfies
from buildkit_py.store.content import SMALL_BLOB, ContentStore
from buildkit_py.store.database import Database
from buildkit_py.store.queries import BY_DIGEST, DROP_NAMES, SIZES, SUMMARIES
from buildkit_py.store.snapshots import SnapshotStore

_Names: TypeAlias = dict[str, list[Reference]]
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSummary:
    """What lists show. `digests` names the manifests that it was pulled or pushed by."""

    id: Digest
    platform: Platform
    snapshot: int | None
    manifest: Descriptor | None
    created: str | None
    stored: float
    size: int
    names: tuple[Reference, ...]
    digests: tuple[Reference, ...]
    parent: str = ""
    settled: bool = False

    @property
    def created_seconds(self) -> float:
        """When it was made, as its config says; when it was stored, where that says nothing.

        The config of an image that was built here says a settled time, which is no time of making.
        """
        seconds = None if self.settled else seconds_of(self.created)
        return self.stored if seconds is None else seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage(ImageSummary):
    """An image with its config."""

    config: ImageConfig
    config_bytes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewImage:
    """What `add` stores: exact config bytes, the top snapshot, and a manifest if there is one.

    `digests` are names with a digest under which a registry knows it.
    """

    config: bytes
    snapshot: int | None
    manifest: bytes | None = None
    manifest_type: str = MediaType.OCI_MANIFEST
    digests: tuple[Reference, ...] = ()
    parent: str = ""


class ImageStore:
    """The images of a state root. Any thread may use it."""

    def __init__(
        self,
        db: Database,
        content: ContentStore,
        snapshots: SnapshotStore,
        *,
        host: Platform,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._content = content
        self._snapshots = snapshots
        self._host = host
        self._clock = clock

    # -------------------------------------------------------------- adding
    def add(
        self, new: NewImage, names: Iterable[Reference | str] = (), *, sync: bool = False
    ) -> StoredImage:
        """Store an image and point names at it, for all platforms. Raises ContentError."""
        return self.add_all([new], names, sync=sync)[0]

    def add_all(
        self,
        images: Sequence[NewImage],
        names: Iterable[Reference | str] = (),
        *,
        sync: bool = False,
    ) -> tuple[StoredImage, ...]:
        """Store the images of several platforms under the same names, all or none."""
        references = [_tagged(name) for name in names]
        rows = [self._store_blobs(new, sync=sync) for new in images]
        with self._db.transaction() as connection:
            for row, new in zip(rows, images, strict=True):
                self._insert(connection, row, new)
            for reference in references:
                self._point(connection, reference, rows)
        return tuple(self._load(row["id"]) for row in rows)

    def _store_blobs(self, new: NewImage, *, sync: bool) -> dict[str, Any]:
        config = parse_config(new.config)
        depth = len(self._snapshots.chain(new.snapshot))
        if depth != len(config.diff_ids):
            raise ContentError(
                f"image config names {len(config.diff_ids)} layers, its file system has {depth}"
            )
        blob = self._content.put(new.config, MediaType.OCI_CONFIG, sync=sync)
        manifest = None
        if new.manifest is not None:
            manifest = self._content.put(new.manifest, new.manifest_type, sync=sync)
        return {
            "id": blob.digest,
            "platform": str(config.platform),
            "created": config.created,
            "manifest": None if manifest is None else json.dumps(descriptor_to_json(manifest)),
        }

    def _insert(self, connection: Connection, row: dict[str, Any], new: NewImage) -> None:
        now = self._clock()
        connection.execute(
            "INSERT INTO images (id, platform, snapshot, manifest, created, parent, stored,"
            " last_used) VALUES (:id, :platform, :snapshot, :manifest, :created, :parent, :now,"
            " :now) ON CONFLICT (id) DO UPDATE SET last_used = :now, snapshot = :snapshot,"
            " manifest = COALESCE(:manifest, manifest)",
            {**row, "snapshot": new.snapshot, "parent": new.parent, "now": now},
        )
        for reference in new.digests:
            self._note_digest(connection, reference, row["id"])

    def _point(
        self, connection: Connection, reference: Reference, rows: Sequence[dict[str, Any]]
    ) -> None:
        name = str(reference)
        connection.execute("DELETE FROM image_names WHERE name = ?", (name,))
        connection.execute("DELETE FROM image_lists WHERE name = ?", (name,))
        connection.executemany(
            "REPLACE INTO image_names (name, platform, image, tagged) VALUES (?, ?, ?, ?)",
            [(name, row["platform"], row["id"], self._clock()) for row in rows],
        )

    def note_digest(self, reference: Reference, image: Digest) -> None:
        """Remember that a registry has an image under `repository@digest`."""
        with self._db.transaction() as connection:
            self._note_digest(connection, reference, image)

    @staticmethod
    def _note_digest(connection: Connection, reference: Reference, image: Digest) -> None:
        connection.execute(
            "INSERT OR IGNORE INTO image_digests (repository, digest, image) VALUES (?, ?, ?)",
            (reference.repository, reference.digest, image),
        )

    # -------------------------------------------------------------- reading
    def get(self, name: str | Reference, platform: Platform | None = None) -> StoredImage:
        """An image by name, `name@digest`, id or the beginning of an id. Raises NoSuchImage.

        Of several platforms the one asked for, else the host's, else the first.
        """
        found = self.find(name, platform)
        if found is None:
            text = name if isinstance(name, str) else name.familiar
            suffix = f" for platform {platform}" if platform else ""
            raise NoSuchImage(f"no such image: {text}{suffix}")
        return found

    def find(self, name: str | Reference, platform: Platform | None = None) -> StoredImage | None:
        """As `get`, but None where there is no such image."""
        candidates = self.candidates(name)
        chosen = self._choose(candidates, platform)
        return None if chosen is None else self._load(chosen)

    def candidates(self, name: str | Reference) -> dict[Digest, Platform]:
        """The images that a name or id leads to, with their platforms."""
        if isinstance(name, Reference):
            return self._by_name(name)
        whole = _ID.match(name)
        if whole and len(whole.group(1)) == 64:
            return self._by_id(whole.group(1))
        try:
            reference = parse_reference(name)
        except UsageError:
            if not whole:
                raise
            return self._by_id(whole.group(1))
        return self._by_name(reference) or (self._by_id(whole.group(1)) if whole else {})

    def _by_name(self, reference: Reference) -> dict[Digest, Platform]:
        if reference.digest is not None:
            rows = self._query(BY_DIGEST, _place(reference))
        else:
            rows = self._query(
                "SELECT image AS id, platform FROM image_names WHERE name = ? ORDER BY platform",
                (str(_tagged(reference)),),
            )
        return {Digest(row["id"]): _platform(row["platform"]) for row in rows}

    def _by_id(self, digits: str) -> dict[Digest, Platform]:
        rows = self._query(
            "SELECT id, platform FROM images WHERE id >= ? AND id < ? LIMIT 2",
            (f"sha256:{digits}", f"sha256:{digits}g"),
        )
        if len(rows) > 1:
            raise NoSuchImage(
                f"image id {digits} is ambiguous", hint="give more of the id's digits"
            )
        return {Digest(row["id"]): _platform(row["platform"]) for row in rows}

    def _choose(
        self, candidates: dict[Digest, Platform], platform: Platform | None
    ) -> Digest | None:
        for digest, offered in candidates.items():
            if offered == (platform or self._host):
                return digest
        for digest, offered in candidates.items():
            if satisfies(platform or self._host, offered):
                return digest
        return next(iter(candidates), None) if platform is None else None

    def _load(self, digest: Digest) -> StoredImage:
        row = self._query(f"{SUMMARIES} WHERE images.id = ?", (digest,))[0]
        data = self._content.read(digest, SMALL_BLOB)
        size = sum(
            self._snapshots.usage(item.id) for item in self._snapshots.chain(row["snapshot"])
        )
        summary = self._summary(row, {digest: size}, *self._names_of(digest))
        fields = {name: getattr(summary, name) for name in ImageSummary.__slots__}
        return StoredImage(**fields, config=parse_config(data), config_bytes=data)

    def _names_of(self, digest: Digest | None = None) -> tuple[_Names, _Names]:
        where = "" if digest is None else " WHERE image = ?"
        bindings = () if digest is None else (digest,)
        names: _Names = defaultdict(list)
        for row in self._query(f"SELECT name, image FROM image_names{where}", bindings):  # noqa: S608
            names[row["image"]].append(_reference(row["name"]))
        digests: _Names = defaultdict(list)
        for row in self._query(f"SELECT * FROM image_digests{where}", bindings):  # noqa: S608
            digests[row["image"]].append(_reference(f"{row['repository']}@{row['digest']}"))
        return names, digests

    def list(self) -> tuple[ImageSummary, ...]:
        """All images, newest first."""
        sizes = {row["image"]: row["size"] for row in self._query(SIZES)}
        names, digests = self._names_of()
        images = [self._summary(row, sizes, names, digests) for row in self._query(SUMMARIES)]
        images.sort(key=lambda image: (-image.created_seconds, -image.stored, image.id))
        return tuple(images)

    @staticmethod
    def _summary(
        row: Row,
        sizes: dict[Any, int],
        names: _Names,
        digests: _Names,
    ) -> ImageSummary:
        manifest = row["manifest"]
        return ImageSummary(
            id=Digest(row["id"]),
            platform=_platform(row["platform"]),
            snapshot=row["snapshot"],
            manifest=None if manifest is None else descriptor_from_json(json.loads(manifest)),
            created=row["created"],
            stored=row["stored"],
            size=sizes.get(row["id"], 0),
            names=tuple(names.get(row["id"], ())),
            digests=tuple(digests.get(row["id"], ())),
            parent=row["parent"],
            settled=row["settle"] is not None,
        )

    def config(self, image: ImageSummary) -> ImageConfig:
        """The config of a listed image."""
        return parse_config(self._content.read(image.id, SMALL_BLOB))

    def _query(self, statement: str, bindings: Any = ()) -> Sequence[Row]:
        with self._db.explained():
            return self._db.connection().execute(statement, bindings).fetchall()

    # -------------------------------------------------------------- names
    def tag(self, source: str | Reference, target: str | Reference) -> Reference:
        """Give what a name or id leads to (all its platforms) another name."""
        reference = _tagged(target)
        if reference.digest is not None:
            raise UsageError("refusing to create a tag with a digest reference")
        with self._db.transaction() as connection:
            images = self.candidates(source)
            if not images:
                raise NoSuchImage(f"no such image: {source}")
            rows = [{"id": digest, "platform": str(p)} for digest, p in images.items()]
            self._point(connection, reference, rows)
            if not _ID.match(str(source)):
                connection.execute(
                    "INSERT INTO image_lists SELECT ?, data FROM image_lists WHERE name = ?",
                    (str(reference), str(_tagged(source))),
                )
        return reference

    def untag(self, reference: Reference) -> tuple[Digest, ...]:
        """Remove a name; returns the images that it led to."""
        with self._db.transaction() as connection:
            images = tuple(self._by_name(reference))
            if reference.digest is not None:
                gone = connection.execute(
                    "DELETE FROM image_digests WHERE repository = ? AND digest = ?",
                    (reference.repository, reference.digest),
                )
                if not gone.rowcount:  # an image that was made here: its names are all it has
                    connection.execute(DROP_NAMES, _place(reference))
            else:
                name = (str(_tagged(reference)),)
                connection.execute("DELETE FROM image_names WHERE name = ?", name)
                connection.execute("DELETE FROM image_lists WHERE name = ?", name)
        return images

    def remove(self, digest: Digest) -> None:
        """Forget an image with all its names. Its layers go with the next collection."""
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM image_names WHERE image = ?", (digest,))
            connection.execute("DELETE FROM image_digests WHERE image = ?", (digest,))
            connection.execute("DELETE FROM images WHERE id = ?", (digest,))


def parse_config(data: bytes) -> ImageConfig:
    """Decode config bytes. Raises ContentError."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContentError("image config is not valid JSON") from error
    if not isinstance(raw, dict):
        raise ContentError("image config is not a JSON object")
    try:
        config = config_from_json(raw)
    except (ValueError, TypeError, AttributeError) as error:
        raise ContentError(f"malformed image config: {error}") from error
    for diff_id in config.diff_ids:
        parse_digest(diff_id)
    return config


def _tagged(name: Reference | str) -> Reference:
    reference = parse_reference(name) if isinstance(name, str) else name
    if reference.tag is None and reference.digest is None:
        return parse_reference(str(reference))
    return reference


def _place(reference: Reference) -> dict[str, Any]:
    return {"repository": reference.repository, "digest": reference.digest}


def _reference(text: str) -> Reference:
    return parse_reference(text, default_tag=None)


def _platform(text: str) -> Platform:
    parts = [*text.split("/"), "", ""]
    return normalize(parts[0], parts[1], parts[2])
