"""What every push does: layers side by side, documents after them, and a note of what is where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.oci.manifest import parse_manifest
from buildkit_py.oci.reference import Reference, parse_reference

if TYPE_CHECKING:
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress, PushBlob
    from buildkit_py.store import Store
    from buildkit_py.store.layer import LayerBlob, Variant

_PIECE = 1 << 20


def push_document(
    client: RegistryClient, place: Reference, data: bytes, descriptor: Descriptor
) -> None:
    """Send a manifest or an index."""
    from buildkit_py.registry import transfer  # noqa: PLC0415

    transfer.push_document(client, place, data, parse_manifest(data, descriptor.media_type))


def note_pushed(
    store: Store, repository: Reference, documents: Sequence[Descriptor], config: Descriptor
) -> None:
    """Remember under which digests the registry now has an image of ours."""
    if store.images.candidates(config.digest):
        for document in documents:
            store.images.note_digest(replace(repository, digest=document.digest), config.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPush:
    """How layers are sent. `watch` is called while one is compressed, and may raise to end that.

    `labels` are ids of snapshots in progress, where their blobs' digests shall not be.
    """

    client: RegistryClient
    store: Store
    variant: Variant
    progress: Progress
    watch: Callable[[], None] | None = None
    labels: Mapping[int, str] = field(default_factory=dict)


def push_layers(
    how: LayerPush, repositories: Sequence[Reference], snapshots: Sequence[int]
) -> None:
    """Send the top layers of snapshots to repositories; the later ones mount from the first."""
    from buildkit_py.registry.transfer import push_blobs  # noqa: PLC0415

    sent: dict[str, str] = {}
    for repository in repositories:
        neighbours = (sent[repository.domain],) if repository.domain in sent else ()
        jobs = [_preparer(how, snapshot, repository, neighbours) for snapshot in snapshots]
        push_blobs(how.client, repository, jobs, how.progress)
        sent.setdefault(repository.domain, repository.path)


def _preparer(
    how: LayerPush, snapshot: int, repository: Reference, neighbours: tuple[str, ...]
) -> Callable[[], PushBlob]:
    label = how.labels.get(snapshot, "")
    store = how.store

    def prepare() -> PushBlob:
        from buildkit_py.registry.early import EarlyUpload  # noqa: PLC0415
        from buildkit_py.registry.transfer import PushBlob, TransferStatus  # noqa: PLC0415

        def report(current: int) -> None:
            if label:
                how.progress(TransferStatus(id=label, action="pushing", current=current))

        early = EarlyUpload(how.client, repository, report)
        try:
            blob = store.snapshots.layer(snapshot, how.variant, how.watch, early.begin)
        except BaseException:
            early.cancel()
            raise

        def open_at(offset: int) -> Iterator[bytes]:
            store.snapshots.ensure_blob(snapshot, blob)
            with store.content.open(blob.descriptor.digest) as stream:
                stream.seek(offset)
                while data := stream.read(_PIECE):
                    yield data

        return PushBlob(
            descriptor=blob.descriptor,
            open_at=open_at,
            mount_from=(*neighbours, *_origin(blob, repository)),
            label=label,
            early=early,
        )

    return prepare


def _origin(blob: LayerBlob, repository: Reference) -> tuple[str, ...]:
    """The path of the repository that a layer was pulled from, if the registry is the same."""
    if not blob.origin or "://" in blob.origin:
        return ()
    origin = parse_reference(blob.origin, default_tag=None)
    same = origin.domain == repository.domain and origin.path != repository.path
    return (origin.path,) if same else ()
