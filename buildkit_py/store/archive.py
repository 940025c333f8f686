"""Reads images from archives: `docker save` of any age, OCI layouts as tars or directories.

The archive is read once, front to back, so it may come from a pipe: every blob goes into the
content store as it passes, verified against its name, and what the documents say is resolved at
the end. Images and names appear together in one transaction; on any failure the blobs that came
are dropped again.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import Digest, hex_of, parse_digest, sha256
from buildkit_py.errors import (
    BlobNotFound,
    ContentError,
    CorruptArchive,
    DigestMismatch,
    UsageError,
)
from buildkit_py.layers.compression import detect, open_decompressor
from buildkit_py.layers.hashing import HashingSource
from buildkit_py.layers.tar_reader import LayerReader, Source
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import (
    MANIFEST_LIMIT,
    Index,
    Manifest,
    is_attestation,
    parse_manifest,
)
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.store.archive_members import Member, directory_members, tar_members
from buildkit_py.store.content import READ_SIZE, SMALL_BLOB, ContentStore
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.gc import drop_blobs
from buildkit_py.store.images import NewImage, StoredImage, parse_config

if TYPE_CHECKING:
    from buildkit_py.store import Store

_BLOB = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)\Z")
_DOCUMENTS = frozenset(("manifest.json", "index.json", "oci-layout", "repositories"))
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_LAYER_TYPES = {
    "uncompressed": MediaType.OCI_LAYER,
    "gzip": MediaType.OCI_LAYER_GZIP,
    "zstd": MediaType.OCI_LAYER_ZSTD,
}
_MAX_DEPTH = 4
_MAX_ENTRIES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """One image of an archive, as stored, and the names that it came with."""

    image: StoredImage
    names: tuple[Reference, ...]


@dataclass(slots=True)
class _Files:
    """What an archive holds: documents at hand, everything else as blobs by path."""

    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Digest] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    added: list[Digest] = field(default_factory=list)

    def find(self, path: str) -> Digest:
        """The blob of a path, through links. Raises CorruptArchive."""
        name = posixpath.normpath(path)
        for _ in range(8):
            if name in self.blobs:
                return self.blobs[name]
            if name not in self.links:
                break
            name = self.links[name]
        raise CorruptArchive(f"archive lacks {path}, which its manifest names")


def load_archive(store: Store, source: Source | Path) -> tuple[LoadedImage, ...]:
    """Load all images of an archive (a stream, a file, or a layout directory).

    Raises CorruptArchive, or another ContentError for what is damaged inside.
    """
    files = _Files()
    try:
        if isinstance(source, Path):
            with explain_os_errors(f"cannot read {source}"):
                _read_path(store.content, source, files)
        else:
            _read_stream(store.content, source, files)
        loaded = _resolve(store, files)
    except BaseException:
        drop_blobs(store.db, store.paths, files.added)
        raise
    return loaded


# ------------------------------------------------------------------ reading
def _read_path(content: ContentStore, path: Path, files: _Files) -> None:
    if path.is_dir():
        _collect(content, directory_members(path), files)
        return
    with path.open("rb") as file:
        _read_stream(content, file, files)


def _read_stream(content: ContentStore, stream: Source, files: _Files) -> None:
    with open_decompressor(stream) as plain:
        reader = LayerReader(plain)
        _collect(content, tar_members(reader), files)
        reader.drain()  # a damaged end of the compressed stream shows only there


def _collect(content: ContentStore, members: Iterable[Member], files: _Files) -> None:
    for count, member in enumerate(members, start=1):
        if count > _MAX_ENTRIES:
            raise CorruptArchive(f"archive has more than {_MAX_ENTRIES} entries: not an image")
        if member.link is not None:
            files.links[member.name] = member.link
        elif member.name in _DOCUMENTS:
            if member.size > SMALL_BLOB:
                raise CorruptArchive(f"{member.name} of {member.size} bytes is too large")
            files.documents[member.name] = b"".join(member.chunks)
        else:
            files.blobs[member.name] = _keep(content, member, files)
    if not files.documents:
        raise CorruptArchive(
            "this is no image archive: it has neither manifest.json nor index.json",
            hint="a root filesystem is read by `pybuild import`",
        )


def _keep(content: ContentStore, member: Member, files: _Files) -> Digest:
    match = _BLOB.match(member.name)
    expected = None
    if match is not None:
        digest = parse_digest(f"{match[1]}:{match[2]}")
        if content.has(digest):
            for _ in member.chunks:
                pass
            return digest
        expected = Descriptor(media_type="", digest=digest, size=member.size)
    with content.writer(expected) as writer:
        for chunk in member.chunks:
            writer.write(chunk)
        known = content.has(writer.digest)
        found = writer.commit().digest
    if not known:
        files.added.append(found)
    return found


# ------------------------------------------------------------------ resolving
@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """An image of the archive before it is stored."""

    config: bytes
    layers: tuple[Descriptor, ...]
    manifest: bytes | None = None
    manifest_type: str = MediaType.OCI_MANIFEST


_Group = tuple[list[_Found], tuple[Reference, ...]]


def _resolve(store: Store, files: _Files) -> tuple[LoadedImage, ...]:
    docker = _docker_groups(store.content, files)
    groups = _oci_groups(store.content, files)
    if groups:
        groups = [(images, names or _names_of(images, docker)) for images, names in groups]
    else:
        groups = docker
    if not groups:
        raise CorruptArchive("archive names no image that it holds")
    out: list[LoadedImage] = []
    for images, names in groups:
        new = [_stack(store, files, found) for found in images]
        stored = store.images.add_all(new, names)
        out.extend(LoadedImage(image=image, names=names) for image in stored)
    return tuple(out)


def _names_of(images: list[_Found], docker: list[_Group]) -> tuple[Reference, ...]:
    configs = {image.config for image in images}
    return tuple(
        name for found, names in docker for name in names if {i.config for i in found} & configs
    )


def _document(files: _Files, name: str) -> Any:
    try:
        return json.loads(files.documents[name])
    except (ValueError, RecursionError) as error:
        raise CorruptArchive(f"{name} is not valid JSON") from error


def _docker_groups(content: ContentStore, files: _Files) -> list[_Group]:
    if "manifest.json" not in files.documents:
        return []
    entries = _document(files, "manifest.json")
    if isinstance(entries, dict) and "schemaVersion" in entries:
        return _bare_manifest(content, files)
    if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
        raise CorruptArchive("manifest.json is not a list of images")
    groups: list[_Group] = []
    for entry in entries:
        layers, tags = entry.get("Layers") or [], entry.get("RepoTags") or []
        if not isinstance(layers, list) or not isinstance(tags, list):
            raise CorruptArchive("manifest.json: Layers or RepoTags is not a list")
        config = content.read(files.find(str(entry.get("Config", ""))))
        found = _Found(
            config=config,
            layers=tuple(_layer_descriptor(content, files, str(path)) for path in layers),
        )
        groups.append(([found], tuple(_name(str(tag)) for tag in tags)))
    return groups


def _bare_manifest(content: ContentStore, files: _Files) -> list[_Group]:
    """A directory as skopeo's `dir:` leaves it: a registry's manifest, and blobs by digest."""
    data = files.documents["manifest.json"]
    document = parse_manifest(data)
    known = content.has(sha256(data))
    root = content.put(data, document.media_type)
    if not known:
        files.added.append(root.digest)
    return [(list(_manifests(content, root, _MAX_DEPTH)), ())]


def _layer_descriptor(content: ContentStore, files: _Files, path: str) -> Descriptor:
    digest = files.find(path)
    size = content.size(digest)
    with content.open(digest) as file:
        kind = detect(file.read(512))
    return Descriptor(media_type=_LAYER_TYPES.get(kind, ""), digest=digest, size=size)


def _name(text: str) -> Reference:
    try:
        return parse_reference(text)
    except UsageError as error:
        raise CorruptArchive(f"archive names an image {text!r}: {error.message}") from error


def _oci_groups(content: ContentStore, files: _Files) -> list[_Group]:
    if "index.json" not in files.documents:
        return []
    index = parse_manifest(files.documents["index.json"], MediaType.OCI_INDEX)
    if not isinstance(index, Index):
        raise CorruptArchive("index.json is not an index")
    merged: dict[Digest, tuple[list[_Found], list[Reference]]] = {}
    for root in index.manifests:
        if is_attestation(root):
            continue
        name = _name_of(root.annotations)
        if root.digest in merged:
            merged[root.digest][1].extend(name)
            continue
        found = list(_manifests(content, root, _MAX_DEPTH))
        if found:
            merged[root.digest] = (found, name)
    return [(found, tuple(dict.fromkeys(names))) for found, names in merged.values()]


def _name_of(annotations: Mapping[str, str]) -> list[Reference]:
    for key in _NAME_KEYS:
        text = annotations.get(key, "")
        # a bare tag (what `oci:dir:tag` of other tools leaves) is no image name
        if key == _NAME_KEYS[0] or ":" in text or "/" in text:
            try:
                return [parse_reference(text)]
            except UsageError:
                continue
    return []


def _manifests(content: ContentStore, root: Descriptor, depth: int) -> Iterator[_Found]:
    if not content.has(root.digest):
        return  # an archive of one platform may keep the whole index
    data = content.read(root.digest, MANIFEST_LIMIT)
    document = parse_manifest(data, root.media_type)
    if isinstance(document, Index):
        if depth == 0:
            raise CorruptArchive("archive nests indexes too deeply")
        for item in document.manifests:
            if not is_attestation(item):
                yield from _manifests(content, item, depth - 1)
        return
    if not _is_image(document):
        return
    try:
        config = content.read(document.config.digest)
        for layer in document.layers:
            content.size(layer.digest)
    except BlobNotFound as error:
        raise CorruptArchive(f"archive lacks a blob that it names: {error.message}") from error
    yield _Found(
        config=config,
        layers=document.layers,
        manifest=data,
        manifest_type=document.media_type,
    )


def _is_image(manifest: Manifest) -> bool:
    return manifest.config.media_type in {MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG}


# ------------------------------------------------------------------ storing
def _stack(store: Store, files: _Files, found: _Found) -> NewImage:
    """Make the rows of an image's layers, each checked against the config's diff_ids."""
    try:
        config = parse_config(found.config)
    except ContentError as error:
        raise CorruptArchive(error.message) from error
    if len(config.diff_ids) != len(found.layers):
        raise CorruptArchive(
            f"image has {len(found.layers)} layers, its config names {len(config.diff_ids)}"
        )
    top: int | None = None
    for number, (layer, diff_id) in enumerate(
        zip(found.layers, config.diff_ids, strict=True), start=1
    ):
        plain, descriptor = _checked(store.content, files, layer)
        if plain != diff_id:
            raise DigestMismatch(
                f"layer {number} of the image unpacks to {plain}, its config says {diff_id}"
            )
        top = store.snapshots.from_layer(top, descriptor, diff_id).id
    return NewImage(
        config=found.config,
        snapshot=top,
        manifest=found.manifest,
        manifest_type=found.manifest_type,
    )


def _checked(content: ContentStore, files: _Files, layer: Descriptor) -> tuple[Digest, Descriptor]:
    """diff_id of a layer blob, and the blob to keep: xz and bzip2 have no media type."""
    with content.open(layer.digest) as file, open_decompressor(file) as stream:
        if stream.kind in _LAYER_TYPES:
            source = HashingSource(stream)
            while source.read(READ_SIZE):
                pass
            return source.digest, layer
        kept = content.put_stream(iter(lambda: stream.read(READ_SIZE), b""))
        files.added.append(kept.digest)
        return kept.digest, replace(kept, media_type=MediaType.OCI_LAYER)


def describe(loaded: Iterable[LoadedImage]) -> list[str]:
    """The lines that `load` prints."""
    lines = []
    for item in loaded:
        if item.names:
            lines += [f"Loaded image: {name.familiar}" for name in item.names]
        else:
            lines.append(f"Loaded image ID: sha256:{hex_of(item.image.id)}")
    return list(dict.fromkeys(lines))
