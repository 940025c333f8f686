"""`--squash`: the layers of an image as one, above its base image or altogether."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.layers.squash import squash
from buildkit_py.oci.config import History, rfc3339
from buildkit_py.store.failures import explain_os_errors

if TYPE_CHECKING:
    from buildkit_py.exporters.base import BuiltImage
    from buildkit_py.store import Store


def squashed(store: Store, image: BuiltImage, mode: str) -> BuiltImage:
    """The image with one layer in place of those of this build (`stage`), or of `all`.

    Its history keeps every entry, as ones without a layer, and one more says what was merged.
    """
    chain = store.snapshots.chain(image.snapshot)
    history = image.config.history
    kept = 0
    if mode == "stage":
        base = history[: image.base_history]
        kept = min(sum(not entry.empty_layer for entry in base), len(chain))
    if len(chain) - kept < 2:
        return image
    parent = chain[kept - 1].id if kept else None
    store.snapshots.directories(image.snapshot)  # all of them are unpacked now
    uppers = [item.directory for item in chain[kept:]]
    text = f"merge of {len(chain) - kept} layers"
    with (
        store.snapshots.prepare(parent) as active,
        explain_os_errors("cannot write to the store"),
    ):
        squash(uppers, active.below, active.upper)
        made = store.snapshots.commit(active, description=text, settle=image.settled)
    created = None if image.settled is None else rfc3339(image.settled)
    first = image.base_history if mode == "stage" else 0
    merged = (
        *history[:first],
        *(replace(entry, empty_layer=True) for entry in history[first:]),
        History(created=created, created_by=f"squash {mode} # buildkit", comment=text),
    )
    return replace(image, snapshot=made.id, config=replace(image.config, history=merged))
