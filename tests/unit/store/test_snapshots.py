from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.digest import Digest, sha256
from buildkit_py.errors import BlobNotFound, CorruptArchive, DigestMismatch, StoreError
from buildkit_py.layers.tree import MergedTree
from buildkit_py.oci.config import chain_id
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.store import Store, open_store
from buildkit_py.store.layer import Variant
from buildkit_py.store.snapshot import Snapshot
from tests.unit.store.samples import layer_tar

Grow = Callable[..., int]


def blob_of(store: Store, tar: bytes) -> tuple[Descriptor, Digest]:
    data = gzip.compress(tar, mtime=0)
    return store.content.put(data, MediaType.OCI_LAYER_GZIP), sha256(tar)


def test_what_was_committed_is_found_with_its_parents(store: Store, grow: Grow) -> None:
    base = grow(None, {"a": "1"})
    top = grow(base, {"b": "2"}, description="RUN something")
    assert [item.id for item in store.snapshots.chain(top)] == [base, top]
    assert store.snapshots.get(top).description == "RUN something"
    tree = MergedTree(store.snapshots.directories(top))
    assert tree.listdir("/") == [b"a", b"b"]


def test_a_commit_gives_what_the_store_would_give(store: Store) -> None:
    made: list[Snapshot] = []
    for number in range(2):
        with store.snapshots.prepare(made[-1].id if made else None) as active:
            if not number:
                (active.upper / "file").write_text("x")
            made.append(store.snapshots.commit(active, description="RUN x", settle=number or None))
    assert [store.snapshots.get(item.id) for item in made] == made


def test_what_was_not_committed_disappears(store: Store) -> None:
    with store.snapshots.prepare(None) as active:
        (active.upper / "half").write_text("made")
    assert list(store.paths.snapshots.iterdir()) == []
    assert list(store.db.lease.folder.iterdir()) == []


def test_an_unknown_snapshot_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="snapshot 77"):
        store.snapshots.get(77)
    with pytest.raises(StoreError, match="snapshot 77"):
        store.snapshots.directories(77)


def test_the_root_of_a_new_layer_is_open_to_all_as_with_docker(store: Store, grow: Grow) -> None:
    base = grow(None, {})
    below = store.snapshots.get(base).directory
    below.chmod(0o700)
    os.utime(below, (5, 5))
    with store.snapshots.prepare(base) as active:
        assert active.upper.stat().st_mode & 0o7777 == 0o755
        assert active.upper.stat().st_mtime == 5


def test_a_layer_blob_is_unpacked_when_its_directory_is_wanted(store: Store) -> None:
    descriptor, diff_id = blob_of(store, layer_tar({"etc/motd": b"hello"}))
    snapshot = store.snapshots.from_layer(None, descriptor, diff_id)
    assert not snapshot.unpacked
    (directory,) = store.snapshots.directories(snapshot.id)
    assert (directory / "etc" / "motd").read_bytes() == b"hello"
    assert store.snapshots.get(snapshot.id).unpacked


def test_the_same_layer_on_the_same_stack_is_one_snapshot(store: Store) -> None:
    first, first_diff = blob_of(store, layer_tar({"a": b"1"}))
    second, second_diff = blob_of(store, layer_tar({"b": b"2"}))
    base = store.snapshots.from_layer(None, first, first_diff)
    top = store.snapshots.from_layer(base.id, second, second_diff)
    assert store.snapshots.from_layer(base.id, second, second_diff).id == top.id
    assert store.snapshots.chain_id(top.id) == chain_id([first_diff, second_diff])
    assert store.snapshots.from_layer(None, second, second_diff).id != top.id


def test_a_built_stack_is_found_by_its_chain_id(store: Store, grow: Grow) -> None:
    built = grow(None, {"a": "1"})
    store.snapshots.chain_id(built)
    blob = store.snapshots.layer_blob(built, Variant(compression="gzip"))
    found = store.snapshots.from_layer(None, blob, store.snapshots.diff_id(built))
    assert found.id == built


def test_a_layer_whose_contents_are_not_those_promised_is_refused(store: Store) -> None:
    descriptor, _ = blob_of(store, layer_tar({"a": b"1"}))
    snapshot = store.snapshots.from_layer(None, descriptor, sha256(b"something else"))
    with pytest.raises(DigestMismatch, match="unpacks to"):
        store.snapshots.directories(snapshot.id)
    assert list(store.paths.snapshots.iterdir()) == []


@pytest.mark.parametrize("cut", [30, 600])
def test_a_truncated_layer_is_refused_and_leaves_nothing(store: Store, cut: int) -> None:
    tar = layer_tar({"a": os.urandom(3000)})
    broken = gzip.compress(tar, mtime=0)[:-cut]
    descriptor = store.content.put(broken, MediaType.OCI_LAYER_GZIP)
    snapshot = store.snapshots.from_layer(None, descriptor, sha256(tar))
    with pytest.raises(CorruptArchive):
        store.snapshots.directories(snapshot.id)
    assert list(store.paths.snapshots.iterdir()) == []
    assert not store.snapshots.get(snapshot.id).unpacked


