"""What of a build goes into an exported cache: results with their keys and layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.cache.base import ExportedResult
from buildkit_py.cache.config import CacheConfig, CachedLayer, CachedMount, CachedResult

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.store.layer import LayerBlob, Variant
    from buildkit_py.store.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExport:
    """A config, and for each of its layers the snapshot that has it and the form it takes.

    `ready` brings the blob of a mount into the content store, if it is not there.
    """

    config: CacheConfig
    layers: tuple[tuple[int, LayerBlob], ...] = ()
    ready: Callable[[CachedMount], None] = lambda _: None


def choose_results(
    results: Sequence[ExportedResult], roots: Sequence[int], snapshots: SnapshotStore, mode: str
) -> tuple[ExportedResult, ...]:
    """`max`: all; `min`: those whose layers are in the final images."""
    if mode == "max":
        return tuple(results)
    final = {item.id for root in roots for item in snapshots.chain(root)}
    return tuple(item for item in results if item.snapshot in final)


def collect(
    results: Sequence[ExportedResult],
    snapshots: SnapshotStore,
    variant: Variant,
    *,
    with_blobs: bool = True,
) -> CacheExport:
    """Lay out results and their chains of layers; compresses layers where that was not done yet.

    Without blobs (inline caches) layers are named by their diff_ids alone.
    """
    collector = _Collector(snapshots, variant, with_blobs)
    cached: list[CachedResult] = []
    seen: set[Digest] = set()
    for item in results:
        keys = tuple(key for key in dict.fromkeys(item.keys) if key not in seen)
        seen.update(keys)
        if keys:
            cached.append(
                CachedResult(
                    keys=keys,
                    canonical=item.canonical,
                    layer=collector.layer(item.snapshot),
                    created=item.created,
                    description=item.description,
                )
            )
    config = CacheConfig(layers=tuple(collector.layers), results=tuple(cached))
    return CacheExport(config=config, layers=tuple(collector.sources))


@dataclass(slots=True)
class _Collector:
    """Numbers layers as they are met, parents first."""

    snapshots: SnapshotStore
    variant: Variant
    with_blobs: bool
    layers: list[CachedLayer] = field(default_factory=list)
    sources: list[tuple[int, LayerBlob]] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    _equal: dict[tuple[int, Digest], int] = field(default_factory=dict)

    def layer(self, snapshot: int) -> int:
        """The index of a snapshot's top layer."""
        index = -1
        for item in self.snapshots.chain(snapshot):
            if item.id not in self._places:
                self._places[item.id] = self._add(item.id, index)
            index = self._places[item.id]
        return index

    def _add(self, snapshot: int, parent: int) -> int:
        if self.with_blobs:
            blob = self.snapshots.layer(snapshot, self.variant)
            layer = CachedLayer(diff_id=blob.diff_id, parent=parent, blob=blob.descriptor)
        else:
            blob = None
            diff_id = self.snapshots.diff_id(snapshot)
            layer = CachedLayer(diff_id=diff_id, parent=parent, blob=None)
        place = self._equal.setdefault((parent, layer.diff_id), len(self.layers))
        if place == len(self.layers):
            self.layers.append(layer)
            if blob is not None:
                self.sources.append((snapshot, blob))
        return place


Warn = Callable[[str], None]
"""Told, once for each cache, why it could not be used."""
