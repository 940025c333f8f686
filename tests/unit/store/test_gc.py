from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from buildkit_py.digest import sha256
from buildkit_py.oci.descriptor import MediaType
from buildkit_py.store import Store, open_store
from buildkit_py.store.builds import BuildRecords
from buildkit_py.store.check import check_store
from buildkit_py.store.gc import collect_garbage, remove_blobs
from buildkit_py.store.images import NewImage
from buildkit_py.store.locks import FileLock
from buildkit_py.store.prune import (
    Policy,
    choose,
    collect_by_policy,
    default_policies,
    prune,
)
from buildkit_py.store.usage import UsageRecord, usage_records
from tests.unit.store.samples import image_config, layer_tar

Grow = Callable[..., int]
PROJECT = Path(__file__).resolve().parents[3]


def record(store: Store, snapshot: int, key: str) -> None:
    with store.db.transaction() as connection:
        connection.execute(
            "INSERT INTO cache_records (key, canonical, snapshot, parts, created, last_used)"
            " VALUES (?, ?, ?, '{}', 0, 0)",
            (key, key, snapshot),
        )


def filled(root: Path) -> dict[str, int]:
    """A store with an image, a cached step and a stray snapshot; its process is gone."""
    with open_store(root) as store:

        def grow(parent: int | None, text: str) -> int:
            with store.snapshots.prepare(parent) as active:
                (active.upper / text).write_text(text)
                return store.snapshots.commit(active).id

        base = grow(None, "base")
        image, step, stray = grow(base, "image"), grow(base, "step"), grow(base, "stray")
        config = image_config(list(store.snapshots.diff_ids(image)))
        store.images.add(NewImage(config=config, snapshot=image), ["app"])
        record(store, step, "a-key")
        store.content.put(b"stray blob", "x/y")
        return {"base": base, "image": image, "step": step, "stray": stray}


def present(store: Store, ids: dict[str, int]) -> set[str]:
    return {name for name, item in ids.items() if store.snapshots.find(item) is not None}


