"""Layers that could not be had: their place does not answer, or what it has is no such layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import ContentError, RegistryError, SourceError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from buildkit_py.digest import Digest
    from buildkit_py.store.layer import Layer


@dataclass(slots=True)
class LostLayers:
    """Those of one build. `gone` are the diff_ids of all, to be fetched elsewhere if possible."""

    gone: set[Digest | None] = field(default_factory=set)
    _new: list[tuple[Layer, BaseException]] = field(default_factory=list)

    def note(self, layer: Layer, error: BaseException) -> None:
        """Remember a layer, if it is its place or its bytes that failed, and not the store."""
        if isinstance(error, ContentError | RegistryError | SourceError):
            self.gone.add(layer.diff_id)
            self._new.append((layer, error))

    def take(self, failure: BaseException) -> dict[int, Layer]:
        """Those that were lost since the last call, by id, if it is that what failed."""
        taken, self._new = self._new, []
        causes: list[BaseException | None] = [failure, failure.__cause__, failure.__context__]
        if not any(error is cause for _, error in taken for cause in causes):
            return {}
        return {layer.id: layer for layer, _ in taken}

    def move(self, connection: Connection, snapshot: int, blob: str, origin: str) -> None:
        """Fetch the layer of a snapshot from another place: as another blob, perhaps."""
        connection.execute(
            "UPDATE layers SET blob = ?, origin = ?"
            " WHERE NOT unpacked AND id = (SELECT layer FROM snapshots WHERE id = ?)",
            (blob, origin, snapshot),
        )
