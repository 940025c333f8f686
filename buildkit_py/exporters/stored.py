"""Images of the local store to a registry, unchanged: the config, and so the image ID, stays.

An image that was pulled goes out with the manifest that it came with; one that was built here gets
a manifest over its layers in compressed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.digest import sha256
from buildkit_py.errors import ContentError, NoSuchImage, RegistryError, UsageError
from buildkit_py.exporters.sending import LayerPush, note_pushed, push_document, push_layers
from buildkit_py.oci.assemble import AssembledIndex, assemble_index, convert_layer, go_json
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Manifest, manifest_to_json, parse_manifest
from buildkit_py.oci.reference import parse_reference
from buildkit_py.registry.transfer import TransferStatus, no_progress
from buildkit_py.store.layer import Variant
from buildkit_py.store.lists import Entry, ImageList, ListStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.oci.reference import Reference
    from buildkit_py.platforms import Platform
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPush:
    """What `push` sends: images of one name, as their manifests will be."""

    store: Store
    client: RegistryClient
    progress: Progress = no_progress
    variant: Variant = field(default_factory=lambda: Variant(compression="gzip"))


def push_stored(
    job: StoredPush, source: str | Reference, target: Reference, platform: Platform | None = None
) -> Descriptor:
    """Push what a local name or id leads to as `target`: all its platforms, or one.

    Gives the descriptor that the target then leads to. Raises NoSuchImage, RegistryError.
    """
    listed = _listed(job.store, source, platform)
    images = [job.store.images.get(entry.image) for entry in listed.entries]
    repository = replace(target, tag=None, digest=None)
    labels = _labels(job.store, images)
    for label in dict.fromkeys(labels.values()):
        job.progress(TransferStatus(id=label, action="preparing"))
    known = _known_there(job, target, images, listed)
    if known is not None:
        for label in dict.fromkeys(labels.values()):
            job.progress(TransferStatus(id=label, action="exists", done=True, note="push"))
        return known
    how = LayerPush(
        client=job.client,
        store=job.store,
        variant=job.variant,
        progress=job.progress,
        labels=labels,
    )
    push_layers(how, [repository], list(labels))
    described = [_described(job, image) for image in images]
    data, descriptor = _named(listed, described)
    for image, (manifest, entry) in zip(images, described, strict=True):
        _push_one(job, repository, image, manifest, entry)
    push_document(job.client, target, data, descriptor)
    for image, (_, entry) in zip(images, described, strict=True):
        config = Descriptor(media_type=MediaType.OCI_CONFIG, digest=image.id, size=0)
        note_pushed(job.store, repository, (descriptor, entry), config)
    return replace(descriptor, size=len(data), platform=None)


def _named(
    listed: ImageList, described: Sequence[tuple[bytes, Descriptor]]
) -> tuple[bytes, Descriptor]:
    """What the target leads to: the only manifest, or an index of all."""
    if len(described) == 1 and not listed.several:
        return described[0]
    made = index_of(listed, [entry for _, entry in described])
    return made.index, made.descriptor


def _known_there(
    job: StoredPush, target: Reference, images: Sequence[StoredImage], listed: ImageList
) -> Descriptor | None:
    """What the target leads to, if it is what a push would make of it.

    Only a registry that has had these images is asked. One that has the manifest has all of it.
    """
    place = target.repository
    if any(all(item.repository != place for item in image.digests) for image in images):
        return None
    data, descriptor = _named(listed, [_described(job, image) for image in images])
    try:
        if not job.client.leads_to(target, descriptor.digest):
            return None
    except (RegistryError, ContentError):
        return None  # the push says what is wrong
    return replace(descriptor, size=len(data), platform=None)


def _labels(store: Store, images: Sequence[StoredImage]) -> dict[int, str]:
    """The layers of images, with the diff ids that progress calls them by, as docker does."""
    return {
        item.id: diff_id
        for image in images
        for item, diff_id in zip(
            store.snapshots.chain(image.snapshot), image.config.diff_ids, strict=True
        )
    }


def index_of(listed: ImageList, manifests: Sequence[Descriptor]) -> AssembledIndex:
    """The index of a list whose images have these manifests."""
    described = [
        replace(
            manifest,
            platform=entry.platform,
            annotations={**manifest.annotations, **entry.annotations},
        )
        for entry, manifest in zip(listed.entries, manifests, strict=True)
    ]
    oci = all(item.media_type == MediaType.OCI_MANIFEST for item in described)
    return assemble_index(described, oci_types=oci, annotations=listed.annotations)


def _listed(store: Store, source: str | Reference, platform: Platform | None) -> ImageList:
    """What a name or id leads to: all platforms of it, in the order of its list, or one."""
    if platform is not None:
        image = store.images.get(source, platform)
        return ImageList(entries=(Entry(image=image.id, platform=image.platform),))
    try:
        name = parse_reference(source) if isinstance(source, str) else source
        known = ListStore(store.db).find(name)
    except UsageError:
        known = None
    if known is not None and known.entries:
        return known
    found = store.images.candidates(source)
    if not found:
        shown = source if isinstance(source, str) else source.familiar
        raise NoSuchImage(f"an image does not exist locally with the tag: {shown}")
    return ImageList(
        entries=tuple(Entry(image=digest, platform=own) for digest, own in found.items())
    )


def _described(job: StoredPush, image: StoredImage) -> tuple[bytes, Descriptor]:
    """The manifest of one image as it will be sent."""
    data, media_type = _manifest(job, image)
    descriptor = Descriptor(
        media_type=media_type,
        digest=sha256(data),
        size=len(data),
        platform=image.config.platform,
    )
    return data, descriptor


def _push_one(
    job: StoredPush, repository: Reference, image: StoredImage, data: bytes, entry: Descriptor
) -> None:
    """Send config and manifest (by digest) of one image."""
    from buildkit_py.registry.transfer import memory_blob, push_blob  # noqa: PLC0415

    document = parse_manifest(data, entry.media_type)
    assert isinstance(document, Manifest)
    push_blob(job.client, repository, memory_blob(image.config_bytes, document.config))
    push_document(job.client, replace(repository, digest=entry.digest), data, entry)


def _manifest(job: StoredPush, image: StoredImage) -> tuple[bytes, str]:
    """The manifest that the image came with, if its layers still have that form, or a new one."""
    layers = [
        job.store.snapshots.layer(item.id, job.variant).descriptor
        for item in job.store.snapshots.chain(image.snapshot)
    ]
    known = _known_manifest(job.store, image)
    if known is not None:
        data, document = known
        if [item.digest for item in document.layers] == [item.digest for item in layers]:
            return data, document.media_type
    config = Descriptor(
        media_type=MediaType.OCI_CONFIG, digest=image.id, size=len(image.config_bytes)
    )
    made = Manifest(
        config=config,
        layers=tuple(convert_layer(layer, oci_types=True) for layer in layers),
        annotations=known[1].annotations if known is not None else {},
    )
    return go_json(manifest_to_json(made), indent=2), made.media_type


def _known_manifest(store: Store, image: StoredImage) -> tuple[bytes, Manifest] | None:
    if image.manifest is None:
        return None
    try:
        data = store.content.read(image.manifest.digest)
        document = parse_manifest(data, image.manifest.media_type)
    except ContentError:
        return None
    return (data, document) if isinstance(document, Manifest) else None
