from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_py.cache.base import CacheRecord
from buildkit_py.cache.local import LocalCache
from buildkit_py.digest import Digest, sha256
from buildkit_py.store import Store, open_store


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(state_root: Path) -> Iterator[Store]:
    with open_store(state_root) as opened:
        yield opened


@pytest.fixture
def cache(store: Store, clock: Clock) -> LocalCache:
    return LocalCache(store.db, clock=clock)


def key(text: str) -> Digest:
    return sha256(text.encode())


def snapshot(store: Store) -> int:
    with store.snapshots.prepare(None) as active:
        return store.snapshots.commit(active).id


def record(name: str, at: int | None, **fields: object) -> CacheRecord:
    made = CacheRecord(key=key(name), canonical=key(name), snapshot=at, parts={"op": name})
    return replace(made, **fields)  # type: ignore[arg-type]


def test_a_record_is_found_under_its_key_and_aliases(cache: LocalCache, store: Store) -> None:
    cache.save(record("a", snapshot(store)), [key("alias")])
    found = cache.find(key("alias"))
    assert found is not None
    assert found.canonical == key("a")
    assert found == replace(cache.find(key("a")) or found, key=key("alias"))
    assert cache.find(key("b")) is None


def test_an_empty_root_is_a_result(cache: LocalCache) -> None:
    cache.save(record("a", None))
    found = cache.find(key("a"))
    assert found is not None
    assert found.snapshot is None


def test_a_hit_keeps_its_snapshot_from_garbage_collection(
    cache: LocalCache, store: Store, state_root: Path
) -> None:
    made = snapshot(store)
    cache.save(record("a", made))
    with open_store(state_root) as other:
        LocalCache(other.db).find(key("a"))
        leases = other.db.connection().execute(
            "SELECT item FROM leases WHERE lease = ?", (other.db.lease.name,)
        )
        assert [row["item"] for row in leases] == [str(made)]


def test_a_record_goes_with_its_snapshot(cache: LocalCache, store: Store) -> None:
    made = snapshot(store)
    cache.save(record("a", made), [key("alias")])
    with store.db.transaction() as connection:
        connection.execute("DELETE FROM snapshots WHERE id = ?", (made,))
    assert cache.find(key("a")) is None
    assert cache.find(key("alias")) is None


def test_an_old_record_is_no_hit_under_a_time_to_live(store: Store, clock: Clock) -> None:
    cache = LocalCache(store.db, ttl=60, clock=clock)
    cache.save(record("a", snapshot(store)))
    clock.now += 59
    assert cache.find(key("a")) is not None
    clock.now += 2
    assert cache.find(key("a")) is None


def test_last_use_is_written_at_the_end_and_at_most_hourly(
    cache: LocalCache, store: Store, clock: Clock
) -> None:
    cache.save(record("a", snapshot(store)))

    def last_used() -> float:
        row = store.db.connection().execute("SELECT last_used FROM cache_records").fetchone()
        return float(row["last_used"])

    before = last_used()
    clock.now += 600
    cache.find(key("a"))
    cache.flush()
    assert last_used() == before
    clock.now += 3600
    cache.find(key("a"))
    assert last_used() == before
    cache.flush()
    assert last_used() == clock.now


def test_candidates_share_place_or_text_and_the_newest_come_first(
    cache: LocalCache, store: Store
) -> None:
    made = snapshot(store)
    cache.save(record("a", made, slot="s", description="RUN a", created=1.0), [key("alias")])
    cache.save(record("b", made, slot="s", description="RUN b", created=2.0))
    cache.save(record("c", made, slot="t", description="RUN a", created=3.0))
    found = cache.candidates("RUN a", "s")
    assert [item.canonical for item in found] == [key("b"), key("a"), key("c")]
    assert found[0].parts == {"op": "b"}


def test_file_lists_come_back_and_the_oldest_go(
    cache: LocalCache, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildkit_py.cache.local._MOST_LISTS", 2)
    for name in ("a", "b", "c"):
        clock.now += 1
        cache.save_files(name, {"file": name})
    assert cache.files("a") is None
    assert cache.files("c") == {"file": "c"}


def test_a_snapshots_digest_is_remembered_until_it_goes(cache: LocalCache, store: Store) -> None:
    made = snapshot(store)
    cache.save_snapshot_digest(made, key("selection"), "content")
    assert cache.snapshot_digest(made, key("selection")) == "content"
    with store.db.transaction() as connection:
        connection.execute("DELETE FROM snapshots WHERE id = ?", (made,))
    assert cache.snapshot_digest(made, key("selection")) is None
