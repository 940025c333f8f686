"""From built images to documents and blobs: what every image output shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from buildkit_py.digest import Digest
from buildkit_py.exporters.attestations import (
    AttestationManifest,
    KnownLayers,
    attestation_manifest,
)
from buildkit_py.exporters.base import BuiltImage, ExportedImage, ExportRequest
from buildkit_py.oci.assemble import (
    AssembledImage,
    AssembledIndex,
    AssembleOptions,
    LayerFacts,
    assemble,
    assemble_index,
    convert_layer,
)
from buildkit_py.oci.config import rfc3339
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.store.layer import LayerBlob

if TYPE_CHECKING:
    from buildkit_py.exporters.attributes import ImageOptions
    from buildkit_py.layers.tar import Sink
    from buildkit_py.oci.reference import Reference
    from buildkit_py.platforms import Platform
    from buildkit_py.store import Store
    from buildkit_py.store.snapshots import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedLayer:
    """A layer as it will leave: its descriptor in the manifest, and where its bytes are."""

    snapshot: int
    blob: LayerBlob
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """One platform: documents, and layers lowest first."""

    built: BuiltImage
    assembled: AssembledImage
    layers: tuple[PreparedLayer, ...]

    @property
    def exported(self) -> ExportedImage:
        """What the result says of it."""
        return ExportedImage(
            platform=self.built.platform,
            config=self.assembled.config_descriptor,
            manifest=self.assembled.manifest_descriptor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """All platforms, and the index over them when there is one."""

    images: tuple[PreparedImage, ...]
    index: AssembledIndex | None
    attestations: tuple[AttestationManifest, ...] = ()

    @property
    def descriptor(self) -> Descriptor:
        """What names the whole."""
        if self.index is not None:
            return self.index.descriptor
        return self.images[0].assembled.manifest_descriptor

    def documents(self) -> Iterator[tuple[Descriptor, bytes]]:
        """Configs, manifests and the index: whatever is no layer, referred to before referrer."""
        for image in self.images:
            made = image.assembled
            yield made.config_descriptor, made.config
            yield made.manifest_descriptor, made.manifest
        for item in self.attestations:
            yield from item.blobs
            yield item.descriptor, item.manifest
        if self.index is not None:
            yield self.index.descriptor, self.index.index

    def layers(self) -> dict[Digest, PreparedLayer]:
        """Every layer once."""
        return {layer.descriptor.digest: layer for image in self.images for layer in image.layers}


def assemble_images(store: Store, request: ExportRequest, options: ImageOptions) -> Assembly:
    """Make the layers in the form asked for, and the documents that name them."""
    prepared = tuple(_prepare(store, image, request, options) for image in request.images)
    index = None
    attestations = tuple(
        attestation_manifest(
            image.built.attestations,
            image.assembled.manifest_descriptor,
            [_purl(name, image.built.platform) for name in options.names],
            artifact=options.oci_types and options.oci_artifact,
            known=_known_layers(store, image),
        )
        for image in prepared
        if image.built.attestations
    )
    if request.multi_platform or len(prepared) > 1 or attestations:
        index = assemble_index(
            [
                *(image.assembled.manifest_descriptor for image in prepared),
                *(item.descriptor for item in attestations),
            ],
            oci_types=options.oci_types,
            annotations=options.annotations.of("index"),
        )
    return Assembly(images=prepared, index=index, attestations=attestations)


def _known_layers(store: Store, image: PreparedImage) -> KnownLayers:
    """The image's own layers as they leave, and layers of other snapshots as they came."""
    own = {layer.snapshot: layer.descriptor for layer in image.layers}

    def known(snapshot: int) -> list[Descriptor] | None:
        out = []
        for item in store.snapshots.chain(snapshot):
            descriptor = own.get(item.id) or item.blob
            if descriptor is None:
                return None
            out.append(descriptor)
        return out

    return known


def _purl(name: Reference, platform: Platform) -> str:
    version = f"@{name.tag}" if name.tag else ""
    where = quote(str(platform), safe="")
    return f"pkg:docker/{name.familiar_repository}{version}?platform={where}"


def _prepare(
    store: Store, image: BuiltImage, request: ExportRequest, options: ImageOptions
) -> PreparedImage:
    chain = store.snapshots.chain(image.snapshot)
    layers = _layers(store, chain, request, options, _base_layers(image, len(chain)))
    facts = [
        LayerFacts(
            diff_id=layer.blob.diff_id,
            created=rfc3339(int(item.created)),
            description=item.description,
        )
        for item, layer in zip(chain, layers, strict=True)
    ]
    notes = options.annotations
    assembled = assemble(
        image.config,
        [layer.descriptor for layer in layers],
        facts,
        AssembleOptions(
            oci_types=options.oci_types,
            epoch=options.epoch,
            base_history=image.base_history,
            annotations=notes.of("manifest", image.platform),
            descriptor_annotations=notes.of("manifest-descriptor", image.platform),
            extra=image.extra,
        ),
    )
    return PreparedImage(built=image, assembled=assembled, layers=layers)


def _base_layers(image: BuiltImage, count: int) -> int:
    """How many of the `count` layers are the base image's; all if its history does not tell."""
    made = [not entry.empty_layer for entry in image.config.history]
    return sum(made[: image.base_history]) if sum(made) == count else count


def _layers(
    store: Store,
    chain: tuple[Snapshot, ...],
    request: ExportRequest,
    options: ImageOptions,
    base: int,
) -> tuple[PreparedLayer, ...]:
    own = {item.id for item in chain[base:]}

    def make(item: Snapshot) -> PreparedLayer:
        variant = options.variant
        if variant.clamp_mtime is not None and item.blob is not None and item.id in own:
            store.snapshots.directories(item.id)  # of a step from another's cache: unpacked
            variant = replace(variant, rewrite=True)
        blob = store.snapshots.layer(item.id, variant)
        descriptor = convert_layer(blob.descriptor, oci_types=options.oci_types)
        request.report(descriptor.digest, descriptor.size, descriptor.size)
        return PreparedLayer(snapshot=item.id, blob=blob, descriptor=descriptor)

    plain = options.variant.compression == "uncompressed"
    if sum(item.diff_id is None or not plain for item in chain) < 2:
        return tuple(make(item) for item in chain)  # what is known takes no time
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - a tenth of all imports

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="layer") as pool:
        return tuple(pool.map(make, chain))


def write_layer_blob(store: Store, layer: PreparedLayer, out: Sink) -> None:
    """Copy a layer's bytes to `out`, verified on the way."""
    store.snapshots.copy_blob(layer.snapshot, layer.blob, out)
