"""Attestations as manifests beside the images of an index, and as files beside a plain tree.

As BuildKit stores them: one manifest for each image, its layers in-toto statements, named by
annotations, of platform unknown/unknown.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import sha256
from buildkit_py.errors import StoreError
from buildkit_py.oci.assemble import go_json
from buildkit_py.oci.descriptor import Descriptor, MediaType, descriptor_to_json
from buildkit_py.oci.manifest import (
    ATTESTATION_SUBJECT,
    ATTESTATION_TYPE,
    Manifest,
    manifest_to_json,
)
from buildkit_py.platforms import Platform

if TYPE_CHECKING:
    from buildkit_py.exporters.base import Attestation
    from buildkit_py.layers.tree import BaseTree, Node

STATEMENT_TYPE = "https://in-toto.io/Statement/v0.1"
_ARTIFACT_TYPE = "application/vnd.docker.attestation.manifest.v1+json"
KnownLayers = Callable[[int], "Sequence[Descriptor] | None"]
"""The layers of a snapshot, lowest first, where they are known."""

_PREDICATE = "in-toto.io/predicate-type"
_FILE_LIMIT = 40 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationManifest:
    """A manifest of statements, and all blobs that it names."""

    manifest: bytes
    descriptor: Descriptor
    blobs: tuple[tuple[Descriptor, bytes], ...]


def attestation_manifest(
    attestations: Sequence[Attestation],
    image: Descriptor,
    names: Sequence[str],
    *,
    artifact: bool = True,
    known: KnownLayers | None = None,
) -> AttestationManifest:
    """The manifest about an image; `artifact` false gives it the form of an image."""
    blobs = []
    for item in attestations:
        data = statement(item if known is None else _with_layers(item, known), image, names)
        described = Descriptor(
            media_type=MediaType.IN_TOTO,
            digest=sha256(data),
            size=len(data),
            annotations={_PREDICATE: item.predicate_type},
        )
        blobs.append((described, data))
    layers = tuple(described for described, _ in blobs)
    if artifact:
        config, config_type = b"{}", MediaType.OCI_EMPTY
    else:
        config, config_type = _image_config(layers), MediaType.OCI_CONFIG
    config_descriptor = Descriptor(media_type=config_type, digest=sha256(config), size=len(config))
    subject = Descriptor(media_type=image.media_type, digest=image.digest, size=image.size)
    manifest = Manifest(
        config=config_descriptor,
        layers=layers,
        artifact_type=_ARTIFACT_TYPE if artifact else "",
        subject=subject if artifact else None,
    )
    data = go_json(manifest_to_json(manifest), indent=2)
    descriptor = Descriptor(
        media_type=MediaType.OCI_MANIFEST,
        digest=sha256(data),
        size=len(data),
        platform=Platform(os="unknown", architecture="unknown"),
        annotations={
            ATTESTATION_SUBJECT: image.digest,
            ATTESTATION_TYPE: "attestation-manifest",
        },
    )
    return AttestationManifest(
        manifest=data, descriptor=descriptor, blobs=((config_descriptor, config), *blobs)
    )


def _with_layers(item: Attestation, known: KnownLayers) -> Attestation:
    """The attestation with the layers of its steps, as far as they are known."""
    found = {step: known(snapshot) for step, snapshot in item.steps.items()}
    layers = {
        step: [[descriptor_to_json(layer) for layer in chain]]
        for step, chain in found.items()
        if chain
    }
    if not layers:
        return item
    return replace(item, predicate=_placed(item.predicate, item.layers_path, layers))


def _placed(
    document: Mapping[str, Any], path: Sequence[str], value: Mapping[str, Any]
) -> Mapping[str, Any]:
    if not path:
        return value
    return {**document, path[0]: _placed(document.get(path[0], {}), path[1:], value)}


def _image_config(layers: Sequence[Descriptor]) -> bytes:
    document = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return go_json(document)


def statement(item: Attestation, image: Descriptor, names: Sequence[str]) -> bytes:
    """The in-toto statement: the predicate, and the image that it speaks of."""
    algorithm, _, value = image.digest.partition(":")
    return _statement(
        item, [{"name": name, "digest": {algorithm: value}} for name in names or ["_"]]
    )


def _statement(item: Attestation, subject: Sequence[Mapping[str, object]]) -> bytes:
    data = go_json(
        {
            "_type": STATEMENT_TYPE,
            "predicateType": item.predicate_type,
            "subject": subject,
            "predicate": item.predicate,
        }
    )
    if len(data) > _FILE_LIMIT:
        raise StoreError(
            f"an attestation of {len(data)} bytes is more than the {_FILE_LIMIT} allowed",
            hint="provenance with mode=min, or a scanner that lists packages without their files",
        )
    return data


def attestation_files(
    attestations: Sequence[Attestation], tree: BaseTree
) -> list[tuple[str, bytes]]:
    """Names and content of the files that stand beside a plain tree; they speak of its files."""
    written = [item for item in attestations if not item.inline_only]
    if not written:
        return []
    subject = [
        {"name": os.fsdecode(node.path[1:]), "digest": {"sha256": _file_digest(tree, node)}}
        for node in tree.walk()
        if node.is_file
    ]
    return [(item.filename, _statement(item, subject)) for item in written]


def _file_digest(tree: BaseTree, node: Node) -> str:
    with os.fdopen(tree.open(node), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
