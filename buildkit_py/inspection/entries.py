"""What the tar of a layer holds, entry by entry, as other programs will see it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from buildkit_py.layers.compression import open_decompressor
from buildkit_py.layers.tar import DIRECTORY, HARD_LINK
from buildkit_py.layers.tar_reader import LayerReader
from buildkit_py.layers.whiteout import OPAQUE_NAME, PREFIX

if TYPE_CHECKING:
    from buildkit_py.layers.tar import TarEntry
    from buildkit_py.oci.config import ImageConfig
    from buildkit_py.store import Store

_IN_MEMORY = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file of a layer: its facts without its bytes, which `digest` stands for."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContent:
    """A layer's entries by path (no slash at either end), and what it hides of lower layers.

    `hidden` are paths that it deletes, `emptied` directories whose lower content it hides.
    """

    snapshot: int
    created_by: str
    entries: Mapping[bytes, Entry]
    hidden: frozenset[bytes]
    emptied: frozenset[bytes]


@contextmanager
def layer_tar(store: Store, snapshot: int) -> Iterator[IO[bytes]]:
    """The layer as it leaves, perhaps compressed."""
    blob = store.snapshots.layer(snapshot)
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        store.snapshots.copy_blob(snapshot, blob, file)
        file.seek(0)
        yield file


def layer_content(store: Store, snapshot: int, created_by: str = "") -> LayerContent:
    """Read one layer."""
    entries: dict[bytes, Entry] = {}
    hidden: set[bytes] = set()
    emptied: set[bytes] = set()
    with layer_tar(store, snapshot) as file, open_decompressor(file) as stream:
        reader = LayerReader(stream)
        for found in reader:
            path = found.name.strip(b"/").removeprefix(b"./")
            folder, slash, name = path.rpartition(b"/")
            if name == OPAQUE_NAME:
                emptied.add(folder)
            elif name.startswith(PREFIX):
                hidden.add(folder + slash + name.removeprefix(PREFIX))
            elif path:
                entries[path] = _entry(found, reader)
    for path, entry in entries.items():
        if entry.kind == HARD_LINK:
            target = entries.get(entry.link.strip(b"/"))
            if target is not None:
                entries[path] = _linked(entry, target)
    return LayerContent(
        snapshot=snapshot,
        created_by=created_by,
        entries=entries,
        hidden=frozenset(hidden),
        emptied=frozenset(emptied),
    )


def _entry(found: TarEntry, reader: LayerReader) -> Entry:
    digest = hashlib.sha256()
    for chunk in reader.chunks():
        digest.update(chunk)
    return Entry(
        kind=found.kind,
        mode=found.mode,
        uid=found.uid,
        gid=found.gid,
        size=found.size,
        mtime=found.mtime_ns // 1_000_000_000,
        link=found.link,
        device=(found.major, found.minor),
        xattrs=dict(found.xattrs),
        digest=digest.hexdigest() if found.size else "",
    )


def _linked(entry: Entry, target: Entry) -> Entry:
    """A hard link with the content's digest; its bytes are counted where they are."""
    return Entry(
        kind=entry.kind,
        mode=target.mode,
        uid=target.uid,
        gid=target.gid,
        size=0,
        mtime=target.mtime,
        link=entry.link,
        device=entry.device,
        xattrs=target.xattrs,
        digest=target.digest,
    )


def image_layers(store: Store, config: ImageConfig, snapshot: int | None) -> list[LayerContent]:
    """All layers of an image, lowest first, each with the history's words for it."""
    chain = store.snapshots.chain(snapshot)
    words = [item.created_by for item in config.history if not item.empty_layer]
    words += [""] * (len(chain) - len(words))
    return [
        layer_content(store, item.id, text or item.description)
        for item, text in zip(chain, words, strict=False)
    ]


def merged(layers: list[LayerContent]) -> dict[bytes, tuple[Entry, int]]:
    """The files that are seen in the end, with the number of the layer that wrote them."""
    out: dict[bytes, tuple[Entry, int]] = {}
    for number, layer in enumerate(layers):
        for path in lost_by(out, layer):
            del out[path]
        out.update({path: (entry, number) for path, entry in layer.entries.items()})
    return out


def lost_by(below: Mapping[bytes, object], layer: LayerContent) -> list[bytes]:
    """The paths of lower layers that a layer deletes, or hides by what stands in their way."""
    gone = layer.hidden | {p for p, e in layer.entries.items() if e.kind != DIRECTORY}
    emptied = layer.emptied
    if not gone and not emptied:
        return []
    return [path for path in below if _is_lost(path, layer, gone, emptied)]


def _is_lost(
    path: bytes,
    layer: LayerContent,
    gone: frozenset[bytes],
    emptied: frozenset[bytes],
) -> bool:
    if path in layer.hidden:
        return True
    folder = path
    while folder:
        folder = folder.rpartition(b"/")[0]
        if folder in emptied or (folder and folder in gone):
            return True
    return False
