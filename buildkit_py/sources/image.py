"""Base images: from the local store by name, else from their registry, layers only when needed.

An image that was resolved once is recorded in the store under its name, as `pull` does, so later
builds find it without asking, also where its registry cannot be reached. An image is pinned by the
digest of its config (the image ID), which names its content whichever way it came: built here,
loaded, or pulled with any compression.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest
from buildkit_py.errors import (
    AuthenticationRequired,
    ContentError,
    ManifestUnknown,
    PybuildError,
    RegistryError,
    SourceError,
    UsageError,
)
from buildkit_py.graph import ImageOp
from buildkit_py.oci.manifest import Manifest
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.sources.base import Pinned
from buildkit_py.store.images import NewImage, StoredImage, parse_config

if TYPE_CHECKING:
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.platforms import Platform
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.registry.transfer import Progress, ResolvedImage
    from buildkit_py.store import Store

_ID = re.compile(r"(?:sha256:)?[0-9a-f]{7,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What `pull` brought: the stored image, how its name resolved, and whether that was news."""

    image: StoredImage
    resolved: ResolvedImage
    changed: bool


class ImageSource:
    """Finds base images. Thread-safe. `client` is called when a registry is needed first."""

    def __init__(
        self,
        store: Store,
        client: Callable[[], RegistryClient],
        *,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._progress = progress
        self._held: dict[Digest, StoredImage] = {}

    # -------------------------------------------------------------- pinning
    def pin(
        self,
        reference: str,
        platform: Platform,
        *,
        pull: bool = False,
        any_platform: bool = False,
    ) -> Pinned:
        """What a name means for a platform now; manifest and config only. Raises SourceError.

        With `any_platform` (nobody asked for one) a local image of another is used when its
        registry has none, as docker's classic builder does; lint warns of it.
        """
        local = None if pull else self._local(reference, platform)
        if local is not None:
            return _pinned(reference, local)
        try:
            name = parse_reference(reference)
        except UsageError as error:
            raise SourceError(error.message, hint=error.hint) from error
        try:
            resolved = self._resolve(name, platform)
            image = self._record(resolved)
            self._hold(image)
            return _pinned(reference, image, named=resolved.named_digest.digest)
        except (RegistryError, ContentError) as error:
            fallback = None
            if _unreachable(error) or not pull:
                fallback = self._local(reference, platform) if pull else None
                fallback = fallback or (self._local(reference, None) if any_platform else None)
            if fallback is not None:
                return _pinned(reference, fallback)
            raise self._explained(name, platform, error) from error

    def _local(self, reference: str, platform: Platform | None) -> StoredImage | None:
        try:
            found = self._store.images.find(reference, platform)
        except UsageError as error:
            raise SourceError(error.message, hint=error.hint) from error
        except PybuildError as error:
            raise SourceError(f"image {reference}: {error.message}", hint=error.hint) from error
        if found is None and _ID.match(reference):
            # an id means one image, whatever its platform
            found = self._store.images.find(reference)
            if found is not None and reference.removeprefix("sha256:") not in found.id:
                return None
        return found if found is not None and self._hold(found) else None

    def _hold(self, image: StoredImage) -> bool:
        """Keep an image's files while this process runs, whoever removes its names meanwhile.

        False if that has happened already.
        """
        if image.snapshot is not None:
            self._store.db.protect("snapshot", [image.snapshot])
            if self._store.snapshots.find(image.snapshot) is None:
                return False
        self._held[image.id] = image
        return True

    def pin_layout(self, directory: str, reference: str, platform: Platform) -> Pinned:
        """An image of an OCI layout (`:tag`, `@digest` or nothing). Raises SourceError."""
        from buildkit_py.sources.layout import open_layout, origin_of  # noqa: PLC0415

        found = open_layout(directory, reference, platform, self._store.content)
        stored = self._store_image(found.manifest, found.config, origin_of(directory))
        image = self._store.images.add(stored, sync=True)
        self._hold(image)
        shown = f"{origin_of(directory)}{reference}"
        return _pinned(shown, image, layout=directory, named=found.descriptor.digest)

    # -------------------------------------------------------------- files
    def snapshot(self, op: ImageOp) -> int | None:
        """The top snapshot of a pinned image; its layers are fetched when they are opened."""
        found = self._held.get(op.digest) or self._store.images.find(op.digest)
        if found is None:
            raise SourceError(
                f"image {op.reference} ({op.digest}) is no longer in the store",
                hint="it was removed while the build ran: build again",
            )
        return found.snapshot

    def fetch(self, descriptor: Descriptor, origin: str) -> None:
        """Bring one layer's blob into the content store. Raises SourceError, ContentError."""
        from buildkit_py.sources.layout import SCHEME, fetch_from_layout  # noqa: PLC0415

        if origin.startswith(SCHEME):
            fetch_from_layout(Path(origin.removeprefix(SCHEME)), descriptor, self._store.content)
            return
        if origin.startswith("s3:"):
            from buildkit_py.cache.s3 import fetch_blob as fetch_from_bucket  # noqa: PLC0415

            transport = self._client().transport
            fetch_from_bucket(origin, descriptor, self._store.content, transport, os.environ)
            return
        if origin.startswith("gha:"):
            from buildkit_py.cache.gha import fetch_blob as fetch_from_workflow  # noqa: PLC0415

            transport = self._client().transport
            fetch_from_workflow(origin, descriptor, self._store.content, transport, os.environ)
            return
        if not origin:
            raise SourceError(f"layer {descriptor.digest} is not in the store, nor is its origin")
        from buildkit_py.registry.transfer import fetch_blob, no_progress  # noqa: PLC0415

        name = parse_reference(origin, default_tag=None)
        progress = self._progress or no_progress
        try:
            fetch_blob(self._client(), name, descriptor, self._store.content, progress)
        except RegistryError as error:
            raise SourceError(
                f"cannot fetch layer {descriptor.digest} of {name.familiar}: {error.message}",
                hint=error.hint,
            ) from error

    # -------------------------------------------------------------- registry
    def pull(self, reference: str, platform: Platform, progress: Progress | None = None) -> Pulled:
        """Resolve a name at its registry and fetch all layers. Raises RegistryError and kin."""
        from buildkit_py.registry.transfer import fetch_layers, no_progress  # noqa: PLC0415

        name = parse_reference(reference)
        before = set(self._store.images.candidates(name))
        resolved = self._resolve(name, platform)
        fetch_layers(
            self._client(),
            resolved,
            self._store.content,
            progress or self._progress or no_progress,
        )
        image = self._record(resolved)
        return Pulled(image=image, resolved=resolved, changed=image.id not in before)

    def _resolve(self, name: Reference, platform: Platform) -> ResolvedImage:
        from buildkit_py.registry.transfer import resolve  # noqa: PLC0415

        return resolve(self._client(), name, platform, self._store.content)

    def _record(self, resolved: ResolvedImage) -> StoredImage:
        """Keep an image under its name, as if it had been pulled; layers stay lazy."""
        name = resolved.reference
        repository = replace(name, tag=None, digest=None)
        digests = tuple(
            replace(repository, digest=descriptor.digest)
            for descriptor in (resolved.named_digest, resolved.descriptor)
        )
        new = replace(
            self._store_image(resolved.manifest, resolved.config, str(repository)),
            manifest=self._store.content.read(resolved.descriptor.digest),
            manifest_type=resolved.descriptor.media_type,
            digests=tuple(dict.fromkeys(digests)),
        )
        tagged = name.digest is None
        others = self._siblings(name, resolved) if tagged else []
        names = [name] if tagged else []
        return self._store.images.add_all([new, *others], names, sync=True)[0]

    def _siblings(self, name: Reference, resolved: ResolvedImage) -> list[NewImage]:
        """Images of other platforms that the same index put under this name: they keep it."""
        if resolved.index is None:
            return []
        whole = replace(name, tag=None, digest=resolved.index.digest)
        platform = parse_config(resolved.config).platform
        out = []
        for digest, offered in self._store.images.candidates(name).items():
            if offered == platform:
                continue
            image = self._store.images.find(digest)
            if image is not None and whole in image.digests:
                out.append(NewImage(config=image.config_bytes, snapshot=image.snapshot))
        return out

    def _store_image(self, manifest: Manifest, config: bytes, origin: str) -> NewImage:
        """Rows for the layers of an image; nothing is fetched."""
        diff_ids = parse_config(config).diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise ContentError(
                f"image config names {len(diff_ids)} layers, its manifest {len(manifest.layers)}"
            )
        top: int | None = None
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
            top = self._store.snapshots.from_layer(top, layer, Digest(diff_id), origin).id
        return NewImage(config=config, snapshot=top)

    # -------------------------------------------------------------- errors
    def _explained(self, name: Reference, platform: Platform, error: PybuildError) -> SourceError:
        shown, domain = name.familiar, name.domain
        have = sorted(str(item) for item in self._store.images.candidates(name).values())
        local = f"; the local image of that name is for {', '.join(have)}" if have else ""
        other = f"build for what it is for: --platform={have[0]}" if have else None
        match error:
            case ManifestUnknown():
                hint = (
                    error.hint
                    or other
                    or "check the name and the tag, or build or load the image first"
                )
                message = error.message
            case AuthenticationRequired():
                hint = f"the repository may not exist, or may need a login: pybuild login {domain}"
                message = error.message
            case RegistryError() if _unreachable(error):
                hint = other or (
                    f"{shown} is not in the local store: pull, load or import it, or set a mirror"
                )
                message = f"cannot reach the registry of {shown}: {error.message}"
            case _:
                hint = error.hint or ""
                message = error.message
        prefix = "" if shown in message else f"image {shown}: "
        suffix = local if str(platform) not in have else ""
        return SourceError(f"{prefix}{message}{suffix}", hint=hint or None)


def _pinned(
    reference: str,
    image: StoredImage,
    *,
    layout: str | None = None,
    named: Digest | None = None,
) -> Pinned:
    op = ImageOp(
        reference=reference,
        digest=image.id,
        platform=image.config.platform,
        layout=layout,
        named=named or _named(reference, image),
    )
    return Pinned(op=op, config=image.config)


def _named(reference: str, image: StoredImage) -> Digest | None:
    """What a registry calls a local image: by its only index if it came by one, else itself."""
    if _ID.match(reference):
        return None
    own = None if image.manifest is None else image.manifest.digest
    repository = parse_reference(reference).repository
    known = [
        item.digest
        for item in image.digests
        if item.repository == repository and item.digest not in {None, own}
    ]
    return known[0] if len(known) == 1 else own


def _unreachable(error: PybuildError) -> bool:
    from buildkit_py.registry.transport import ConnectionFailed  # noqa: PLC0415

    return isinstance(error, ConnectionFailed)
