"""`type=registry`: a cache as a manifest in a registry; also reads caches inside of images."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from buildkit_py.cache.config import CONFIG_LIMIT, CacheConfig, decode, merge
from buildkit_py.cache.directory import with_sizes
from buildkit_py.cache.documents import Form, make_documents
from buildkit_py.cache.imports import LoadedCache
from buildkit_py.cache.inline import read_inline
from buildkit_py.errors import ContentError
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Index, Manifest, parse_manifest

if TYPE_CHECKING:
    from buildkit_py.cache.config import CachedMount
    from buildkit_py.cache.exports import CacheExport
    from buildkit_py.digest import Digest
    from buildkit_py.oci.reference import Reference
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress, PushBlob
    from buildkit_py.store.layer import LayerBlob
    from buildkit_py.store.snapshots import SnapshotStore

_MOST_PLATFORMS = 64


def push_cache(
    client: RegistryClient,
    reference: Reference,
    export: CacheExport,
    snapshots: SnapshotStore,
    *,
    form: Form,
    progress: Progress | None = None,
) -> Digest:
    """Send a cache: layers, config, and the manifest that names them. Raises RegistryError."""
    from buildkit_py.registry.transfer import (  # noqa: PLC0415
        memory_blob,
        no_progress,
        push_blobs,
        push_document,
    )

    documents = make_documents(export.config, form)
    blobs = [
        _sender(snapshots, snapshot, blob, reference)
        for snapshot, blob in {b.descriptor.digest: (s, b) for s, b in export.layers}.values()
    ]
    mounts = [partial(_mount_blob, export, mount, snapshots) for mount in export.config.mounts]
    config = memory_blob(documents.config, documents.config_descriptor)
    push_blobs(client, reference, [*blobs, *mounts, lambda: config], progress or no_progress)
    document = parse_manifest(documents.manifest, documents.descriptor.media_type)
    push_document(client, reference, documents.manifest, document)
    return documents.descriptor.digest


def _mount_blob(export: CacheExport, mount: CachedMount, snapshots: SnapshotStore) -> PushBlob:
    from buildkit_py.registry.transfer import PushBlob, content_blob  # noqa: PLC0415

    def open_at(offset: int) -> Any:
        export.ready(mount)  # only if the registry lacks it
        return content_blob(snapshots.content, mount.blob).open_at(offset)

    return PushBlob(descriptor=mount.blob, open_at=open_at)


def _sender(snapshots: SnapshotStore, snapshot: int, blob: LayerBlob, reference: Reference) -> Any:
    def prepare() -> PushBlob:
        from buildkit_py.oci.reference import parse_reference  # noqa: PLC0415
        from buildkit_py.registry.transfer import PushBlob, content_blob  # noqa: PLC0415

        def open_at(offset: int) -> Any:
            snapshots.ensure_blob(snapshot, blob)  # fetched only if the registry lacks it
            return content_blob(snapshots.content, blob.descriptor).open_at(offset)

        neighbours: tuple[str, ...] = ()
        if blob.origin and "://" not in blob.origin:
            origin = parse_reference(blob.origin, default_tag=None)
            if origin.domain == reference.domain and origin.path != reference.path:
                neighbours = (origin.path,)
        return PushBlob(descriptor=blob.descriptor, open_at=open_at, mount_from=neighbours)

    return prepare


def pull_cache(client: RegistryClient, reference: Reference) -> LoadedCache:
    """Read a cache, or the caches inside of an image of that name. Raises RegistryError."""
    answer = client.manifest(reference)
    document = parse_manifest(answer.data, answer.descriptor.media_type)
    configs = list(_configs(client, reference, document))
    if not configs:
        raise ContentError(f"{reference.familiar} holds no build cache")
    origin = str(replace(reference, tag=None, digest=None))
    return LoadedCache(config=merge(configs), origin=origin)


def _configs(
    client: RegistryClient, reference: Reference, document: Manifest | Index
) -> list[CacheConfig]:
    if isinstance(document, Manifest):
        found = _config_of(client, reference, document.config, document.layers)
        return [] if found is None else [found]
    own = [item for item in document.manifests if "cacheconfig" in item.media_type]
    if own:
        found = _config_of(client, reference, own[0], document.manifests)
        return [] if found is None else [found]
    configs: list[CacheConfig] = []
    for item in document.manifests[:_MOST_PLATFORMS]:
        if item.media_type in MediaType.MANIFESTS and "vnd.docker.reference.type" not in (
            item.annotations
        ):
            answer = client.manifest(replace(reference, tag=None, digest=item.digest))
            inner = parse_manifest(answer.data, answer.descriptor.media_type)
            if isinstance(inner, Manifest):
                configs += _configs(client, reference, inner)
    return configs


def _config_of(
    client: RegistryClient,
    reference: Reference,
    config: Descriptor,
    layers: tuple[Descriptor, ...],
) -> CacheConfig | None:
    data = client.read_blob(reference, config, limit=CONFIG_LIMIT)
    if "cacheconfig" in config.media_type:
        return with_sizes(decode(data), layers)
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ContentError(f"config of {reference.familiar} is not valid JSON") from error
    return read_inline(raw, layers) if isinstance(raw, dict) else None
