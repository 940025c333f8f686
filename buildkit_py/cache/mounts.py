"""Cache mounts that travel: `mounts=true` of `--cache-to` and `--cache-from`.

The contents of `RUN --mount=type=cache` become blobs beside an exported cache, one a directory. On
another machine they fill directories that have never been used there, when a step runs that mounts
them and not before. A directory in use, or one that is there already, is left alone: nothing that
a step is writing to is read or replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.cache.config import CachedMount
from buildkit_py.errors import PybuildError
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit_py.cache.exports import Warn
    from buildkit_py.store.content import ContentStore
    from buildkit_py.store.database import Database

_DESCRIPTION = "cache mount "


class MountLost(PybuildError):
    """The contents of an imported mount, which would have been exported again, are gone."""

    def __init__(self, mount: CachedMount, reason: str) -> None:
        super().__init__(f"{mount.description} was not exported: {reason}")
        self.mount = mount


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPacker:
    """Packs the directories of some mount ids into blobs of the content store."""

    ids: Collection[str]
    database: Database
    content: ContentStore
    warn: Warn

    def pack(self) -> tuple[CachedMount, ...]:
        """Those that nobody uses; of the others a warning tells."""
        found: list[CachedMount] = []
        connection = self.database.connection()
        rows = connection.execute("SELECT id, directory, description FROM cache_mounts")
        for row in rows.fetchall():
            if self.wants(row["description"]) and "." not in row["id"]:
                packed = self._pack(row["id"], row["directory"], row["description"])
                found += [] if packed is None else [packed]
        return tuple(found)

    def wants(self, description: str) -> bool:
        """Whether a mount is one of the build's."""
        return description.removeprefix(_DESCRIPTION) in self.ids

    def _pack(self, name: str, folder: str, description: str) -> CachedMount | None:
        self.database.protect("cache-mount", [name])
        lock = FileLock(self.database.paths.lock(f"cache-{name}"))
        directory = self.database.paths.cache_mounts / folder
        if not lock.try_acquire():
            self.warn(f"{description} was not exported: another build is using it")
            return None
        try:
            if not directory.is_dir():
                return None
            status = directory.stat()
            return CachedMount(
                name=name,
                blob=_pack(directory, self.content),
                description=description,
                owner=(status.st_uid, status.st_gid, status.st_mode & 0o7777),
            )
        except PybuildError as error:
            self.warn(f"{description} was not exported: {error.message}")
            return None
        finally:
            lock.release()


def _pack(directory: Path, content: ContentStore) -> Descriptor:
    from buildkit_py.layers.compression import Compression, open_compressor  # noqa: PLC0415
    from buildkit_py.layers.diff import write_layer  # noqa: PLC0415

    with content.writer() as writer:
        with open_compressor(writer, Compression(kind="gzip")) as compressor:
            write_layer(directory, compressor)
        return writer.commit(media_type=MediaType.OCI_LAYER_GZIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSource:
    """The mounts of imported caches, by name. `mounts` reads the documents when first asked."""

    mounts: Callable[[], Collection[CachedMount]]
    database: Database
    content: ContentStore
    fetch: Callable[[Descriptor, str], None]
    warn: Warn

    def __call__(self, name: str) -> Path | None:
        """A new directory with the contents of a mount; None if no cache has it."""
        for mount in self.mounts():
            if mount.name != name:
                continue
            try:
                self.fetch(mount.blob, mount.origin)
                return self._unpack(mount)
            except PybuildError as error:
                self.warn(f"cannot import the {mount.description}: {error.message}")
        return None

    def ready(self, mount: CachedMount) -> None:
        """Have the blob of a mount that is exported again. Raises MountLost."""
        if not mount.origin:
            return
        try:
            self.fetch(mount.blob, mount.origin)
        except PybuildError as error:
            raise MountLost(mount, error.message) from error

    def _unpack(self, mount: CachedMount) -> Path:
        from buildkit_py.layers.apply import apply_layer  # noqa: PLC0415
        from buildkit_py.layers.compression import open_decompressor  # noqa: PLC0415
        from buildkit_py.store.trash import remove_tree  # noqa: PLC0415

        folder = self.database.scratch("c")
        with explain_os_errors("cannot write to the store"):
            folder.mkdir(mode=0o755)
        try:
            with (
                self.content.open(mount.blob.digest) as file,
                open_decompressor(file) as stream,
                explain_os_errors("cannot write to the store"),
            ):
                apply_layer(stream, folder)
                if mount.owner is not None:
                    os.chown(folder, *mount.owner[:2])
                    folder.chmod(mount.owner[2])
        except BaseException:
            remove_tree(folder)
            raise
        return folder
