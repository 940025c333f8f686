"""Whole images to and from a content store, blobs in parallel, with progress.

Pulling resolves a name to a manifest and a config first; layers come later and one by one, for
what is never looked at need not be fetched. Pushing sends blobs before the manifest that names
them, so that a cut push leaves nothing broken and the next one sends only what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from buildkit_py.errors import ContentError, ManifestUnknown, RegistryError
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Index, Manifest, parse_manifest, select_platform
from buildkit_py.registry.uploads import OpenAt, UploadResult, upload_blob

if TYPE_CHECKING:
    from buildkit_py.oci.reference import Reference
    from buildkit_py.platforms import Platform
    from buildkit_py.registry.client import ManifestAnswer, RegistryClient
    from buildkit_py.registry.early import EarlyUpload
    from buildkit_py.store.content import ContentStore

CONFIG_LIMIT = 16 << 20
_MAX_DEPTH = 3  # an index may hold an index; more is a trap
_PIECE = 1 << 20
_NO_SUCH_RANGE = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStatus:
    """Progress of one blob: preparing, waiting, downloading, pushing, exists, mounted."""

    id: str
    action: str
    current: int = 0
    total: int = 0
    done: bool = False
    note: str = ""  # of `mounted`: from where


Progress = Callable[[TransferStatus], None]
"""Called from several threads; may raise to stop the transfer."""


def no_progress(status: TransferStatus) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """One image of a name: its documents, verified and in the content store."""

    reference: Reference
    descriptor: Descriptor  # of the manifest
    manifest: Manifest
    config: bytes
    index: Descriptor | None = None  # the index that it was chosen from

    @property
    def named_digest(self) -> Descriptor:
        """What the name itself leads to: the index where there is one."""
        return self.index or self.descriptor


# ------------------------------------------------------------------ pull
def resolve(
    client: RegistryClient, reference: Reference, platform: Platform, content: ContentStore
) -> ResolvedImage:
    """Find the image of a platform; fetch manifest and config only.

    Raises ManifestUnknown where the name, or an image for the platform, does not exist.
    """
    answer = client.manifest(reference)
    document = _store_document(answer, content)
    index: Descriptor | None = None
    for _ in range(_MAX_DEPTH):
        if isinstance(document, Manifest):
            break
        index = index or replace(answer.descriptor, media_type=document.media_type)
        chosen = select_platform(document, platform)
        if chosen is None:
            raise _no_platform(reference, document, platform)
        answer = _by_digest(client, reference, chosen, content)
        document = _store_document(answer, content)
    if not isinstance(document, Manifest):
        raise RegistryError(f"{reference.familiar}: indexes are nested too deeply")
    return ResolvedImage(
        reference=reference,
        descriptor=replace(answer.descriptor, media_type=document.media_type),
        manifest=document,
        config=_config(client, reference, document, content),
        index=index,
    )


def _store_document(answer: ManifestAnswer, content: ContentStore) -> Manifest | Index:
    document = parse_manifest(answer.data, answer.descriptor.media_type)
    content.put(answer.data, document.media_type, sync=True)
    return document


def _by_digest(
    client: RegistryClient, reference: Reference, wanted: Descriptor, content: ContentStore
) -> ManifestAnswer:
    from buildkit_py.registry.client import ManifestAnswer  # noqa: PLC0415

    if content.has(wanted.digest):
        data = content.read(wanted.digest, CONFIG_LIMIT)
        return ManifestAnswer(data=data, descriptor=wanted)
    answer = client.manifest(replace(reference, tag=None, digest=wanted.digest))
    if len(answer.data) != wanted.size:
        raise ContentError(
            f"manifest {wanted.digest} has {len(answer.data)} bytes, its index says {wanted.size}"
        )
    return answer


def _config(
    client: RegistryClient, reference: Reference, manifest: Manifest, content: ContentStore
) -> bytes:
    wanted = manifest.config
    if wanted.media_type not in {MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG}:
        raise RegistryError(
            f"{reference.familiar} is no container image but {wanted.media_type or 'untyped'}"
        )
    if content.has(wanted.digest):
        return content.read(wanted.digest, CONFIG_LIMIT)
    data = client.read_blob(reference, wanted, limit=CONFIG_LIMIT)
    content.put(data, wanted.media_type, sync=True)
    return data


def _no_platform(reference: Reference, index: Index, platform: Platform) -> ManifestUnknown:
    have = sorted({str(item.platform) for item in index.manifests if item.platform is not None})
    have = [name for name in have if name != "unknown/unknown"]
    return ManifestUnknown(
        f"{reference.familiar} has no image for {platform}",
        reference=reference.familiar,
        hint="it has: " + " ".join(have[:20]) if have else None,
    )


def fetch_blob(
    client: RegistryClient,
    reference: Reference,
    descriptor: Descriptor,
    content: ContentStore,
    progress: Progress = no_progress,
) -> None:
    """Download one blob into the content store, from a mirror or the registry. Verified."""
    if content.has(descriptor.digest):
        progress(_done(descriptor, "exists"))
        return
    ends = client.endpoints.for_pull(reference.domain)

    def report(current: int) -> None:
        progress(
            TransferStatus(
                id=descriptor.digest, action="downloading", current=current, total=descriptor.size
            )
        )

    report(0)
    for number, end in enumerate(ends):
        try:
            download = partial(client.download, end, reference, descriptor)
            _download(download, descriptor, content, report)
        except (RegistryError, ContentError):
            if number == len(ends) - 1:
                raise
        else:
            break
    progress(_done(descriptor, "downloading"))


def _download(
    download: Callable[..., None],
    descriptor: Descriptor,
    content: ContentStore,
    report: Callable[[int], None],
) -> None:
    """Go on where an earlier process stopped; from the start if that was no part of the blob."""
    for _ in range(2):
        with content.resuming_writer(descriptor) as writer:
            start = writer.size
            try:
                download(writer.write, report, start=start)
                writer.commit()
            except (RegistryError, ContentError) as error:
                refused = isinstance(error, RegistryError) and error.status == _NO_SUCH_RANGE
                if not start or not (refused or isinstance(error, ContentError)):
                    raise
                writer.discard()
            else:
                return


def fetch_layers(
    client: RegistryClient,
    image: ResolvedImage,
    content: ContentStore,
    progress: Progress = no_progress,
) -> None:
    """Download all layers of a resolved image, several at a time."""
    unique = list({layer.digest: layer for layer in image.manifest.layers}.values())
    for layer in unique:
        if not content.has(layer.digest):
            progress(TransferStatus(id=layer.digest, action="waiting", total=layer.size))
    run_parallel(
        client.transport.config.parallel,
        [_fetcher(client, image.reference, layer, content, progress) for layer in unique],
    )


def _fetcher(
    client: RegistryClient,
    reference: Reference,
    layer: Descriptor,
    content: ContentStore,
    progress: Progress,
) -> Callable[[], None]:
    return lambda: fetch_blob(client, reference, layer, content, progress)


# ------------------------------------------------------------------ push
@dataclass(frozen=True, slots=True, kw_only=True)
class PushBlob:
    """A blob to send. `open_at` is called only when its bytes are needed.

    `label` is its id in progress, if not its digest; `early` may have sent it already.
    """

    descriptor: Descriptor
    open_at: OpenAt
    mount_from: tuple[str, ...] = ()  # repositories of the same registry that may have it
    label: str = ""
    early: EarlyUpload | None = None


def content_blob(
    content: ContentStore, descriptor: Descriptor, mount_from: tuple[str, ...] = ()
) -> PushBlob:
    """A blob of the content store, ready to send."""

    def open_at(offset: int) -> Iterator[bytes]:
        with content.open(descriptor.digest) as stream:
            stream.seek(offset)
            while data := stream.read(_PIECE):
                yield data

    return PushBlob(descriptor=descriptor, open_at=open_at, mount_from=mount_from)


def memory_blob(data: bytes, descriptor: Descriptor) -> PushBlob:
    """A small blob in memory (a config)."""
    return PushBlob(descriptor=descriptor, open_at=lambda offset: [data[offset:]])


def push_blobs(
    client: RegistryClient,
    reference: Reference,
    blobs: Sequence[Callable[[], PushBlob]],
    progress: Progress = no_progress,
) -> None:
    """Send blobs, several at a time. Each is prepared (compressed) by the thread that sends it."""

    def sender(prepare: Callable[[], PushBlob]) -> Callable[[], object]:
        return lambda: push_blob(client, reference, prepare(), progress)

    run_parallel(client.transport.config.parallel, [sender(prepare) for prepare in blobs])


def push_blob(
    client: RegistryClient, reference: Reference, blob: PushBlob, progress: Progress = no_progress
) -> UploadResult:
    """Send one blob unless the repository has it."""
    descriptor = blob.descriptor
    label = blob.label or descriptor.digest

    def report(current: int) -> None:
        progress(
            TransferStatus(id=label, action="pushing", current=current, total=descriptor.size)
        )

    result = upload_blob(
        client,
        reference,
        descriptor,
        blob.open_at,
        mount_from=blob.mount_from,
        on_progress=report,
        early=blob.early,
    )
    action = {"pushed": "pushing"}.get(result.kind, result.kind)
    note = result.source or ("push" if result.kind == "exists" else "")
    progress(replace(_done(descriptor, action), id=label, note=note))
    return result


def push_content(
    client: RegistryClient,
    reference: Reference,
    root: Descriptor,
    content: ContentStore,
    progress: Progress = no_progress,
) -> None:
    """Send a manifest or index of the content store with all that it names, then name it."""
    data = content.read(root.digest, CONFIG_LIMIT)
    document = parse_manifest(data, root.media_type)
    if isinstance(document, Index):
        for item in document.manifests:
            push_content(
                client, replace(reference, tag=None, digest=item.digest), item, content, progress
            )
    else:
        wanted = {blob.digest: blob for blob in (*document.layers, document.config)}
        push_blobs(
            client,
            reference,
            [_preparer(content, blob) for blob in wanted.values()],
            progress,
        )
    push_document(client, reference, data, document)


def _preparer(content: ContentStore, descriptor: Descriptor) -> Callable[[], PushBlob]:
    return lambda: content_blob(content, descriptor)


def push_document(
    client: RegistryClient, reference: Reference, data: bytes, document: Manifest | Index
) -> None:
    """Send a manifest. Where the registry does not list referrers itself, keep the list for it."""
    from buildkit_py.registry.referrers import add_to_fallback  # noqa: PLC0415

    recorded = client.put_manifest(reference, data, document.media_type)
    if document.subject is not None and not recorded:
        add_to_fallback(client, reference, document.subject, data, document)


# ------------------------------------------------------------------ threads
def run_parallel(limit: int, jobs: Sequence[Callable[[], object]]) -> None:
    """Run jobs in at most `limit` threads; the first error ends all and is raised."""
    if len(jobs) <= 1:
        for job in jobs:
            job()
        return
    stop = threading.Event()

    def guarded(job: Callable[[], object]) -> None:
        if not stop.is_set():
            job()

    with ThreadPoolExecutor(max_workers=min(limit, len(jobs))) as pool:
        futures = [pool.submit(guarded, job) for job in jobs]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.exception() is not None for future in done):
            stop.set()
    for future in futures:
        future.result()


def _done(descriptor: Descriptor, action: str) -> TransferStatus:
    return TransferStatus(
        id=descriptor.digest,
        action=action,
        current=descriptor.size,
        total=descriptor.size,
        done=True,
    )


__all__ = [
    "Progress",
    "PushBlob",
    "ResolvedImage",
    "TransferStatus",
    "content_blob",
    "fetch_blob",
    "fetch_layers",
    "memory_blob",
    "no_progress",
    "push_blob",
    "push_blobs",
    "push_content",
    "push_document",
    "resolve",
    "run_parallel",
]
