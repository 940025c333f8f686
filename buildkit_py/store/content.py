"""Blobs by digest: verified, written atomically, idempotent.

A blob's file is complete before its row exists, and a row is what makes it exist. Whoever writes a
blob holds it by lease until the process ends, so a caller has time to refer to it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from buildkit_py.digest import Digest, hex_of, parse_digest
from buildkit_py.errors import BlobNotFound, ContentError, DigestMismatch, SizeMismatch
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.store.database import Database
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.partial import Partial, open_partial
from buildkit_py.store.paths import StatePaths

READ_SIZE = 1 << 20
SMALL_BLOB = 8 << 20  # manifests and configs; larger ones are refused by `read`


class ContentStore:
    """The blobs of a state root. Any thread may use it."""

    def __init__(
        self, paths: StatePaths, db: Database, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._paths = paths
        self._db = db
        self._clock = clock

    # -------------------------------------------------------------- reading
    def has(self, digest: Digest) -> bool:
        """Whether the blob is here. An answer of True holds while this process runs."""
        row = self._row(digest)
        if row is None:
            return False
        if self._db.protect("blob", [digest]) and self._row(digest) is None:
            return False
        if self._paths.blob(digest).exists():
            return True
        self._forget(digest)
        return False

    def _row(self, digest: Digest) -> tuple[int, str] | None:
        with self._db.explained():
            row = (
                self._db.connection()
                .execute("SELECT size, media_type FROM blobs WHERE digest = ?", (digest,))
                .fetchone()
            )
        return None if row is None else (row["size"], row["media_type"])

    def _forget(self, digest: Digest) -> None:
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM blobs WHERE digest = ?", (digest,))

    def size(self, digest: Digest) -> int:
        """The blob's length. Raises BlobNotFound."""
        return self._known(digest)[0]

    def _known(self, digest: Digest) -> tuple[int, str]:
        row = self._row(digest)
        if row is None:
            raise BlobNotFound(f"no blob {digest} in the store")
        return row

    def descriptor(self, digest: Digest) -> Descriptor:
        """Digest, size and media type as it was stored. Raises BlobNotFound."""
        size, media_type = self._known(digest)
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def path(self, digest: Digest) -> Path:
        """The blob's file. Raises BlobNotFound; SizeMismatch for a file cut short."""
        size, _ = self._known(digest)
        path = self._paths.blob(digest)
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            self._forget(digest)
            raise BlobNotFound(f"no blob {digest} in the store") from None
        if found != size:
            raise SizeMismatch(f"blob {digest} has {found} bytes on disk, not {size}")
        return path

    def open(self, digest: Digest) -> BinaryIO:
        """Open for reading, not verified: readers of layers check the digest at the end."""
        path = self.path(digest)
        with explain_os_errors(f"cannot read blob {digest}"):
            return path.open("rb")

    def read(self, digest: Digest, limit: int = SMALL_BLOB) -> bytes:
        """A small blob, verified. Raises ContentError when it is longer than `limit`."""
        if self.size(digest) > limit:
            raise ContentError(f"blob {digest} is too large for a document")
        with self.open(digest) as file:
            data = file.read()
        _verify(digest, data)
        return data

    # -------------------------------------------------------------- writing
    def writer(self, expected: Descriptor | None = None, *, sync: bool = False) -> BlobWriter:
        """A context manager to write one blob through.

        With `expected`, `commit` raises DigestMismatch or SizeMismatch for anything else. `sync`
        flushes the file: for what cannot be made again cheaply (pulled and loaded blobs).
        """
        return BlobWriter(self, expected, sync=sync)

    def resuming_writer(self, expected: Descriptor) -> BlobWriter:
        """As `writer`, but what an earlier process had of a download is there: `size` bytes.

        When writing fails they stay for the next try, unless they were not the blob's.
        """
        return BlobWriter(self, expected, sync=True, partial=open_partial(self._paths, expected))

    def put(self, data: bytes, media_type: str, *, sync: bool = False) -> Descriptor:
        """Store some bytes."""
        with self.writer(sync=sync) as writer:
            writer.write(data)
            return writer.commit(media_type=media_type)

    def put_stream(
        self, chunks: Iterable[bytes], expected: Descriptor | None = None, *, sync: bool = False
    ) -> Descriptor:
        """Store bytes that come in pieces."""
        with self.writer(expected, sync=sync) as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()

    def all_digests(self) -> list[Digest]:
        """Every blob in the store."""
        with self._db.explained():
            rows = self._db.connection().execute("SELECT digest FROM blobs ORDER BY digest")
            return [Digest(row["digest"]) for row in rows]

    def adopt(self, source: Path, descriptor: Descriptor, *, synced: bool) -> None:
        """Move a complete, verified file in and make it exist."""
        target = self._paths.blob(descriptor.digest)
        now = self._clock()
        lease = self._db.lease.name
        with self._db.transaction() as connection:
            with explain_os_errors(f"cannot store blob {descriptor.digest}"):
                target.parent.mkdir(exist_ok=True)
                source.rename(target)  # replacing an equal file is harmless
            connection.execute(
                "INSERT INTO blobs (digest, size, media_type, synced, created, last_used)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET"
                " last_used = excluded.last_used, synced = excluded.synced,"
                " media_type = CASE media_type WHEN '' THEN excluded.media_type"
                " ELSE media_type END",
                (
                    descriptor.digest,
                    descriptor.size,
                    descriptor.media_type,
                    int(synced),
                    now,
                    now,
                ),
            )
            connection.execute(
                "INSERT OR IGNORE INTO leases (lease, kind, item) VALUES (?, 'blob', ?)",
                (lease, descriptor.digest),
            )

    def scratch(self) -> Path:
        """A fresh name for a file that may become a blob."""
        return self._db.scratch("blob")


