"""An imported cache as a backend: its document is read when something is first looked for.

A hit makes rows for its layers and no more: a blob is fetched when a step runs on it or an image
takes it out. A cache that cannot be read is said so once and is then empty; builds go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.cache.base import CacheRecord
from buildkit_py.errors import PybuildError

if TYPE_CHECKING:
    from buildkit_py.cache.config import CacheConfig, CachedMount, CachedResult
    from buildkit_py.cache.exports import Warn
    from buildkit_py.digest import Digest
    from buildkit_py.store.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCache:
    """A cache's document, and the text by which its layers remember where they are."""

    config: CacheConfig
    origin: str


class ImportedCache:
    """A cache to import from. `load` reads its document; it may raise any PybuildError."""

    def __init__(
        self,
        name: str,
        load: Callable[[], LoadedCache],
        snapshots: SnapshotStore,
        warn: Warn,
    ) -> None:
        self.name = name
        self._load = load
        self._snapshots = snapshots
        self._warn = warn
        self._guard = threading.Lock()
        self._loaded: LoadedCache | None = None
        self._index: Mapping[Digest, CachedResult] | None = None
        self._lost: set[Digest] = set()
        self.missing = False

    def find(self, key: Digest) -> CacheRecord | None:
        """The record of a key, its layers known to the store (but not fetched)."""
        index = self._records()
        found = index.get(key)
        if found is None or self._loaded is None or self._is_lost(self._loaded, found):
            return None
        try:
            snapshot = self._snapshot(self._loaded, found)
        except PybuildError as error:
            self._warn(f"cannot use the cache {self.name}: {error.message}")
            return None
        return CacheRecord(
            key=key,
            canonical=found.canonical,
            snapshot=snapshot,
            description=found.description,
            created=found.created,
        )

    def lose(self, origin: str, blob: Digest) -> None:
        """Find nothing any more that needs a blob which could not be had from here."""
        if self._loaded is not None and self._loaded.origin == origin:
            self._lost.add(blob)

    def _is_lost(self, loaded: LoadedCache, found: CachedResult) -> bool:
        if not self._lost:
            return False
        chain = loaded.config.chain(found.layer)
        return any(layer.blob is not None and layer.blob.digest in self._lost for layer in chain)

    def mounts(self) -> tuple[CachedMount, ...]:
        """The cache mounts that come with it."""
        self._records()
        loaded = self._loaded
        if loaded is None:
            return ()
        return tuple(replace(item, origin=loaded.origin) for item in loaded.config.mounts)

    def _records(self) -> Mapping[Digest, CachedResult]:
        with self._guard:
            if self._index is None:
                self._index = {}
                try:
                    self._loaded = self._load()
                except PybuildError as error:
                    self.missing = True
                    self._warn(f"cannot import the cache {self.name}: {error.message}")
                except OSError as error:
                    self.missing = True
                    self._warn(f"cannot import the cache {self.name}: {error.strerror}")
                else:
                    self._index = {
                        key: replace(item, keys=(key,))
                        for item in self._loaded.config.results
                        for key in item.keys
                    }
            return self._index

    def _snapshot(self, loaded: LoadedCache, found: CachedResult) -> int:
        top: int | None = None
        steps = {item.layer: item.description for item in loaded.config.results}
        for index in loaded.config.indexes(found.layer):
            layer = loaded.config.layers[index]
            if layer.blob is None:
                raise PybuildError("one of its layers names no blob")
            top = self._snapshots.from_layer(
                top,
                layer.blob,
                layer.diff_id,
                loaded.origin,
                description=steps.get(index, ""),
            ).id
        if top is None:
            raise PybuildError("one of its records has no layers")
        return top
