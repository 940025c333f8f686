"""Images in OCI layout directories (`oci-layout://DIRECTORY[:tag][@digest]`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, parse_digest
from buildkit_py.errors import BlobNotFound, ContentError, SizeMismatch, SourceError
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import (
    MANIFEST_LIMIT,
    Index,
    Manifest,
    parse_manifest,
    select_platform,
)

if TYPE_CHECKING:
    from buildkit_py.platforms import Platform
    from buildkit_py.store.content import ContentStore

SCHEME = "oci-layout://"
REF_NAME = "org.opencontainers.image.ref.name"
_CONFIG_LIMIT = 16 << 20
_MAX_DEPTH = 4
_COPY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutImage:
    """One image of a layout: its documents are in the content store."""

    descriptor: Descriptor
    manifest: Manifest
    config: bytes


def origin_of(directory: str) -> str:
    """The text by which layers remember that they come from a layout."""
    return SCHEME + os.path.abspath(directory)


def open_layout(
    directory: str, reference: str, platform: Platform, content: ContentStore
) -> LayoutImage:
    """Find an image by `:tag`, `@digest`, both or neither. Raises SourceError."""
    shown = f"{SCHEME}{directory}{reference}"
    try:
        return _open(Path(directory), reference, platform, content)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"cannot read {shown}: {reason}") from error
    except ContentError as error:
        raise SourceError(f"cannot read {shown}: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"cannot read {shown}: oci-layout is not valid JSON") from error


def _open(
    directory: Path, reference: str, platform: Platform, content: ContentStore
) -> LayoutImage:
    marker = json.loads(_limited(directory / "oci-layout") or b"null")
    if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
        raise ContentError("it is no OCI image layout of version 1.0.0")
    index = parse_manifest(_limited(directory / "index.json"), MediaType.OCI_INDEX)
    if not isinstance(index, Index):
        raise ContentError("index.json is no index")
    descriptor = _named(index, reference, directory, platform)
    for _ in range(_MAX_DEPTH):
        data = _document(directory, descriptor, content)
        document = parse_manifest(data, descriptor.media_type)
        if isinstance(document, Manifest):
            config = _document(directory, document.config, content)
            return LayoutImage(descriptor=descriptor, manifest=document, config=config)
        chosen = select_platform(document, platform)
        if chosen is None:
            raise ContentError(f"it has no image for {platform}")
        descriptor = chosen
    raise ContentError("its indexes are nested too deeply")


def _named(index: Index, reference: str, directory: Path, platform: Platform) -> Descriptor:
    tag_part, _, digest_text = reference.partition("@")
    tag = tag_part.removeprefix(":")
    if digest_text:
        digest = parse_digest(digest_text)
        for item in index.manifests:
            if item.digest == digest:
                return item
        return _by_digest(directory, digest)
    wanted = tag or "latest"
    named = [
        item
        for item in index.manifests
        if item.annotations.get(REF_NAME, "").rpartition(":")[2] == wanted
    ]
    if not named and not tag:
        named = list(index.manifests)
    if len(named) > 1:
        best = select_platform(Index(manifests=tuple(named)), platform)
        named = [best] if best else named[:1]
    if not named:
        have = sorted({item.annotations.get(REF_NAME, "") for item in index.manifests} - {""})
        raise ContentError(f"it has no {wanted!r}" + (f", but {' '.join(have)}" if have else ""))
    return named[0]


def _by_digest(directory: Path, digest: Digest) -> Descriptor:
    """A manifest that the layout holds without naming it."""
    path = blob_path(directory, digest)
    return Descriptor(media_type="", digest=digest, size=path.stat().st_size)


def _document(directory: Path, descriptor: Descriptor, content: ContentStore) -> bytes:
    limit = _CONFIG_LIMIT
    if descriptor.size > limit:
        raise SizeMismatch(f"document {descriptor.digest} of {descriptor.size} bytes is too large")
    if not content.has(descriptor.digest):
        fetch_from_layout(directory, descriptor, content)
    return content.read(descriptor.digest, limit)


def fetch_from_layout(directory: Path, descriptor: Descriptor, content: ContentStore) -> None:
    """Copy a blob into the content store, verified."""
    path = blob_path(directory, descriptor.digest)
    if not path.is_file():
        raise BlobNotFound(f"the layout {directory} has no blob {descriptor.digest}")
    content.put_stream(_pieces(path), descriptor, sync=True)


def blob_path(directory: Path, digest: Digest) -> Path:
    """Where a layout keeps a blob."""
    algorithm, _, digits = digest.partition(":")
    return directory / "blobs" / algorithm / digits


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while data := stream.read(_COPY):
            yield data


def _limited(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise ContentError(f"{path.name} is too large")
    return data
