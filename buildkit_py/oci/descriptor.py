"""Descriptors and media types (OCI image-spec descriptor.md, media-types.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from buildkit_py.digest import Digest, parse_digest
from buildkit_py.errors import ContentError
from buildkit_py.platforms import Platform, normalize


class MediaType:
    """The media types that images are made of."""

    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    OCI_INDEX = "application/vnd.oci.image.index.v1+json"
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
    OCI_EMPTY = "application/vnd.oci.empty.v1+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    IN_TOTO = "application/vnd.in-toto+json"

    MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
    INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Media type, digest and size of a blob, with platform and annotations where given."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    urls: tuple[str, ...] = ()


def descriptor_from_json(raw: Mapping[str, Any]) -> Descriptor:
    """Decode and check a descriptor. Raises ContentError."""
    media_type, size = raw.get("mediaType", ""), raw.get("size")
    if not isinstance(media_type, str) or not isinstance(size, int) or size < 0:
        raise ContentError("malformed descriptor: mediaType or size is missing or invalid")
    platform = raw.get("platform")
    annotations = raw.get("annotations")
    return Descriptor(
        media_type=media_type,
        digest=parse_digest(str(raw.get("digest", ""))),
        size=size,
        platform=_platform(platform) if isinstance(platform, dict) else None,
        annotations={str(k): str(v) for k, v in annotations.items()}
        if isinstance(annotations, dict)
        else {},
        artifact_type=str(raw.get("artifactType") or ""),
        urls=tuple(str(url) for url in raw.get("urls") or ()),
    )


def _platform(raw: Mapping[str, Any]) -> Platform:
    features = raw.get("os.features")
    platform = normalize(
        str(raw.get("os") or ""),
        str(raw.get("architecture") or ""),
        str(raw.get("variant") or ""),
        str(raw.get("os.version") or ""),
    )
    if not isinstance(features, list):
        return platform
    return replace(platform, os_features=tuple(str(item) for item in features))


def descriptor_to_json(descriptor: Descriptor) -> dict[str, Any]:
    """Encode in the specification's order."""
    out: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.urls:
        out["urls"] = list(descriptor.urls)
    if descriptor.annotations:
        out["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        out["platform"] = platform_to_json(descriptor.platform)
    if descriptor.artifact_type:
        out["artifactType"] = descriptor.artifact_type
    return out


def platform_to_json(platform: Platform) -> dict[str, Any]:
    """The `platform` object of a descriptor."""
    out: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        out["os.version"] = platform.os_version
    if platform.os_features:
        out["os.features"] = list(platform.os_features)
    if platform.variant:
        out["variant"] = platform.variant
    return out
