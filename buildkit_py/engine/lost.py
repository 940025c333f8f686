"""Cached layers that cannot be had: evicted, damaged, or their server is gone.

An imported cache is lazy, so that shows only when a step or an export wants the files. Then all
that stands on such a layer is forgotten, and the build is solved again: what it has made so far
is found, what was lost is made. Layers of base images are another matter: without them there is
no build.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from buildkit_py.cache.imports import ImportedCache
from buildkit_py.errors import BuildCancelled, PybuildError
from buildkit_py.graph import ImageOp

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildResult
    from buildkit_py.engine.workshop import Workshop

_STANDING_ON = """
DELETE FROM cache_records WHERE snapshot IN (
    WITH RECURSIVE standing (id) AS (
        SELECT id FROM snapshots WHERE layer = ?
        UNION SELECT s.id FROM snapshots AS s JOIN standing ON s.parent = standing.id
    )
    SELECT id FROM standing
)
"""


def carry_out(
    attempt: Callable[[], BuildResult], shop: Workshop, restart: Callable[[], None]
) -> BuildResult:
    """Make an attempt; another one whenever cached layers turned out to be lost."""
    while True:
        try:
            return attempt()
        except BuildCancelled:
            raise
        except PybuildError as error:
            if not _forget_lost_layers(shop, error):
                raise
        shop.cancelled.clear()  # the step that failed had set it, to end the others
        restart()


def _forget_lost_layers(shop: Workshop, failure: PybuildError) -> bool:
    """Forget what needs layers that could not be had; whether solving again may help."""
    lost = shop.env.store.snapshots.layers.lost.take(failure)
    for identity in _base_layers(shop) & lost.keys():
        del lost[identity]
    forgotten = 0
    for layer in lost.values():
        if layer.blob is None:
            continue
        for backend in shop.imports:
            if isinstance(backend, ImportedCache):
                backend.lose(layer.origin, layer.blob.digest)
        with shop.env.store.db.transaction() as connection:
            forgotten += connection.execute(_STANDING_ON, (layer.id,)).rowcount
        shop.warn(
            f"cached layer {layer.blob.digest} cannot be had from where it was:"
            " what needs it is built again"
        )
    return forgotten > 0


def _base_layers(shop: Workshop) -> set[int]:
    store = shop.env.store
    found: set[int] = set()
    for vertex in shop.graph.vertices.values() if shop.graph else ():
        if isinstance(vertex.op, ImageOp):
            image = store.images.find(vertex.op.digest)
            chain = store.snapshots.chain(image.snapshot) if image else ()
            found.update(item.layer for item in chain)
    return found