def test_only_what_nothing_needs_is_collected(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as store:
        stray = store.snapshots.get(ids["stray"]).directory
        collected = collect_garbage(store.db, store.paths)
        assert collected.snapshots == (ids["stray"],)
        assert collected.blobs == (sha256(b"stray blob"),)
        assert collected.freed > 0
        assert not stray.exists()
        assert present(store, ids) == {"base", "image", "step"}
        assert check_store(store) == ()


def test_what_a_living_process_holds_stays(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as user, open_store(state_root) as store:
        assert user.snapshots.use(ids["stray"])
        collect_garbage(store.db, store.paths)
        assert "stray" in present(store, ids)


def test_what_was_pinned_stays_until_it_is_unpinned(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as store:
        store.db.pin("container-1", "snapshot", ids["stray"])
    with open_store(state_root) as store:
        collect_garbage(store.db, store.paths)
        assert "stray" in present(store, ids)
        store.db.unpin("container-1")
        collect_garbage(store.db, store.paths)
        assert "stray" not in present(store, ids)


def test_a_killed_process_leaves_nothing_behind(state_root: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from buildkit_py.store import make_store
store = make_store(Path(sys.argv[1]))
with store.snapshots.prepare(None) as active:
    (active.upper / "half").write_text("made")
    store.content.put(b"whole", "x/y")
    writer = store.content.writer()
    writer.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.fspath(PROJECT)}
    done = subprocess.run([sys.executable, "-c", script, state_root], env=environment, check=False)
    assert done.returncode == -9
    with open_store(state_root) as store:
        assert len(list(store.paths.tmp.iterdir())) == 1
        assert store.content.has(sha256(b"whole"))
    with open_store(state_root) as store:
        collect_garbage(store.db, store.paths)
        assert list(store.paths.snapshots.iterdir()) == []
        assert store.content.all_digests() == []
        assert [path.name for path in store.paths.tmp.iterdir()] in ([], [store.db.lease.name])
        assert check_store(store) == ()


def test_files_without_rows_are_swept(state_root: Path) -> None:
    filled(state_root)
    with open_store(state_root) as store:
        orphan = store.paths.snapshots / "orphan" / "fs"
        orphan.mkdir(parents=True)
        (orphan / "file").write_text("x" * 100)
        (store.paths.blobs / "sha256" / ("0" * 64)).write_text("y" * 10)
        assert {problem.harmless for problem in check_store(store)} == {True}
        collect_garbage(store.db, store.paths)
        assert check_store(store) == ()


def test_what_is_being_named_is_never_swept(state_root: Path) -> None:
    """A collection sees a layer, a blob and a build with their rows, or does not see them."""
    filled(state_root)
    stop = threading.Event()

    def make() -> list[int]:
        made = []
        with open_store(state_root) as store:
            records = BuildRecords(store.paths, store.db)
            while not stop.is_set():
                with store.snapshots.prepare(None) as active:
                    (active.upper / "file").write_text("x")
                    made.append(store.snapshots.commit(active).id)
                blob = store.content.put(os.urandom(8), "x/y")
                assert store.content.path(blob.digest).is_file()
                assert all(layer.is_dir() for layer in store.snapshots.directories(made[-1]))
                ref = os.urandom(8).hex()
                with records.begin(ref, request={}, started=1.0) as recorder:
                    recorder.finish(status="completed", completed=2.0)
                assert list(records.events(ref)) == []
        return made

    with ThreadPoolExecutor() as pool, open_store(state_root) as store:
        makers = [pool.submit(make) for _ in range(2)]
        try:
            for _ in range(60):
                collect_garbage(store.db, store.paths)
        finally:
            stop.set()
        assert all(maker.result() for maker in makers)


def test_a_blob_added_while_it_is_collected_stays(state_root: Path) -> None:
    with open_store(state_root) as store:
        blob = store.content.put(b"again", "x/y")
        remove_blobs(store.db, store.paths, [blob.digest])  # its row is there again
        assert store.content.read(blob.digest) == b"again"


def test_locks_of_what_has_gone_are_swept_and_held_ones_stay(state_root: Path) -> None:
    with open_store(state_root) as store:
        for number in range(5):
            with FileLock(store.paths.lock(f"layer-{number}")):
                pass
        with FileLock(store.paths.lock("step-1")):
            assert store.db.lease.name
            collect_garbage(store.db, store.paths)
            left = {path.name for path in store.paths.locks.iterdir()}
        assert {"step-1", f"lease-{store.db.lease.name}"} <= left
        assert not [name for name in left if name.startswith("layer-")]


def test_who_waits_for_a_lock_that_is_deleted_shares_it_with_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second, third = FileLock(path), FileLock(path), FileLock(path)
    first.acquire()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(second.acquire)
        path.unlink()
        first.release()
        waiting.result()
    assert not third.try_acquire()
    assert path.exists()


def test_logs_without_a_row_are_swept(state_root: Path) -> None:
    with open_store(state_root) as store:
        (store.paths.builds / "lost").mkdir()
        collect_garbage(store.db, store.paths)
        assert not list(store.paths.builds.iterdir())


def test_check_is_not_misled_by_a_collection_beside_it(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as store, open_store(state_root) as other:

        def collect(subject: str) -> None:
            if subject.startswith("snapshots/"):
                other.images.remove(other.images.get("app").id) if other.images.list() else None
                prune(other, Policy())

        assert [p for p in check_store(store, watch=collect) if not p.harmless] == []
        assert present(store, ids) == set()


def test_check_reports_a_blob_without_its_file_and_changes_nothing(state_root: Path) -> None:
    with open_store(state_root) as store:
        blob = store.content.put(b"hello", "x/y")
        store.paths.blob(blob.digest).unlink()
        for _ in range(2):
            assert [p.subject for p in check_store(store)] == [blob.digest]


def test_check_names_what_is_damaged(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as store:
        directory = store.snapshots.get(ids["image"]).directory
        (directory / "image").write_text("changed behind our back")
        blob = store.content.put(b"hello", "x/y")
        store.content.path(blob.digest).write_bytes(b"hellO")
        subjects = {problem.subject for problem in check_store(store)}
        assert subjects == {f"snapshots/{directory.parent.name}", blob.digest}


def test_after_a_reboot_only_what_is_whole_is_kept(state_root: Path) -> None:
    ids = filled(state_root)
    tar = layer_tar({"a": b"1"})
    with open_store(state_root) as store:
        torn = store.content.put(b"torn", "x/y").digest
        whole = store.content.put(tar, MediaType.OCI_LAYER)
        pulled = store.snapshots.from_layer(None, whole, sha256(tar)).id
        (unpacked,) = store.snapshots.directories(pulled)
        os.truncate(store.content.path(torn), 0)
        (unpacked / "a").write_text("torn")
        with store.db.transaction() as connection:
            connection.execute("UPDATE meta SET value = 'an earlier boot' WHERE key = 'boot'")
    with open_store(state_root) as store:
        assert not store.content.has(torn)
        assert store.images.get("app").snapshot == ids["image"]
        assert present(store, ids) == {"base", "image"}  # the others have no known digest
        (again,) = store.snapshots.directories(pulled)
        assert (again / "a").read_text() == "1"
        assert [problem for problem in check_store(store) if not problem.harmless] == []


def test_a_layer_with_settled_times_is_whole_after_a_reboot(state_root: Path) -> None:
    with open_store(state_root) as store:
        with store.snapshots.prepare(None) as active:
            (active.upper / "new").write_text("newer than what its layer says")
            made = store.snapshots.commit(active, settle=1_000_000_000).id
        store.snapshots.diff_id(made)
        with store.db.transaction() as connection:
            connection.execute("UPDATE meta SET value = 'an earlier boot' WHERE key = 'boot'")
    with open_store(state_root) as store:
        assert store.snapshots.find(made) is not None


# ------------------------------------------------------------------ pruning
def usage(number: int, **facts: object) -> UsageRecord:
    defaults: dict[str, object] = {
        "id": str(number),
        "kind": "regular",
        "size": 100,
        "created": 0.0,
        "last_used": float(number),
        "uses": 1,
    }
    return UsageRecord(**(defaults | facts))  # type: ignore[arg-type]


def chosen(records: list[UsageRecord], policy: Policy, free: int = 10**12) -> list[str]:
    return [item.id for item in choose(records, policy, now=1000.0, free=free)]


def test_pruning_takes_the_least_recently_used_first() -> None:
    records = [usage(number) for number in (1, 2, 3, 4)]
    assert chosen(records, Policy(max_used_space=250)) == ["1", "2"]
    assert chosen(records, Policy()) == ["1", "2", "3", "4"]


def test_pruning_keeps_what_is_in_use_and_what_was_used_lately() -> None:
    records = [usage(1, in_use=True), usage(2), usage(3, last_used=990.0)]
    assert chosen(records, Policy(keep_duration=60.0)) == ["2"]


def test_pruning_takes_a_snapshot_after_all_that_stand_on_it() -> None:
    records = [
        usage(1, last_used=50.0),
        usage(2, last_used=50.0, parent="1"),
        usage(3, last_used=40.0, parent="1"),
    ]
    assert chosen(records, Policy()) == ["3", "2", "1"]
    held = [records[0], usage(2, last_used=50.0, parent="1", in_use=True), records[2]]
    assert chosen(held, Policy()) == ["3"]


def test_pruning_frees_as_much_as_is_asked_but_for_what_is_reserved() -> None:
    records = [usage(number) for number in (1, 2, 3, 4)]
    assert chosen(records, Policy(min_free_space=150), free=0) == ["1", "2"]
    assert chosen(records, Policy(min_free_space=150), free=150) == []
    assert chosen(records, Policy(min_free_space=10**6, reserved_space=300), free=0) == ["1"]


def test_prune_removes_cache_and_leaves_images(state_root: Path) -> None:
    ids = filled(state_root)
    with open_store(state_root) as store:
        shared = {item.id: item.shared for item in usage_records(store)}
        assert shared[str(ids["base"])]
        assert not shared[str(ids["step"])]
        pruned = prune(store, Policy())
        assert present(store, ids) == {"base", "image"}
        assert pruned.freed > 0
        assert check_store(store) == ()


def test_repositories_and_downloads_are_listed_and_pruned(state_root: Path) -> None:
    with open_store(state_root) as store:
        bare = store.paths.root / "git" / "1234"
        bare.mkdir(parents=True)
        (bare / "HEAD").write_text("ref: refs/heads/main\n")
        digest = store.content.put(b"downloaded", "").digest
        with store.db.transaction() as connection:
            connection.execute("INSERT INTO git_records VALUES ('k', 'https://x/y', '1234', 5)")
            connection.execute(
                "INSERT INTO http_records (key, digest, checked) VALUES ('k', ?, 6)", (digest,)
            )
        (state_root / "git" / "known_hosts").write_text("")
    with open_store(state_root) as store:
        kinds = {record.kind: record for record in usage_records(store)}
        assert kinds["source.git.checkout"].description == "git repository https://x/y"
        assert kinds["source.http"].size == len(b"downloaded")
        pruned = prune(store, Policy())
        assert pruned.freed >= kinds["source.git.checkout"].size + len(b"downloaded")
        assert not store.content.has(digest)
        assert [item.name for item in (state_root / "git").iterdir()] == ["known_hosts"]
        assert not usage_records(store)


def test_a_repository_that_a_build_works_with_is_not_pruned(state_root: Path) -> None:
    with open_store(state_root) as store:
        (store.paths.root / "git" / "12").mkdir(parents=True)
        with store.db.transaction() as connection:
            connection.execute("INSERT INTO git_records VALUES ('k', 'https://x/y', '12', 5)")
        with FileLock(store.paths.lock("git-12")):
            prune(store, Policy())
        assert (state_root / "git" / "12").is_dir()
        assert usage_records(store)


def test_a_repository_without_a_row_is_swept(state_root: Path) -> None:
    with open_store(state_root) as store:
        (store.paths.root / "git" / "lost").mkdir(parents=True)
    with open_store(state_root) as store:
        collect_garbage(store.db, store.paths)
    assert not (state_root / "git" / "lost").exists()


_DAY = 86400.0


def test_automatic_collection_drops_what_was_not_used_for_sixty_days(state_root: Path) -> None:
    ids = filled(state_root)
    sources, old = default_policies(10**12)[:2]
    policies = [sources, replace(old, reserved_space=0)]
    with open_store(state_root) as store:
        later = time.time() + 59 * _DAY
        assert collect_by_policy(store, policies, clock=lambda: later).records == ()
        assert present(store, ids) == {"base", "image", "step"}
        later += 2 * _DAY
        collected = collect_by_policy(store, policies, clock=lambda: later)
        assert [record.id for record in collected.records] == [str(ids["step"])]
        assert present(store, ids) == {"base", "image"}  # a tagged image stays for ever
        assert check_store(store) == ()


def test_automatic_collection_leaves_what_a_running_build_holds(state_root: Path) -> None:
    ids = filled(state_root)
    later = time.time() + 61 * _DAY
    everything = [Policy()]
    with open_store(state_root) as building, open_store(state_root) as store:
        building.db.protect("snapshot", [str(ids["step"])])
        collect_by_policy(store, everything, clock=lambda: later)
        assert "step" in present(store, ids)


def test_automatic_collection_runs_once_an_hour_and_in_one_process(state_root: Path) -> None:
    ids = filled(state_root)
    now = float(int(time.time()))  # what a file keeps of it exactly
    with open_store(state_root) as store:
        assert store.is_collection_due(now)
        with FileLock(store.paths.lock("gc")):
            assert collect_by_policy(store, [Policy()], clock=lambda: now).records == ()
        assert collect_by_policy(store, [Policy(keep_duration=9e9)], clock=lambda: now).freed >= 0
        assert not store.is_collection_due(now + 3599)
        assert collect_by_policy(store, [Policy()], clock=lambda: now + 3599).records == ()
        assert "step" in present(store, ids)
        assert store.is_collection_due(now + 3600)
        assert store.is_collection_due(now - 10)  # the clock was set back


def test_default_policies_are_those_of_buildkit() -> None:
    gigabyte = 10**9
    sources, old, unshared, all_of_it = default_policies(1000 * gigabyte)
    assert sources.max_used_space == 512_000_000
    assert sources.keep_duration == 2 * _DAY
    assert sources.pick(usage(1, kind="exec.cachemount"))
    assert not sources.pick(usage(1))
    assert old.keep_duration == 60 * _DAY
    for capped in (unshared, all_of_it):
        assert capped.reserved_space == 10 * gigabyte
        assert capped.max_used_space == 100 * gigabyte
        assert capped.min_free_space == 200 * gigabyte
    assert not unshared.pick(usage(1, shared=True))
    assert default_policies(50 * gigabyte)[3].max_used_space == 40 * gigabyte
