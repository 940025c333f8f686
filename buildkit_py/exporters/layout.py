"""Writes an OCI layout, in a tar or a directory, optionally with docker's files beside it.

`index.json` names each image once for each of its names (containerd's and docker's habit): the tag
in `org.opencontainers.image.ref.name`, the whole name in `io.containerd.image.name`. With
`manifest.json` and `repositories` the same blobs are an archive for `docker load` of any age.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from buildkit_py.digest import Digest, canonical_json, hex_of
from buildkit_py.errors import ContentError
from buildkit_py.layers.tar import BLOCK, DIRECTORY, LayerWriter, Sink, TarEntry, pack_entry
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.manifest import Index, manifest_to_json
from buildkit_py.oci.reference import Reference
from buildkit_py.store.failures import explain_os_errors

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
CREATED = "org.opencontainers.image.created"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

WriteBlob = Callable[[Sink], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerImage:
    """An entry of `manifest.json`: digests of the config and of the layers, lowest first."""

    config: Digest
    layers: tuple[Digest, ...]
    names: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRoot:
    """A manifest or index that `index.json` names, and its names."""

    descriptor: Descriptor
    names: tuple[Reference, ...] = ()
    created: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


class LayoutSink(Protocol):
    """Takes the files of a layout."""

    def add(self, path: str, size: int, write: WriteBlob) -> None:
        """Store one file; `write` writes exactly `size` bytes."""
        ...

    def finish(self) -> None:
        """Complete the layout."""
        ...


class TarSink:
    """A layout in a tar; the same content gives the same bytes."""

    def __init__(self, out: BinaryIO) -> None:
        self._writer = LayerWriter(out)
        self._folders: set[str] = set()

    def add(self, path: str, size: int, write: WriteBlob) -> None:
        """Append a file and, before it, folders not seen yet."""
        parts = path.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            folder = "/".join(parts[:count]) + "/"
            if folder not in self._folders:
                self._folders.add(folder)
                self._writer.add(TarEntry(name=folder.encode(), kind=DIRECTORY, mode=0o755))
        self._writer.put(pack_entry(TarEntry(name=path.encode(), mode=0o444, size=size)))
        counted = _Counted(self._writer)
        write(counted)
        if counted.size != size:
            raise ContentError(f"{path} has {counted.size} bytes, not {size}")
        self._writer.put_raw(bytes(-size % BLOCK))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._writer.finish()


class _Counted:
    def __init__(self, writer: LayerWriter) -> None:
        self._writer = writer
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self._writer.put_raw(data)
        return len(data)


class DirectorySink:
    """A layout in a directory; blobs that are there already stay."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, path: str, size: int, write: WriteBlob) -> None:
        """Write a file beside its place and rename it there."""
        target = self._folder / path
        with explain_os_errors(f"cannot write {target}"):
            if path.startswith("blobs/") and target.exists() and target.stat().st_size == size:
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}.part")
            try:
                with partial.open("wb") as file:
                    write(file)
                partial.rename(target)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def finish(self) -> None:
        """Nothing is left to do: `index.json` was written last."""


class LayoutWriter:
    """Collects blobs and roots, then writes everything in the order of paths."""

    def __init__(self, sink: LayoutSink) -> None:
        self._sink = sink
        self._blobs: dict[Digest, tuple[int, WriteBlob]] = {}
        self._roots: list[NamedRoot] = []
        self._images: list[DockerImage] = []

    def add_document(self, descriptor: Descriptor, data: bytes) -> None:
        """A config, a manifest or an index."""

        def write(out: Sink) -> None:
            out.write(data)

        self._blobs[descriptor.digest] = (len(data), write)

    def add_blob(self, descriptor: Descriptor, write: WriteBlob) -> None:
        """A layer, whose bytes `write` writes."""
        self._blobs.setdefault(descriptor.digest, (descriptor.size, write))

    def add_root(self, root: NamedRoot, images: Sequence[DockerImage] = ()) -> None:
        """What `index.json` and, with images, `manifest.json` name."""
        self._roots.append(root)
        self._images.extend(images)

    def finish(self, *, kept: Sequence[Descriptor] = ()) -> None:
        """Write the layout. `kept` are entries of an index.json that was there before."""
        for digest in sorted(self._blobs):
            size, write = self._blobs[digest]
            self._sink.add(blob_path(digest), size, write)
        entries = [entry for root in self._roots for entry in _entries(root)]
        index = Index(manifests=(*kept, *entries))
        files = {"index.json": canonical_json(manifest_to_json(index)), "oci-layout": _LAYOUT}
        if self._images:
            files["manifest.json"] = canonical_json([_docker_entry(item) for item in self._images])
            files["repositories"] = canonical_json(_repositories(self._images))
        for name in sorted(files):
            self._put(name, files[name])
        self._sink.finish()

    def _put(self, name: str, data: bytes) -> None:
        def write(out: Sink) -> None:
            out.write(data)

        self._sink.add(name, len(data), write)


def _entries(root: NamedRoot) -> list[Descriptor]:
    common = {**root.descriptor.annotations, **root.annotations}
    if root.created:
        common.setdefault(CREATED, root.created)
    if not root.names:
        return [replace(root.descriptor, annotations=common)]
    out = []
    for name in root.names:
        own = {IMAGE_NAME: str(name), REF_NAME: name.tag or ""}
        notes = {key: value for key, value in sorted({**common, **own}.items()) if value}
        out.append(replace(root.descriptor, annotations=notes))
    return out


def blob_path(digest: Digest) -> str:
    """Where a blob stands in a layout."""
    return f"blobs/{digest.replace(':', '/')}"


def _docker_entry(image: DockerImage) -> dict[str, object]:
    return {
        "Config": blob_path(image.config),
        "RepoTags": [name.familiar for name in image.names] or None,
        "Layers": [blob_path(layer) for layer in image.layers],
    }


def _repositories(images: Sequence[DockerImage]) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for image in images:
        top = hex_of(image.layers[-1]) if image.layers else hex_of(image.config)
        for name in image.names:
            if name.tag:
                out.setdefault(name.familiar_repository, {})[name.tag] = top
    return out
