"""Layers between their two forms: a directory in overlay's upper format, and a tar blob.

A layer's tar is made (or read) at most once to learn its diff_id. Compressed blobs are made when
a layer leaves, one for each variant asked for, and remembered. A layer that came as a blob keeps
it: the tar made from its directory may differ in bytes, and only the original has the digest
that manifests name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest
from buildkit_py.errors import (
    BlobNotFound,
    CorruptArchive,
    DigestMismatch,
    PybuildError,
    StoreError,
)
from buildkit_py.layers.hashing import HashingSource, WatchedSink
from buildkit_py.oci.descriptor import (
    Descriptor,
    MediaType,
    descriptor_from_json,
    descriptor_to_json,
)
from buildkit_py.store.content import READ_SIZE, ContentStore
from buildkit_py.store.database import Database
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.growing import Follow, GrowingSink
from buildkit_py.store.layer import Layer, LayerBlob, Variant
from buildkit_py.store.locks import FileLock
from buildkit_py.store.lost import LostLayers
from buildkit_py.store.paths import StatePaths
from buildkit_py.store.trash import discard, remove_tree, tree_size

if TYPE_CHECKING:
    from buildkit_py.layers.tar import Sink

Fetch = Callable[[Descriptor, str], None]
"""Puts the blob of a descriptor, which the given origin has, into the content store."""

__all__ = ["Fetch", "Layer", "LayerBlob", "LayerStore", "Variant", "copy_root"]

_FETCHERS = 3
_UNSET_MODE = 0o1701  # stands for "the layer's tar has no entry for the root"
_MEDIA_TYPES = {
    "uncompressed": MediaType.OCI_LAYER,
    "gzip": MediaType.OCI_LAYER_GZIP,
    "estargz": MediaType.OCI_LAYER_GZIP,
    "zstd": MediaType.OCI_LAYER_ZSTD,
}


class LayerStore:
    """Unpacks, measures, hashes and compresses layers. Snapshots use it."""

    def __init__(
        self,
        paths: StatePaths,
        db: Database,
        content: ContentStore,
        *,
        fetch: Fetch | None = None,
    ) -> None:
        self._paths = paths
        self._db = db
        self._content = content
        self.fetch = fetch
        self.warn: Callable[[str], None] | None = None
        self.similar: dict[Path, Path | None] = {}  # of COPY's layers: the earlier result's
        self.lost = LostLayers()

    def _lock(self, layer: Layer) -> FileLock:
        return FileLock(self._paths.lock(f"layer-{layer.id}"))

    # -------------------------------------------------------------- unpacking
    def unpack(self, stack: Sequence[Layer]) -> None:
        """Make sure that all directories of a stack (lowest first) are there.

        Blobs are fetched side by side. They are unpacked from the lowest on: a tar may name files
        of the layers below through links, and takes over the root directory that they have.
        """
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - not in cached builds

        missing = [index for index, layer in enumerate(stack) if not layer.unpacked]
        workers = min(_FETCHERS, len(missing)) or 1
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="fetch") as pool:
            fetched = {index: pool.submit(self._fetch_for, stack[index]) for index in missing}
            try:
                for index, job in fetched.items():
                    job.result()
                    self._unpack_one(stack[index], stack[:index])
            finally:
                for job in fetched.values():
                    job.cancel()

    def _fetch_for(self, layer: Layer) -> None:
        with self._lock(layer):
            if not self._is_unpacked(layer):
                self._ensure_original(layer)

    def _unpack_one(self, layer: Layer, below: Sequence[Layer]) -> None:
        with self._lock(layer):
            if self._is_unpacked(layer):
                return
            self._ensure_original(layer)
            folder = self._db.scratch("u")
            try:
                with explain_os_errors("cannot write to the store"):
                    folder.mkdir(mode=0o711)
                size = self._apply(layer, folder / "fs", below)
                with explain_os_errors("cannot write to the store"):
                    discard(self._paths, layer.directory.parent)  # torn by a power cut, perhaps
                    folder.rename(layer.directory.parent)
            except BaseException as error:
                remove_tree(folder)
                self.lost.note(layer, error)
                raise
            with self._db.transaction() as connection:
                connection.execute(
                    "UPDATE layers SET unpacked = 1, size = ?, synced = 0 WHERE id = ?",
                    (size, layer.id),
                )

    def _is_unpacked(self, layer: Layer) -> bool:
        with self._db.explained():
            row = (
                self._db.connection()
                .execute("SELECT unpacked FROM layers WHERE id = ?", (layer.id,))
                .fetchone()
            )
        if row is None:
            raise StoreError(f"layer {layer.id} is not in the store any more")
        return bool(row["unpacked"])

    def _apply(self, layer: Layer, target: Path, below: Sequence[Layer]) -> int:
        from buildkit_py.layers.apply import apply_layer  # noqa: PLC0415
        from buildkit_py.layers.compression import open_decompressor  # noqa: PLC0415

        assert layer.blob is not None
        lowers = [item.directory for item in below]
        with explain_os_errors("cannot write to the store"):
            target.mkdir()
            target.chmod(_UNSET_MODE)
        with (
            self._content.open(layer.blob.digest) as file,
            open_decompressor(file) as stream,
            explain_os_errors(f"cannot unpack layer {layer.blob.digest}"),
        ):
            try:
                applied = apply_layer(stream, target, lowers=lowers)
            except CorruptArchive as error:
                text = f"cannot unpack layer {layer.blob.digest}: {error.message}"
                raise CorruptArchive(text, hint=error.hint) from error
            if target.stat().st_mode & 0o7777 == _UNSET_MODE:
                _inherit_root(target, lowers[-1] if lowers else None)
        if layer.diff_id is not None and applied.diff_id != layer.diff_id:
            raise DigestMismatch(
                f"layer {layer.blob.digest} unpacks to {applied.diff_id}, not to {layer.diff_id}"
            )
        if self.warn is not None and (applied.squashed_owners or applied.skipped_devices):
            from buildkit_py.layers.attributes import lacks  # noqa: PLC0415

            for text in lacks(applied.squashed_owners, applied.skipped_devices):
                self.warn(text)
        return tree_size(target)

    def _ensure_original(self, layer: Layer) -> None:
        if layer.blob is None:
            raise StoreError(f"layer {layer.id} has neither files nor a blob")
        if self._content.has(layer.blob.digest):
            return
        if self.fetch is None:
            raise BlobNotFound(
                f"layer {layer.blob.digest} is not in the store",
                hint=f"pull the image again from {layer.origin}" if layer.origin else None,
            )
        try:
            self.fetch(layer.blob, layer.origin)
        except PybuildError as error:
            self.lost.note(layer, error)
            raise

    # -------------------------------------------------------------- measuring
    def measure(self, layer: Layer) -> int:
        """Bytes of the layer's files, remembered."""
        with explain_os_errors(f"cannot read layer {layer.id}"):
            size = tree_size(layer.directory)
        self._remember_size(layer, size)
        return size

    def _remember_size(self, layer: Layer, size: int) -> None:
        with self._db.transaction() as connection:
            connection.execute("UPDATE layers SET size = ? WHERE id = ?", (size, layer.id))

    def diff_id(self, layer: Layer) -> Digest:
        """Digest of the uncompressed tar, remembered."""
        return self._describe(layer)[0]

    def _describe(self, layer: Layer) -> tuple[Digest, int]:
        """diff_id and length of the uncompressed tar."""
        known = self._known(layer)
        if known is not None:
            return known
        with self._lock(layer):
            known = self._known(layer)
            if known is not None:
                return known
            tar = self._write_tar(layer, None, None)
            self._remember(layer, tar)
            return tar

    def _known(self, layer: Layer) -> tuple[Digest, int] | None:
        with self._db.explained():
            row = (
                self._db.connection()
                .execute("SELECT diff_id, tar_size FROM layers WHERE id = ?", (layer.id,))
                .fetchone()
            )
        if row is None or row["diff_id"] is None or row["tar_size"] is None:
            return None
        return Digest(row["diff_id"]), int(row["tar_size"])

    def _remember(self, layer: Layer, tar: tuple[Digest, int]) -> None:
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE layers SET diff_id = COALESCE(diff_id, ?), tar_size = ? WHERE id = ?",
                (*tar, layer.id),
            )

    def _write_tar(
        self, layer: Layer, out: Sink | None, clamp_mtime: int | None
    ) -> tuple[Digest, int]:
        """The uncompressed tar: of the original blob where there is one, else of the files."""
        from buildkit_py.layers.compression import open_decompressor  # noqa: PLC0415
        from buildkit_py.layers.diff import write_layer  # noqa: PLC0415
        from buildkit_py.layers.members import members_for  # noqa: PLC0415

        if layer.blob is None or clamp_mtime is not None:
            if layer.settle is not None:
                limits = (layer.settle, clamp_mtime)
                clamp_mtime = min(limit for limit in limits if limit is not None)
            with (
                explain_os_errors(f"cannot read layer {layer.id}"),
                members_for(layer.directory, self.similar, clamp_mtime) as known,
            ):
                written = write_layer(layer.directory, out, clamp_mtime=clamp_mtime, members=known)
            self._remember_size(layer, written.content_size)
            return written.diff_id, written.size
        self._ensure_original(layer)
        with self._content.open(layer.blob.digest) as file, open_decompressor(file) as stream:
            source = HashingSource(stream)
            while chunk := source.read(READ_SIZE):
                if out is not None:
                    out.write(chunk)
        if layer.diff_id is not None and source.digest != layer.diff_id:
            raise DigestMismatch(f"layer {layer.blob.digest} is damaged: its contents differ")
        return source.digest, source.size

    def blob(
        self,
        layer: Layer,
        variant: Variant,
        watch: Callable[[], None] | None = None,
        follow: Follow | None = None,
    ) -> LayerBlob:
        """Descriptor and diff_id in a given form; makes the compressed blob if need be.

        `follow` gets a large blob that is being made, to read it meanwhile.
        """
        if layer.blob is not None and not variant.rewrite:
            if not variant.force:
                assert layer.diff_id is not None
                return LayerBlob(descriptor=layer.blob, diff_id=layer.diff_id, origin=layer.origin)
            variant = replace(variant, clamp_mtime=None)
        if variant.compression == "uncompressed" and variant.clamp_mtime is None:
            diff_id, size = self._describe(layer)
            plain = Descriptor(media_type=MediaType.OCI_LAYER, digest=diff_id, size=size)
            return LayerBlob(descriptor=plain, diff_id=diff_id)
        stored = self._stored(layer, variant)
        if stored is not None and self._content.has(stored.descriptor.digest):
            return stored
        with self._lock(layer):
            stored = self._stored(layer, variant)
            if stored is not None and self._content.has(stored.descriptor.digest):
                return stored
            return self._make_blob(layer, variant, watch, follow)

    def _stored(self, layer: Layer, variant: Variant) -> LayerBlob | None:
        with self._db.explained():
            row = (
                self._db.connection()
                .execute(
                    "SELECT descriptor, diff_id FROM layer_blobs WHERE layer = ? AND variant = ?",
                    (layer.id, variant.key),
                )
                .fetchone()
            )
        if row is None:
            return None
        descriptor = descriptor_from_json(json.loads(row["descriptor"]))
        return LayerBlob(descriptor=descriptor, diff_id=Digest(row["diff_id"]))

    def _make_blob(
        self,
        layer: Layer,
        variant: Variant,
        watch: Callable[[], None] | None,
        follow: Follow | None,
    ) -> LayerBlob:
        from buildkit_py.layers.compression import Compression, open_compressor  # noqa: PLC0415

        with (
            self._content.writer() as writer,
            GrowingSink(writer, follow) as growing,
        ):
            compression = Compression(kind=variant.compression, level=variant.level)
            with open_compressor(growing, compression) as compressor:
                out = compressor if watch is None else WatchedSink(compressor, watch)
                tar = self._write_tar(layer, out, variant.clamp_mtime)
            growing.end()
            annotations = getattr(compressor, "annotations", {})
            made = writer.commit(media_type=_MEDIA_TYPES[variant.compression])
        if variant.clamp_mtime is None:
            self._remember(layer, tar)
        descriptor = Descriptor(
            media_type=made.media_type,
            digest=made.digest,
            size=made.size,
            annotations=dict(annotations),
        )
        diff_id = tar[0]
        if variant.compression == "estargz":  # its table of contents is one more entry of the tar
            diff_id = Digest(getattr(compressor, "diff_id", diff_id))
        with self._db.transaction() as connection:
            connection.execute(
                "REPLACE INTO layer_blobs (layer, variant, descriptor, diff_id)"
                " VALUES (?, ?, ?, ?)",
                (layer.id, variant.key, json.dumps(descriptor_to_json(descriptor)), diff_id),
            )
        return LayerBlob(descriptor=descriptor, diff_id=diff_id)

    def ensure_blob(self, layer: Layer, blob: LayerBlob) -> None:
        """Have a blob that `blob` named in the content store."""
        if self._content.has(blob.descriptor.digest):
            return
        if layer.blob is not None and layer.blob.digest == blob.descriptor.digest:
            self._ensure_original(layer)
            return
        with self._content.writer(blob.descriptor) as writer:
            self._write_tar(layer, writer, None)
            writer.commit(media_type=blob.descriptor.media_type)

    def copy_blob(self, layer: Layer, blob: LayerBlob, out: Sink) -> None:
        """Write a blob's bytes, verified. Uncompressed tars need not be stored for that."""
        plain = blob.descriptor.digest == blob.diff_id and layer.blob is None
        if plain and not self._content.has(blob.descriptor.digest):
            found, _ = self._write_tar(layer, out, None)
        else:
            self.ensure_blob(layer, blob)
            with self._content.open(blob.descriptor.digest) as file:
                source = HashingSource(file)
                while chunk := source.read(READ_SIZE):
                    out.write(chunk)
            found = source.digest
        if found != blob.descriptor.digest:
            raise DigestMismatch(f"layer {blob.descriptor.digest} is damaged")


def _inherit_root(target: Path, below: Path | None) -> None:
    if below is None:
        target.chmod(0o755)
        return
    status = below.stat()
    with suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def copy_root(source: Path, target: Path) -> None:
    """Give a new layer's root the owner and time that the stack's root has.

    Its mode stays 0755, as with docker's snapshots: the `./` entries of many base image tars have
    the mode of some temporary directory, and no user but root could run anything.
    """
    status = source.stat()
    with suppress(PermissionError):
        os.chown(target, status.st_uid, status.st_gid)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
