"""`type=local`: a cache as an OCI layout directory, to be carried around.

Each tag of the layout is one cache. Files are written before they are named, and the index last,
so that a reader beside a writer sees the old cache or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit_py.cache.config import CONFIG_LIMIT, CacheConfig, decode
from buildkit_py.cache.documents import CacheDocuments, Form, make_documents
from buildkit_py.cache.imports import LoadedCache
from buildkit_py.digest import Digest, hex_of, parse_digest, sha256
from buildkit_py.errors import BlobNotFound, ContentError, DigestMismatch
from buildkit_py.oci.descriptor import (
    Descriptor,
    MediaType,
    descriptor_from_json,
    descriptor_to_json,
)
from buildkit_py.oci.manifest import MANIFEST_LIMIT, Index, parse_manifest
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from buildkit_py.cache.exports import CacheExport
    from buildkit_py.store.snapshots import SnapshotStore

REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def write_directory(
    directory: Path,
    export: CacheExport,
    snapshots: SnapshotStore,
    *,
    form: Form,
    tag: str = "latest",
    reset: bool = False,
) -> Digest:
    """Write a cache under a tag. `reset` drops the blobs that no tag needs any more."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    if not (directory / "oci-layout").exists():
        _write(directory / "oci-layout", _LAYOUT)
    with FileLock(directory / "oci-layout", shared=True):  # nobody sweeps what is not named yet
        documents = make_documents(export.config, form)
        _write_blobs(blobs, export, snapshots, documents)
        with FileLock(directory / "index.json.lock"):
            _name(directory, documents.descriptor, tag)
    if reset:
        _sweep(directory)
    return documents.descriptor.digest


def _write_blobs(
    blobs: Path, export: CacheExport, snapshots: SnapshotStore, documents: CacheDocuments
) -> None:
    for snapshot, blob in export.layers:
        place = blobs / hex_of(blob.descriptor.digest)
        if not place.exists():
            with _Replacing(place) as out:
                snapshots.copy_blob(snapshot, blob, out)
    for mount in export.config.mounts:
        place = blobs / hex_of(mount.blob.digest)
        if not place.exists():
            export.ready(mount)
            with _Replacing(place) as out, snapshots.content.open(mount.blob.digest) as file:
                shutil.copyfileobj(file, out)
    for data in (documents.config, documents.manifest):
        _write(blobs / hex_of(sha256(data)), data)


def _name(directory: Path, document: Descriptor, tag: str) -> None:
    named = replace(document, annotations={REF_NAME: tag})
    others = [item for item in _listed(directory) if _tag(item) != tag]
    index = {
        "schemaVersion": 2,
        "mediaType": MediaType.OCI_INDEX,
        "manifests": [descriptor_to_json(item) for item in (*others, named)],
    }
    _write(directory / "index.json", json.dumps(index, separators=(",", ":")).encode())


def read_directory(
    directory: Path, *, tag: str = "latest", digest: str | None = None
) -> LoadedCache:
    """Read the cache of a tag or a digest. Raises ContentError, OSError."""
    if digest is not None:
        wanted = parse_digest(digest)
    else:
        found = [item for item in _listed(directory) if _tag(item) == tag]
        if not found:
            raise BlobNotFound(f"{directory} has no cache tagged {tag}")
        wanted = found[-1].digest
    document = parse_manifest(_read(directory, wanted, MANIFEST_LIMIT))
    if isinstance(document, Index):
        config = next((d for d in document.manifests if "cacheconfig" in d.media_type), None)
        layers = document.manifests
    else:
        config, layers = document.config, document.layers
    if config is None or "cacheconfig" not in config.media_type:
        raise ContentError(f"{directory} holds no build cache")
    read = decode(_read(directory, config.digest, CONFIG_LIMIT))
    origin = "oci-layout://" + os.path.abspath(directory)
    return LoadedCache(config=with_sizes(read, layers), origin=origin)


def with_sizes(config: CacheConfig, layers: tuple[Descriptor, ...]) -> CacheConfig:
    """The config with its layers' descriptors as the manifest has them."""
    known: Mapping[Digest, Descriptor] = {item.digest: item for item in layers}

    def full(blob: Descriptor | None) -> Descriptor | None:
        return None if blob is None else known.get(blob.digest, blob)

    return CacheConfig(
        layers=tuple(replace(layer, blob=full(layer.blob)) for layer in config.layers),
        results=config.results,
        mounts=config.mounts,
    )


def _listed(directory: Path) -> list[Descriptor]:
    try:
        raw: Any = json.loads((directory / "index.json").read_bytes())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ContentError(f"{directory}/index.json is not valid JSON") from error
    items = raw.get("manifests") if isinstance(raw, dict) else None
    return [descriptor_from_json(item) for item in items or () if isinstance(item, dict)]


def _tag(descriptor: Descriptor) -> str:
    return descriptor.annotations.get(REF_NAME, "")


def _read(directory: Path, digest: Digest, limit: int) -> bytes:
    path = directory / "blobs" / "sha256" / hex_of(digest)
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit or sha256(data) != digest:
        raise DigestMismatch(f"{path} is damaged")
    return data


def _write(path: Path, data: bytes) -> None:
    with _Replacing(path) as out:
        out.write(data)


def _sweep(directory: Path) -> None:
    """Remove the blobs that nothing named needs; not while somebody else writes some."""
    lock = FileLock(directory / "oci-layout")
    if not lock.try_acquire():
        return
    try:
        wanted: set[str] = set()
        for named in _listed(directory):
            document = parse_manifest(_read(directory, named.digest, MANIFEST_LIMIT))
            wanted.add(hex_of(named.digest))
            if isinstance(document, Index):
                wanted.update(hex_of(item.digest) for item in document.manifests)
            else:
                wanted.update(hex_of(item.digest) for item in document.layers)
                wanted.add(hex_of(document.config.digest))
        for path in (directory / "blobs" / "sha256").iterdir():
            if path.name not in wanted:
                path.unlink(missing_ok=True)
    finally:
        lock.release()


class _Replacing:
    """A file that appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> _Replacing:
        self._file = self._partial.open("wb")
        return self

    def write(self, data: bytes | memoryview) -> int:
        """Append some bytes."""
        return self._file.write(data)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)
