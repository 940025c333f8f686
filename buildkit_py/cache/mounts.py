"""Cache mounts that travel: `mounts=true` of `--cache-to` and `--cache-from`.

The contents of `RUN --mount=type=cache` become blobs beside an exported cache, one a directory,
and fill the directories of another machine that have never been used there. A directory in use,
or one that is there already, is left alone: nothing that a step is writing to is read or replaced.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from buildkit_py.cache.config import CachedMount
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit_py.store.content import ContentStore
    from buildkit_py.store.database import Database

_DESCRIPTION = "cache mount "


def export_mounts(
    ids: Collection[str], database: Database, content: ContentStore
) -> tuple[CachedMount, ...]:
    """Pack the directories of some mount ids into blobs of the content store."""
    found: list[CachedMount] = []
    wanted = {_DESCRIPTION + item for item in ids}
    rows = database.connection().execute("SELECT id, directory, description FROM cache_mounts")
    for row in rows.fetchall():
        if row["description"] not in wanted or "." in row["id"]:
            continue
        database.protect("cache-mount", [row["id"]])
        lock = FileLock(database.paths.lock(f"cache-{row['id']}"))
        directory = database.paths.cache_mounts / row["directory"]
        if not lock.try_acquire():
            continue
        try:
            if directory.is_dir():
                blob = _pack(directory, content)
                found.append(
                    CachedMount(name=row["id"], blob=blob, description=row["description"])
                )
        finally:
            lock.release()
    return tuple(found)


def _pack(directory: Path, content: ContentStore) -> Descriptor:
    from buildkit_py.layers.compression import Compression, open_compressor  # noqa: PLC0415
    from buildkit_py.layers.diff import write_layer  # noqa: PLC0415

    with content.writer() as writer:
        with open_compressor(writer, Compression(kind="gzip")) as compressor:
            write_layer(directory, compressor)
        return writer.commit(media_type=MediaType.OCI_LAYER_GZIP)


def import_mounts(
    mounts: Sequence[CachedMount],
    ids: Collection[str],
    database: Database,
    content: ContentStore,
    fetch: Callable[[Descriptor], None],
) -> int:
    """Fill directories that have never been used here; says how many. Raises PybuildError."""
    wanted = {_DESCRIPTION + item for item in ids}
    done = 0
    for mount in mounts:
        if mount.description in wanted and not _known(database, mount.name):
            with FileLock(database.paths.lock(f"cache-{mount.name}")):
                if not _known(database, mount.name):
                    fetch(mount.blob)
                    _unpack(mount, database, content)
                    done += 1
    return done


def _known(database: Database, name: str) -> bool:
    found = database.connection().execute("SELECT 1 FROM cache_mounts WHERE id = ?", (name,))
    return found.fetchone() is not None


def _unpack(mount: CachedMount, database: Database, content: ContentStore) -> None:
    from buildkit_py.layers.apply import apply_layer  # noqa: PLC0415
    from buildkit_py.layers.compression import open_decompressor  # noqa: PLC0415

    folder = database.scratch("c")
    with explain_os_errors("cannot write to the store"):
        folder.mkdir(mode=0o755)
    with content.open(mount.blob.digest) as file, open_decompressor(file) as stream:
        apply_layer(stream, folder)
    chosen = secrets.token_hex(6)
    now = time.time()
    database.protect("cache-mount", [mount.name])
    with database.transaction() as connection, explain_os_errors("cannot write to the store"):
        os.rename(folder, database.paths.cache_mounts / chosen)
        connection.execute(
            "INSERT INTO cache_mounts (id, directory, description, created, last_used)"
            " VALUES (?, ?, ?, ?, ?)",
            (mount.name, chosen, mount.description, now, now),
        )
