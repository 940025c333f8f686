"""The root file system as a tar: `type=tar`."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import StoreError
from buildkit_py.exporters.attributes import flag
from buildkit_py.exporters.base import ExportRequest, ExportResult
from buildkit_py.exporters.destination import open_destination
from buildkit_py.exporters.directory import image_tree, refuse_collisions, statements
from buildkit_py.layers import bytecode
from buildkit_py.layers.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    SYMLINK,
    LayerWriter,
    Sink,
    TarEntry,
)
from buildkit_py.layers.tree import MergedTree, Node
from buildkit_py.store.failures import explain_os_errors

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.store import Store

_SECOND = 1_000_000_000
_SPECIAL = {0o060000: BLOCK_DEVICE, 0o020000: CHARACTER, 0o010000: FIFO}
_FORMAT = 0o170000


class TarExporter:
    """`type=tar,dest=FILE` or `-o -`. Several platforms get a folder each."""

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    def export(self, request: ExportRequest) -> ExportResult:
        """Write the archive."""
        attributes = self._spec.attributes
        split = flag(attributes, "platform-split", default=request.multi_platform)
        merged = not split and len(request.images) > 1
        if merged:
            refuse_collisions(self._store, request.images)
        with open_destination(request, self._spec.destination, "tar") as stream:
            writer = LayerWriter(stream)
            for image in request.images:
                prefix = f"{image.platform.identifier}/".encode() if split else b""
                times = Times(exactly=request.epoch, latest=image.settled)
                tree = image_tree(self._store, image)
                write_tree(tree, writer, prefix, times)
                for name, data in statements(image, tree, attributes, merged=merged):
                    entry = TarEntry(
                        name=prefix + name.encode(), size=len(data), mtime_ns=times.of_made
                    )
                    writer.add_stream(entry, io.BytesIO(data).read)
            writer.finish()
        return ExportResult()


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What times become (seconds): all of them `exactly`, or those after `latest`.

    Or, by the directory of the layer that has a file, those after what that layer was settled at.
    """

    exactly: int | None = None
    latest: int | None = None
    by_layer: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def of_made(self) -> int:
        """The time (ns) of what is no file of the image."""
        return (self.exactly or self.latest or 0) * _SECOND

    def of(self, node: Node) -> int:
        """The time (ns) of a file."""
        if self.exactly is not None:
            return self.exactly * _SECOND
        limit = self.limit(node)
        return node.mtime_ns if limit is None else min(node.mtime_ns, limit * _SECOND)

    def limit(self, node: Node) -> int | None:
        """The latest time (seconds) that a file may have."""
        if self.exactly is not None:
            return self.exactly
        if self.latest is not None or not self.by_layer:
            return self.latest
        end = node.real.find(_LAYER_END)
        while end >= 0:  # a state root may have such a name in its own path
            found = self.by_layer.get(node.real[: end + len(_LAYER_END)])
            if found is not None:
                return found
            end = node.real.find(_LAYER_END, end + 1)
        return None


_AS_THEY_ARE = Times()
_LAYER_END = b"/fs"


def snapshot_to_tar(store: Store, snapshot: int | None, out: Sink) -> None:
    """The files of a snapshot as a tar, their times as they are in its layers."""
    tree = MergedTree(store.snapshots.directories(snapshot))
    settled = {
        os.fsencode(item.directory): item.settle
        for item in store.snapshots.chain(snapshot)
        if item.settle is not None
    }
    writer = LayerWriter(out)
    write_tree(tree, writer, times=Times(by_layer=settled))
    writer.finish()


def write_tree(
    tree: MergedTree, writer: LayerWriter, prefix: bytes = b"", times: Times = _AS_THEY_ARE
) -> None:
    """Append every entry of a tree, below `prefix`, sorted."""
    links: dict[tuple[int, int, int], bytes] = {}
    with explain_os_errors("cannot read the image's files"):
        if prefix:
            writer.add(TarEntry(name=prefix, kind=DIRECTORY, mode=0o755, mtime_ns=times.of_made))
        for node in tree.walk():
            if node.path == b"/" or node.mode & _FORMAT == 0o140000:  # sockets fit into no tar
                continue
            _write_node(tree, node, writer, (prefix, links, times))


def _write_node(
    tree: MergedTree,
    node: Node,
    writer: LayerWriter,
    state: tuple[bytes, dict[tuple[int, int, int], bytes], Times],
) -> None:
    prefix, links, times = state
    name = prefix + node.path[1:]
    key = tree.link_key(node)
    first = name if key is None else links.setdefault(key, name)
    mtime = times.of(node)
    if first != name:
        writer.add(
            TarEntry(
                name=name,
                kind=HARD_LINK,
                link=first,
                mode=node.mode & 0o7777,
                uid=node.uid,
                gid=node.gid,
                mtime_ns=mtime,
            )
        )
        return
    kind = _kind(node)
    entry = TarEntry(
        name=name + b"/" if node.is_dir else name,
        kind=kind,
        mode=node.mode & 0o7777,
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        mtime_ns=mtime,
        link=tree.readlink(node) if node.is_symlink else b"",
        major=os.major(node.rdev) if kind in {CHARACTER, BLOCK_DEVICE} else 0,
        minor=os.minor(node.rdev) if kind in {CHARACTER, BLOCK_DEVICE} else 0,
        xattrs=tree.xattrs(node),
    )
    if not node.size:
        writer.add(entry)
        return
    with os.fdopen(tree.open(node), "rb", buffering=0) as file:
        read: Callable[[int], bytes] = file.read
        limit = times.limit(node)
        if limit is not None and name.endswith(bytecode.SUFFIX):
            head = bytecode.settled(file.read(bytecode.HEADER), latest=limit)
            read = _Behind(head, file.read).read
        writer.add_stream(entry, read)
        if file.read(1):
            raise StoreError(f"{os.fsdecode(node.path)} grew while it was read")


class _Behind:
    """A reader that gives bytes which were read already first."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        self._head = head
        self._read = read

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        data, self._head = self._head[:size], self._head[size:]
        return data or self._read(size)


def _kind(node: Node) -> bytes:
    if node.is_dir:
        return DIRECTORY
    if node.is_symlink:
        return SYMLINK
    return _SPECIAL.get(node.mode & _FORMAT, b"0")
