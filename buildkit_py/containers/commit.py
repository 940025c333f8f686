"""An image of a container's files and config (`pybuild commit`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.errors import ContainerError
from buildkit_py.oci.assemble import LayerFacts, assemble
from buildkit_py.oci.config import ContainerConfig, History, ImageConfig, rfc3339
from buildkit_py.store.images import NewImage, StoredImage

if TYPE_CHECKING:
    from buildkit_py.oci.reference import Reference
    from buildkit_py.store import Store
    from buildkit_py.store.containers import Container


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """What to say of the new image. `config` is the container's with the changes applied."""

    config: ContainerConfig
    author: str = ""
    message: str = ""
    created: int = 0


def commit(
    store: Store, container: Container, request: CommitRequest, names: Sequence[Reference] = ()
) -> StoredImage:
    """Store an image: the container's image with one more layer. Raises ContainerError."""
    if container.snapshot is None:
        state = "is running" if container.status == "running" else "has left no files"
        raise ContainerError(f"container {container.id[:12]} {state}")
    store.snapshots.use(container.snapshot)
    base = _base(store, container)
    stamp = rfc3339(request.created)
    entry = History(
        created=stamp,
        created_by=" ".join(container.command),
        author=request.author,
        comment=request.message,
    )
    config = replace(
        base,
        config=request.config,
        author=request.author,
        created=stamp,
        history=(*base.history, entry),
        platform=container.platform,
    )
    blobs = [store.snapshots.layer(item.id) for item in store.snapshots.chain(container.snapshot)]
    made = assemble(
        config,
        [blob.descriptor for blob in blobs],
        [LayerFacts(diff_id=blob.diff_id, created=stamp) for blob in blobs],
    )
    new = NewImage(
        config=made.config,
        snapshot=container.snapshot,
        manifest=made.manifest,
        parent=container.image_id or "",
    )
    return store.images.add(new, names)


def _base(store: Store, container: Container) -> ImageConfig:
    """The config of the container's image; an empty one where that is gone, or was a step."""
    image = None if container.image_id is None else store.images.find(container.image_id)
    return ImageConfig(platform=container.platform) if image is None else image.config
