"""What two images differ in: config, packages, files, layers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from buildkit_py.inspection.entries import Entry, LayerContent
from buildkit_py.oci.config import config_to_json

if TYPE_CHECKING:
    from buildkit_py.oci.config import ImageConfig

_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One difference: `A` added, `D` deleted, `C` changed; `detail` says what changed."""

    kind: str
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f"  ({self.detail})" if self.detail else "")


def config_changes(old: ImageConfig, new: ImageConfig) -> Iterator[Change]:
    """Differences of two configs, by the names of their fields; layers and history left out."""
    before, after = _flat(config_to_json(old)), _flat(config_to_json(new))
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield Change(kind="A", name=name, detail=after[name])
        elif name not in after:
            yield Change(kind="D", name=name, detail=before[name])
        elif before[name] != after[name]:
            yield Change(kind="C", name=name, detail=f"{before[name]} → {after[name]}")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, item in value.items():
        if not prefix and key in {"rootfs", "history"}:
            continue
        name = f"{prefix}{key}"
        if key == "Env" and isinstance(item, list):
            out.update({f"{name}.{e.partition('=')[0]}": e.partition("=")[2] for e in item})
        elif isinstance(item, dict):
            out.update(_flat(item, name + "."))
        else:
            out[name] = str(item)
    return out


def file_changes(old: Mapping[bytes, Entry], new: Mapping[bytes, Entry]) -> Iterator[Change]:
    """Differences of two sets of files, by path."""
    for path in sorted(old.keys() | new.keys()):
        name = "/" + os.fsdecode(path)
        before, after = old.get(path), new.get(path)
        if before is None:
            yield Change(kind="A", name=name)
        elif after is None:
            yield Change(kind="D", name=name)
        elif before != after:
            yield Change(kind="C", name=name, detail=_what(before, after))


def _what(before: Entry, after: Entry) -> str:
    parts = []
    for item in fields(Entry):
        one, two = getattr(before, item.name), getattr(after, item.name)
        if one == two or (item.name == "size" and before.digest != after.digest):
            continue
        if item.name == "digest":
            parts.append(f"content, {before.size} → {after.size} bytes")
        elif item.name == "mode":
            parts.append(f"mode {one:o} → {two:o}")
        elif item.name == "kind":
            parts.append("another kind of file")
        elif item.name == "xattrs":
            parts.append("extended attributes")
        else:
            parts.append(f"{item.name} {_shown(one)} → {_shown(two)}")
    return ", ".join(parts)


def _shown(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


def layer_changes(old: list[LayerContent], new: list[LayerContent]) -> Iterator[Change]:
    """Layers that only one of two images has, where the lists first part from each other."""
    same = 0
    while same < min(len(old), len(new)) and _alike(old[same], new[same]):
        same += 1
    for number, layer in enumerate(old[same:], same):
        yield Change(kind="D", name=f"layer {number + 1}", detail=layer.created_by)
    for number, layer in enumerate(new[same:], same):
        yield Change(kind="A", name=f"layer {number + 1}", detail=layer.created_by)


def _alike(one: LayerContent, two: LayerContent) -> bool:
    return (one.entries, one.hidden, one.emptied) == (two.entries, two.hidden, two.emptied)
