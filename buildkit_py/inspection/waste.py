"""Who wrote a file, how large directories are, and bytes that are shipped but never seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from buildkit_py.inspection.entries import Entry, LayerContent, lost_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A layer that wrote (or deleted: no entry) a path."""

    layer: LayerContent
    entry: Entry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wasted:
    """A file in `layer` that the layer `by` overwrites or deletes."""

    path: bytes
    size: int
    layer: int
    by: int
    deleted: bool


def touches(layers: Sequence[LayerContent], path: bytes) -> Iterator[Touch]:
    """The layers that wrote or deleted a path, lowest first."""
    there: dict[bytes, object] = {}
    for layer in layers:
        entry = layer.entries.get(path)
        if entry is not None:
            there[path] = entry
            yield Touch(layer=layer, entry=entry)
        elif path in there and lost_by(there, layer):
            there.clear()
            yield Touch(layer=layer, entry=None)


def wasted(layers: Sequence[LayerContent]) -> list[Wasted]:
    """Files that a later layer overwrites or deletes, largest first."""
    seen: dict[bytes, tuple[int, int]] = {}
    out: list[Wasted] = []
    for number, layer in enumerate(layers):
        for path in lost_by(seen, layer):
            size, owner = seen.pop(path)
            out.append(Wasted(path=path, size=size, layer=owner, by=number, deleted=True))
        for path, entry in layer.entries.items():
            before = seen.get(path)
            if before is not None and before[0]:
                out.append(
                    Wasted(path=path, size=before[0], layer=before[1], by=number, deleted=False)
                )
            if entry.kind != b"5":
                seen[path] = (entry.size, number)
    return sorted((item for item in out if item.size), key=lambda item: (-item.size, item.path))


def size_tree(layers: Sequence[LayerContent], depth: int) -> dict[bytes, int]:
    """Bytes below each directory (to a depth), summed over all layers as they are shipped."""
    sizes: dict[bytes, int] = {}
    for layer in layers:
        for path, entry in layer.entries.items():
            parts = path.split(b"/")
            for count in range(min(len(parts) - 1, depth) + 1):
                folder = b"/" + b"/".join(parts[:count])
                sizes[folder] = sizes.get(folder, 0) + entry.size
    return sizes
