"""The OCI documents around a cache's config: an image manifest, or the index of older readers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from buildkit_py.cache.config import (
    CONFIG_TYPE,
    DIFF_ID_ANNOTATION,
    CacheConfig,
    encode,
)
from buildkit_py.digest import canonical_json, sha256
from buildkit_py.oci.assemble import docker_media_type
from buildkit_py.oci.descriptor import Descriptor, MediaType, descriptor_to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDocuments:
    """The exact bytes of config and manifest, and the descriptors of both."""

    config: bytes
    config_descriptor: Descriptor
    manifest: bytes
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a cache is wrapped: as an image or an index, by OCI's media types or by Docker's."""

    image_manifest: bool = True
    oci: bool = True


def make_documents(config: CacheConfig, form: Form) -> CacheDocuments:
    """The documents of a cache whose layers all have blobs."""
    if not form.oci:
        config = _with_docker_types(config)
    data = encode(config)
    config_descriptor = _describe(data, CONFIG_TYPE)
    layers = [
        descriptor_to_json(
            replace(
                layer.blob,
                annotations={**layer.blob.annotations, DIFF_ID_ANNOTATION: layer.diff_id},
            )
        )
        for layer in {item.blob.digest: item for item in config.layers if item.blob}.values()
        if layer.blob is not None
    ]
    layers += [descriptor_to_json(mount.blob) for mount in config.mounts]
    described = descriptor_to_json(config_descriptor)
    kind = MediaType.OCI_MANIFEST if form.image_manifest else MediaType.OCI_INDEX
    if not form.oci:
        kind = MediaType.DOCKER_LIST
    body = (
        {"config": described, "layers": layers}
        if form.image_manifest
        else {"manifests": [*layers, described]}
    )
    manifest = canonical_json({"schemaVersion": 2, "mediaType": kind, **body})
    return CacheDocuments(
        config=data,
        config_descriptor=config_descriptor,
        manifest=manifest,
        descriptor=_describe(manifest, kind),
    )


def _with_docker_types(config: CacheConfig) -> CacheConfig:
    def renamed(blob: Descriptor) -> Descriptor:
        return replace(blob, media_type=docker_media_type(blob.media_type))

    return replace(
        config,
        layers=tuple(
            replace(layer, blob=renamed(layer.blob)) if layer.blob else layer
            for layer in config.layers
        ),
        mounts=tuple(replace(mount, blob=renamed(mount.blob)) for mount in config.mounts),
    )


def _describe(data: bytes, media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=sha256(data), size=len(data))
