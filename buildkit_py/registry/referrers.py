"""What refers to an image: signatures, SBOMs (distribution-spec, "Listing Referrers").

A registry without that call is served by the tag scheme `sha256-<hex>`: an index that clients
keep up to date themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.digest import canonical_json, sha256
from buildkit_py.errors import ManifestUnknown
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.manifest import Index, Manifest, manifest_to_json, parse_manifest

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.oci.reference import Reference
    from buildkit_py.registry.client import RegistryClient


def referrers(
    client: RegistryClient, reference: Reference, digest: Digest, artifact_type: str = ""
) -> tuple[Descriptor, ...]:
    """What refers to the manifest `digest` of a repository."""
    data = client.referrers_index(reference, digest)
    if data is None:
        found = _fallback(client, _fallback_reference(reference, digest)).manifests
    else:
        document = parse_manifest(data)
        found = document.manifests if isinstance(document, Index) else ()
    return tuple(
        item for item in found if not artifact_type or item.artifact_type == artifact_type
    )


def add_to_fallback(
    client: RegistryClient,
    reference: Reference,
    subject: Descriptor,
    data: bytes,
    document: Manifest | Index,
) -> None:
    """Add a manifest to the list of its subject's referrers."""
    kind = document.artifact_type
    if not kind and isinstance(document, Manifest):
        kind = document.config.media_type
    entry = Descriptor(
        media_type=document.media_type,
        digest=sha256(data),
        size=len(data),
        artifact_type=kind,
        annotations=document.annotations,
    )
    place = _fallback_reference(reference, subject.digest)
    index = _fallback(client, place)
    if any(item.digest == entry.digest for item in index.manifests):
        return
    index = replace(index, manifests=(*index.manifests, entry))
    client.put_manifest(place, canonical_json(manifest_to_json(index)), index.media_type)


def _fallback_reference(reference: Reference, digest: Digest) -> Reference:
    return replace(reference, tag=digest.replace(":", "-", 1)[:128], digest=None)


def _fallback(client: RegistryClient, place: Reference) -> Index:
    try:
        answer = client.manifest(place)
    except ManifestUnknown:
        return Index(manifests=())
    document = parse_manifest(answer.data, answer.descriptor.media_type)
    return document if isinstance(document, Index) else Index(manifests=())
