"""Directories of cache mounts: who gets which, and what becomes of the replaced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from buildkit_py.graph import CacheMount
from buildkit_py.platforms import Platform
from buildkit_py.store import Store, open_store
from buildkit_py.store.gc import orphans
from buildkit_py.worker.cachemounts import CacheMounts, CacheRequest


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "root", host=Platform(os="linux", architecture="amd64")) as opened:
        yield opened


@pytest.fixture
def mounts(store: Store) -> CacheMounts:
    return CacheMounts(paths=store.paths, db=store.db)


def take(mounts: CacheMounts, stack: ExitStack, *, empty: bool = False) -> Path:
    request = CacheRequest(mount=CacheMount(target="/cache", id="things"))
    (folder,) = mounts.open([request], stack, cancelled=threading.Event(), empty=empty).values()
    return folder


def test_a_directory_is_found_again(mounts: CacheMounts) -> None:
    with ExitStack() as stack:
        first = take(mounts, stack)
        (first / "kept").touch()
    with ExitStack() as stack:
        assert take(mounts, stack) == first
    assert (first / "kept").exists()


def test_one_started_afresh_replaces_the_old(mounts: CacheMounts) -> None:
    with ExitStack() as stack:
        first = take(mounts, stack)
    with ExitStack() as stack:
        second = take(mounts, stack, empty=True)
    assert second != first
    assert not first.exists()
    with ExitStack() as stack:
        assert take(mounts, stack) == second


def test_a_step_keeps_its_directory_while_another_starts_afresh(
    store: Store, mounts: CacheMounts
) -> None:
    with ExitStack() as running:
        first = take(mounts, running)
        with ExitStack() as stack:
            assert take(mounts, stack, empty=True) != first
        assert first.is_dir()
    assert list(orphans(store.db, store.paths)) == [first]  # the next collection takes it
