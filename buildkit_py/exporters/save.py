"""Stored images to an archive that `docker load` and every OCI tool reads (`pybuild save`).

Configs and manifests leave byte for byte as they are stored, so ids and digests stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, sha256
from buildkit_py.errors import BlobNotFound, NoSuchImage, UsageError
from buildkit_py.exporters.layout import DockerImage, LayoutSink, LayoutWriter, NamedRoot
from buildkit_py.oci.assemble import assemble_index, convert_layer, go_json
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Manifest, manifest_to_json, parse_manifest
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.store.content import ContentStore

if TYPE_CHECKING:
    from buildkit_py.layers.tar import Sink
    from buildkit_py.platforms import Platform
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage
    from buildkit_py.store.layer import LayerBlob


def save_images(
    store: Store, names: Sequence[str], sink: LayoutSink, platform: Platform | None = None
) -> None:
    """Write the images of some names or ids. Raises NoSuchImage."""
    writer = LayoutWriter(sink)
    groups: dict[tuple[str, ...], tuple[list[StoredImage], list[Reference]]] = {}
    for name in names:
        images, reference = _wanted(store, name, platform)
        group = groups.setdefault(tuple(image.id for image in images), (images, []))
        if reference is not None and reference not in group[1]:
            group[1].append(reference)
    for images, references in groups.values():
        _save_group(store, writer, images, tuple(references))
    writer.finish()


def _wanted(
    store: Store, name: str, platform: Platform | None
) -> tuple[list[StoredImage], Reference | None]:
    found = [store.images.get(digest) for digest in store.images.candidates(name)]
    if not found:
        raise NoSuchImage(f"no such image: {name}")
    if platform is not None:
        found = [store.images.get(name, platform)]
    try:
        reference = parse_reference(name)
    except UsageError:
        return found, None
    named = any(str(reference) == str(own) for image in found for own in image.names)
    return found, reference if named else None


def _save_group(
    store: Store,
    writer: LayoutWriter,
    images: Sequence[StoredImage],
    names: tuple[Reference, ...],
) -> None:
    roots = []
    entries = []
    for image in images:
        manifest, layers = _documents(store, writer, image)
        roots.append(manifest)
        entries.append(DockerImage(config=image.id, layers=layers, names=names))
    root = roots[0]
    if len(images) > 1:
        index = assemble_index(roots)
        writer.add_document(index.descriptor, index.index)
        root = index.descriptor
    created = images[0].created
    writer.add_root(NamedRoot(descriptor=root, names=names, created=created), entries)


def _documents(
    store: Store, writer: LayoutWriter, image: StoredImage
) -> tuple[Descriptor, tuple[Digest, ...]]:
    """Add config, manifest and layers; returns the manifest and the layers' digests."""
    chain = store.snapshots.chain(image.snapshot)
    blobs = [store.snapshots.layer(item.id) for item in chain]
    for item, blob in zip(chain, blobs, strict=True):
        writer.add_blob(blob.descriptor, partial(_copy, store, item.id, blob))
    data = _manifest(store.content, image, blobs)
    manifest = parse_manifest(data)
    assert isinstance(manifest, Manifest)
    writer.add_document(manifest.config, image.config_bytes)
    descriptor = Descriptor(
        media_type=manifest.media_type,
        digest=sha256(data),
        size=len(data),
        platform=image.platform,
    )
    writer.add_document(descriptor, data)
    return descriptor, tuple(blob.descriptor.digest for blob in blobs)


def _manifest(content: ContentStore, image: StoredImage, blobs: Sequence[LayerBlob]) -> bytes:
    """The manifest that it was stored with, if that names the layers that we have."""
    layers = tuple(blob.descriptor for blob in blobs)
    if image.manifest is not None:
        with suppress(BlobNotFound):
            data = content.read(image.manifest.digest)
            stored = parse_manifest(data, image.manifest.media_type)
            digests = [layer.digest for layer in layers]
            if isinstance(stored, Manifest) and [i.digest for i in stored.layers] == digests:
                return data
    config = Descriptor(
        media_type=MediaType.OCI_CONFIG, digest=image.id, size=len(image.config_bytes)
    )
    made = Manifest(
        config=config, layers=tuple(convert_layer(layer, oci_types=True) for layer in layers)
    )
    return go_json(manifest_to_json(made), indent=2)


def _copy(store: Store, snapshot: int, blob: LayerBlob, out: Sink) -> None:
    store.snapshots.copy_blob(snapshot, blob, out)
