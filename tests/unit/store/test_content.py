from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_py.digest import sha256
from buildkit_py.errors import BlobNotFound, ContentError, DigestMismatch, SizeMismatch, StoreError
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.store import Store, open_store


def expected(data: bytes, size: int | None = None) -> Descriptor:
    return Descriptor(
        media_type="x/y", digest=sha256(data), size=len(data) if size is None else size
    )


def test_a_blob_is_there_after_put_and_gone_with_its_file(store: Store) -> None:
    descriptor = store.content.put(b"hello", "text/plain")
    assert store.content.has(descriptor.digest)
    assert store.content.read(descriptor.digest) == b"hello"
    assert store.content.descriptor(descriptor.digest) == descriptor
    store.content.path(descriptor.digest).unlink()
    assert not store.content.has(descriptor.digest)
    with pytest.raises(BlobNotFound):
        store.content.path(descriptor.digest)


def test_wrong_bytes_are_refused_and_leave_nothing(store: Store) -> None:
    with pytest.raises(DigestMismatch):
        store.content.put_stream([b"wrong"], expected(b"right"))
    assert store.content.all_digests() == []
    assert list(store.db.lease.folder.iterdir()) == []


@pytest.mark.parametrize("data", [b"short", b"much too long for it"])
def test_wrong_length_is_refused(store: Store, data: bytes) -> None:
    with pytest.raises(SizeMismatch):
        store.content.put_stream([data], expected(data, size=10))
    assert store.content.all_digests() == []


def test_a_blob_cut_short_on_disk_is_noticed(store: Store) -> None:
    descriptor = store.content.put(b"hello", "text/plain")
    os.truncate(store.content.path(descriptor.digest), 2)
    with pytest.raises(SizeMismatch):
        store.content.open(descriptor.digest)


def test_a_blob_with_flipped_bytes_is_noticed_when_read(store: Store) -> None:
    descriptor = store.content.put(b"hello", "text/plain")
    store.content.path(descriptor.digest).write_bytes(b"hellO")
    with pytest.raises(DigestMismatch):
        store.content.read(descriptor.digest)


def test_a_blob_whose_file_vanished_counts_as_absent(store: Store) -> None:
    descriptor = store.content.put(b"hello", "text/plain")
    store.content.path(descriptor.digest).unlink()
    assert not store.content.has(descriptor.digest)
    again = store.content.put(b"hello", "text/plain")
    assert store.content.read(again.digest) == b"hello"


def test_read_refuses_what_is_too_large_for_a_document(store: Store) -> None:
    descriptor = store.content.put(b"x" * 100, "text/plain")
    with pytest.raises(ContentError, match="too large"):
        store.content.read(descriptor.digest, limit=99)


def test_a_root_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="not a directory"), open_store(tmp_path / "file" / "x"):
        pass


def test_a_foreign_database_is_one_clear_error(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    for name in ("state.db-wal", "state.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "state.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="not a database"), open_store(tmp_path):
        pass


def test_a_root_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.db.connection().execute("PRAGMA user_version=9999")
    with pytest.raises(StoreError, match="newer version"), open_store(tmp_path):
        pass


def test_a_failed_transaction_leaves_no_trace(store: Store) -> None:
    class Stop(Exception):
        pass

    def fail() -> None:
        with store.db.transaction() as connection:
            connection.execute("INSERT INTO meta VALUES ('a', 'b')")
            with store.db.transaction() as inner:  # joins the outer one
                inner.execute("INSERT INTO meta VALUES ('c', 'd')")
            raise Stop

    with pytest.raises(Stop):
        fail()
    rows = store.db.connection().execute("SELECT * FROM meta WHERE key IN ('a', 'c')").fetchall()
    assert rows == []
