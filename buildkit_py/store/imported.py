"""A root filesystem tar as an image of one layer (`pybuild import`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.layers.apply import apply_layer
from buildkit_py.layers.compression import open_decompressor
from buildkit_py.layers.tar_reader import Source
from buildkit_py.oci.assemble import LayerFacts, assemble
from buildkit_py.oci.config import ContainerConfig, ImageConfig, rfc3339
from buildkit_py.oci.reference import Reference
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.images import NewImage, StoredImage

if TYPE_CHECKING:
    from buildkit_py.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """The image to make: platform and history from `config`, the rest from `container`."""

    config: ImageConfig
    container: ContainerConfig
    created: int


def import_tree(
    store: Store, stream: Source, request: ImportRequest, names: Sequence[Reference] = ()
) -> StoredImage:
    """Unpack a tar, compressed or not, and store it as an image. Raises CorruptArchive."""
    with store.snapshots.prepare(None) as active:
        with open_decompressor(stream) as plain, explain_os_errors("cannot write to the store"):
            apply_layer(plain, active.upper)
        snapshot = store.snapshots.commit(active, description="import", kind="source.import")
    layer = store.snapshots.layer(snapshot.id)
    config = replace(request.config, config=request.container, created=rfc3339(request.created))
    made = assemble(
        config,
        [layer.descriptor],
        [LayerFacts(diff_id=layer.diff_id, created=rfc3339(request.created))],
    )
    store.snapshots.usage(snapshot.id)
    new = NewImage(config=made.config, snapshot=snapshot.id, manifest=made.manifest)
    return store.images.add(new, names)
