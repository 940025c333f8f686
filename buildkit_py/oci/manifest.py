"""Manifest and index codecs, and the choice of a platform from an index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from buildkit_py.errors import ContentError
from buildkit_py.oci.descriptor import (
    Descriptor,
    MediaType,
    descriptor_from_json,
    descriptor_to_json,
)
from buildkit_py.platforms import Platform

MANIFEST_LIMIT = 4 << 20  # what registries accept (distribution-spec, "Pushing Manifests")
ATTESTATION_TYPE = "vnd.docker.reference.type"
ATTESTATION_SUBJECT = "vnd.docker.reference.digest"
_MAX_ENTRIES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MediaType.OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Manifests of several platforms, or of anything else."""

    manifests: tuple[Descriptor, ...]
    media_type: str = MediaType.OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=dict)
    subject: Descriptor | None = None
    artifact_type: str = ""


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Decode a manifest or an index. `media_type` is what its source said. Raises ContentError."""
    if len(data) > MANIFEST_LIMIT:
        raise ContentError(f"manifest of {len(data)} bytes is too large")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContentError("manifest is not valid JSON") from error
    if not isinstance(raw, dict):
        raise ContentError("manifest is not a JSON object")
    kind = _media_type(raw, media_type)
    subject = raw.get("subject")
    common: dict[str, Any] = {
        "media_type": kind,
        "annotations": _annotations(raw),
        "subject": descriptor_from_json(subject) if isinstance(subject, dict) else None,
        "artifact_type": str(raw.get("artifactType") or ""),
    }
    if kind in MediaType.INDEXES:
        return Index(manifests=_descriptors(raw, "manifests"), **common)
    config = raw.get("config")
    if not isinstance(config, dict):
        raise ContentError("manifest has no config")
    return Manifest(
        config=descriptor_from_json(config), layers=_descriptors(raw, "layers"), **common
    )


def _media_type(raw: Mapping[str, Any], said: str) -> str:
    if raw.get("schemaVersion") == 1:
        raise ContentError(
            "image manifest schema 1 is not supported",
            hint="push the image again with newer tools",
        )
    said = said.partition(";")[0].strip().lower()
    inside = str(raw.get("mediaType") or "")
    known = MediaType.MANIFESTS | MediaType.INDEXES
    if inside and said in known and inside != said:
        raise ContentError(f"manifest says it is {inside}, its source says {said}")
    if "manifests" in raw and ("config" in raw or "layers" in raw):
        # image-spec, "manifest.md": a document that is both would mean two things
        raise ContentError("manifest is ambiguous: it has both manifests and layers")
    for kind in (inside, said):
        if kind in known:
            return kind
    return MediaType.OCI_INDEX if "manifests" in raw else MediaType.OCI_MANIFEST


def _annotations(raw: Mapping[str, Any]) -> dict[str, str]:
    value = raw.get("annotations")
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def _descriptors(raw: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    items = raw.get(key)
    if items is None:
        items = []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ContentError(f"manifest: {key} is not a list of descriptors")
    if len(items) > _MAX_ENTRIES:
        raise ContentError(f"manifest: {key} has {len(items)} entries")
    return tuple(descriptor_from_json(item) for item in items)


def manifest_to_json(manifest: Manifest | Index) -> dict[str, Any]:
    """Encode in the specification's order."""
    out: dict[str, Any] = {"schemaVersion": 2, "mediaType": manifest.media_type}
    if manifest.artifact_type:
        out["artifactType"] = manifest.artifact_type
    if isinstance(manifest, Index):
        out["manifests"] = [descriptor_to_json(item) for item in manifest.manifests]
    else:
        out["config"] = descriptor_to_json(manifest.config)
        out["layers"] = [descriptor_to_json(item) for item in manifest.layers]
    if manifest.subject is not None:
        out["subject"] = descriptor_to_json(manifest.subject)
    if manifest.annotations:
        out["annotations"] = dict(manifest.annotations)
    return out


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index entry describes another entry (provenance, SBOM), not an image."""
    return ATTESTATION_TYPE in descriptor.annotations


def select_platform(index: Index, wanted: Platform) -> Descriptor | None:
    """The entry of an index that runs best on a platform, or None.

    An exact match wins; else lower variants of the same architecture, and at last its 32-bit
    predecessor, in that order (the rules of containerd's platforms package). An index with one
    image that names no platform gives that one.
    """
    images = [
        item
        for item in index.manifests
        if not is_attestation(item)
        and (item.media_type in MediaType.MANIFESTS or item.media_type in MediaType.INDEXES)
    ]
    for candidate in _acceptable(wanted):
        for item in images:
            if item.platform is not None and _same(item.platform, candidate, wanted):
                return item
    unnamed = [item for item in images if item.platform is None]
    return unnamed[0] if len(unnamed) == 1 and len(images) == 1 else None


def _same(have: Platform, candidate: Platform, wanted: Platform) -> bool:
    version = wanted.os_version
    return (have.os, have.architecture, have.variant) == (
        candidate.os,
        candidate.architecture,
        candidate.variant,
    ) and (not version or have.os_version.startswith(version))


def _acceptable(wanted: Platform) -> list[Platform]:
    def make(architecture: str, variant: str = "") -> Platform:
        return Platform(os=wanted.os, architecture=architecture, variant=variant)

    out = [make(wanted.architecture, wanted.variant)]
    level = wanted.variant.removeprefix("v")
    number = int(level) if level.isdigit() and len(level) < 3 else 0
    match wanted.architecture:
        case "amd64":
            out += [make("amd64", f"v{n}") for n in range(number - 1, 1, -1)]
            out += [make("amd64"), make("386")]
        case "arm":
            out += [make("arm", f"v{n}") for n in range(number - 1, 4, -1)]
        case "arm64":
            out += [make("arm64")] + [make("arm", f"v{n}") for n in (8, 7, 6, 5)]
        case _:
            pass
    return out