def test_blobs_that_are_missing_are_fetched_from_their_origin(state_root: Path) -> None:
    tar = layer_tar({"a": b"far away"})
    data = gzip.compress(tar, mtime=0)
    asked: list[tuple[Digest, str]] = []

    def fetch(descriptor: Descriptor, origin: str) -> None:
        asked.append((descriptor.digest, origin))
        store.content.put(data, descriptor.media_type)

    with open_store(state_root, fetch=fetch) as store:
        wanted = Descriptor(
            media_type=MediaType.OCI_LAYER_GZIP, digest=sha256(data), size=len(data)
        )
        snapshot = store.snapshots.from_layer(None, wanted, sha256(tar), "example.com/app")
        assert asked == []
        (directory,) = store.snapshots.directories(snapshot.id)
        assert (directory / "a").read_bytes() == b"far away"
    assert asked == [(sha256(data), "example.com/app")]


def test_a_blob_that_nobody_can_fetch_says_where_it_came_from(store: Store) -> None:
    wanted = Descriptor(media_type=MediaType.OCI_LAYER, digest=sha256(b"gone"), size=4)
    snapshot = store.snapshots.from_layer(None, wanted, sha256(b"gone"), "example.com/app")
    with pytest.raises(BlobNotFound) as caught:
        store.snapshots.directories(snapshot.id)
    assert "example.com/app" in (caught.value.hint or "")


def test_several_threads_unpack_a_layer_once(state_root: Path) -> None:
    tar = layer_tar({f"file{number}": b"x" * 100 for number in range(50)})
    data = gzip.compress(tar, mtime=0)
    fetched: list[str] = []

    def fetch(descriptor: Descriptor, _origin: str) -> None:
        fetched.append(descriptor.digest)
        store.content.put(data, descriptor.media_type)

    with open_store(state_root, fetch=fetch) as store:
        wanted = Descriptor(
            media_type=MediaType.OCI_LAYER_GZIP, digest=sha256(data), size=len(data)
        )
        snapshot = store.snapshots.from_layer(None, wanted, sha256(tar))
        found: list[tuple[Path, ...]] = []
        threads = [
            threading.Thread(target=lambda: found.append(store.snapshots.directories(snapshot.id)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
        assert len(found) == 6
        assert fetched == [sha256(data)]


def test_a_link_layer_shares_its_directory_between_bases(store: Store, grow: Grow) -> None:
    one, other = grow(None, {"a": "1"}), grow(None, {"b": "2"})
    linked = grow(None, {"app": "x"})
    on_one = store.snapshots.rebase(one, linked)
    on_other = store.snapshots.rebase(other, linked)
    assert on_one.directory == on_other.directory
    assert store.snapshots.rebase(one, linked).id == on_one.id
    tree = MergedTree(store.snapshots.directories(on_other.id))
    assert tree.listdir("/") == [b"app", b"b"]


def test_a_layer_that_occurs_twice_is_stacked_once_at_the_top(store: Store, grow: Grow) -> None:
    linked = grow(None, {"app": "x"})
    between = grow(store.snapshots.rebase(None, linked).id, {"b": "2"})
    top = store.snapshots.rebase(between, linked)
    directories = store.snapshots.directories(top.id)
    assert len(directories) == 2
    assert directories[-1] == store.snapshots.get(linked).directory


def test_a_layer_that_came_from_outside_leaves_as_it_came(store: Store) -> None:
    descriptor, diff_id = blob_of(store, layer_tar({"z": b"1", "a": b"2"}))
    snapshot = store.snapshots.from_layer(None, descriptor, diff_id)
    store.snapshots.directories(snapshot.id)
    found = store.snapshots.layer(snapshot.id, Variant(compression="zstd"))
    assert (found.descriptor.digest, found.diff_id) == (descriptor.digest, diff_id)
    forced = store.snapshots.layer(snapshot.id, Variant(compression="zstd", force=True))
    assert forced.descriptor.media_type == MediaType.OCI_LAYER_ZSTD
    assert forced.diff_id == diff_id


def test_a_compressed_layer_is_made_once(store: Store, grow: Grow) -> None:
    snapshot = grow(None, {"a": "text " * 1000})
    first = store.snapshots.layer_blob(snapshot, Variant(compression="gzip"))
    written = store.content.path(first.digest).stat().st_mtime_ns
    assert store.snapshots.layer_blob(snapshot, Variant(compression="gzip")) == first
    assert store.content.path(first.digest).stat().st_mtime_ns == written
    plain = store.snapshots.layer_blob(snapshot)
    assert plain.digest == store.snapshots.diff_id(snapshot)
    assert sha256(store.content.read(plain.digest)) == plain.digest


def test_usage_counts_bytes_of_files_and_hard_links_once(store: Store) -> None:
    with store.snapshots.prepare(None) as active:
        (active.upper / "a").write_bytes(b"x" * 1000)
        (active.upper / "b").hardlink_to(active.upper / "a")
        (active.upper / "l").symlink_to("a")
        snapshot = store.snapshots.commit(active)
    assert store.snapshots.usage(snapshot.id) == 1000


def test_a_layers_tar_tells_its_size_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are not walked again only to be measured."""
    with store.snapshots.prepare(None) as active:
        (active.upper / "a").write_bytes(b"x" * 700)
        (active.upper / "b").hardlink_to(active.upper / "a")
        (active.upper / "c").symlink_to("a")
        snapshot = store.snapshots.commit(active)
    store.snapshots.layer(snapshot.id, Variant(compression="uncompressed"))
    monkeypatch.setattr("buildkit_py.store.layers.tree_size", lambda _: 1 / 0)
    assert store.snapshots.usage(snapshot.id) == 700