class BlobWriter:
    """Bytes on their way into the store; what is not committed disappears."""

    def __init__(
        self,
        store: ContentStore,
        expected: Descriptor | None,
        *,
        sync: bool,
        partial: Partial | None = None,
    ) -> None:
        self._store = store
        self._expected = expected
        self._sync = sync
        self.path = partial.path if partial else store.scratch()
        self._kept = partial is not None
        self._algorithm = expected.digest.partition(":")[0] if expected else "sha256"
        self._hash = hashlib.new(self._algorithm)
        self._committed = False
        self.size = 0
        with explain_os_errors("cannot write to the store"):
            self._file = partial.file if partial else self.path.open("xb")
            if partial:
                while data := self._file.read(READ_SIZE):
                    self._hash.update(data)
                    self.size += len(data)

    def write(self, data: bytes | memoryview) -> int:
        """Append some bytes. Raises SizeMismatch as soon as there are too many."""
        self.size += len(data)
        if self._expected is not None and self.size > self._expected.size:
            raise SizeMismatch(
                f"blob {self._expected.digest} is longer than {self._expected.size} bytes"
            )
        self._hash.update(data)
        with explain_os_errors("cannot write to the store"):
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Have in the file what was written so far."""
        with explain_os_errors("cannot write to the store"):
            self._file.flush()

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return Digest(f"{self._algorithm}:{self._hash.hexdigest()}")

    def commit(self, *, media_type: str = "") -> Descriptor:
        """Check and keep what was written. Raises DigestMismatch, SizeMismatch."""
        wanted = self._expected
        if wanted is not None and self.size != wanted.size:
            raise SizeMismatch(f"blob {wanted.digest} has {self.size} bytes, not {wanted.size}")
        if wanted is not None and self.digest != wanted.digest:
            raise DigestMismatch(f"blob {wanted.digest} has digest {self.digest}")
        with explain_os_errors("cannot write to the store"):
            self._file.flush()
            if self._sync:
                os.fdatasync(self._file.fileno())
        found = Descriptor(
            media_type=media_type or (wanted.media_type if wanted else ""),
            digest=self.digest,
            size=self.size,
        )
        self._store.adopt(self.path, found, synced=self._sync)
        self._committed = True
        self._file.close()  # a partial download is locked until it has its new name
        return found

    def discard(self) -> None:
        """Keep nothing of what was written for another try."""
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._committed:
            return
        if not self._kept or isinstance(error, ContentError) or not self.size:
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # closing flushes, which on a full disk fails once more
            self._file.close()


def _verify(digest: Digest, data: bytes) -> None:
    algorithm = parse_digest(digest).partition(":")[0]
    if hashlib.new(algorithm, data).hexdigest() != hex_of(digest):
        raise DigestMismatch(f"blob {digest} is damaged: its bytes have another digest")
