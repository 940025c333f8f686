"""Pruning: which records go, by age and by space, oldest use first.

A policy picks records (by kind) that are not in use; records used within `keep_duration` stay, and
it stops once what is left fits the space it grants. The default policies are those that BuildKit's
users know: sources and cache mounts first, then what is old, then whatever is over the cap.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.store.downloads import forget_downloads, is_download
from buildkit_py.store.gc import collect_garbage
from buildkit_py.store.locks import FileLock
from buildkit_py.store.partial import forget_partials
from buildkit_py.store.trash import discard
from buildkit_py.store.usage import CACHE_MOUNT, UsageRecord, usage_records

if TYPE_CHECKING:
    from buildkit_py.store import Store

_HOUR, _DAY = 3600.0, 86400.0
_SOURCES = ("source.local", "source.git.checkout", "source.http", CACHE_MOUNT)
GIGABYTE = 1_000_000_000

Pick = Callable[[UsageRecord], bool]


def _everything(_record: UsageRecord) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What may go. Space limits are bytes, 0 for none; without any, all that is picked goes."""

    pick: Pick = field(default=_everything)
    keep_duration: float = 0.0
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0

    def keep_bytes(self, used: int, free: int) -> int:
        """How much of `used` may stay."""
        keep = used if self.max_used_space or self.min_free_space else 0
        if self.max_used_space:
            keep = min(keep, self.max_used_space)
        if free < self.min_free_space:
            keep = min(keep, used - (self.min_free_space - free))
        return max(keep, self.reserved_space)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, and the bytes that this freed."""

    records: tuple[UsageRecord, ...] = ()
    freed: int = 0


def default_policies(disk_size: int) -> tuple[Policy, ...]:
    """BuildKit's default policies for a disk of that size."""
    reserved = min(disk_size // 10, 10 * GIGABYTE)
    most = min(disk_size * 8 // 10, 100 * GIGABYTE)
    free = disk_size // 5
    capped = Policy(reserved_space=reserved, max_used_space=most, min_free_space=free)
    return (
        Policy(
            pick=lambda record: record.kind in _SOURCES,
            keep_duration=48 * _HOUR,
            max_used_space=512_000_000,
        ),
        Policy(keep_duration=60 * _DAY, reserved_space=reserved),
        replace(capped, pick=lambda record: not record.shared),
        capped,
    )


def prune(store: Store, policy: Policy, *, clock: Callable[[], float] = time.time) -> Pruned:
    """Remove what a policy allows, then everything that nothing needs any more."""
    pruned = _prune(store, (policy,), clock)
    return replace(pruned, freed=pruned.freed + forget_partials(store.paths))


def _prune(store: Store, policies: Sequence[Policy], clock: Callable[[], float]) -> Pruned:
    """Each policy has its say on what those before it leave; then everything goes at once."""
    records = list(usage_records(store))
    free = free_space(store)
    chosen: list[UsageRecord] = []
    for policy in policies:
        going = choose(records, policy, now=clock(), free=free)
        chosen += going
        free += sum(record.size for record in going)
        gone = {record.id for record in going}
        records = [record for record in records if record.id not in gone]
    repositories = _forget(store, chosen)
    collected = collect_garbage(store.db, store.paths, clock=clock)
    mounts = sum(record.size for record in chosen if record.kind == CACHE_MOUNT)
    return Pruned(records=tuple(chosen), freed=collected.freed + mounts + repositories)


def choose(
    records: Sequence[UsageRecord], policy: Policy, *, now: float, free: int
) -> list[UsageRecord]:
    """The records to remove. A snapshot goes only after all that stand on it."""
    left = sum(record.size for record in records if policy.pick(record))
    keep = policy.keep_bytes(left, free)
    children: dict[str, int] = {}
    for record in records:
        if record.parent:
            children[record.parent] = children.get(record.parent, 0) + 1
    waiting = [
        record
        for record in records
        if record.reclaimable
        and policy.pick(record)
        and now - record.last_used >= policy.keep_duration
    ]
    # newest snapshot first where the last use is the same: children have the higher ids
    waiting.sort(key=lambda record: (record.last_used, -_number(record)))
    chosen: list[UsageRecord] = []
    progress = True
    while progress and left > keep:
        progress = False
        for record in list(waiting):
            if left <= keep:
                break
            if record.kind != CACHE_MOUNT and children.get(record.id, 0):
                continue
            waiting.remove(record)
            chosen.append(record)
            left -= record.size
            progress = True
            if record.parent:
                children[record.parent] -= 1
    return chosen


def _number(record: UsageRecord) -> int:
    return int(record.id) if record.id.isdigit() else 0


def _forget(store: Store, records: Sequence[UsageRecord]) -> int:
    """Take the cache's hold off the records; collection removes what nothing else holds.

    Gives the bytes of repositories, which are removed here.
    """
    snapshots = [(int(r.id),) for r in records if r.kind != CACHE_MOUNT and not is_download(r)]
    mounts = [record.id for record in records if record.kind == CACHE_MOUNT]
    with store.db.transaction() as connection:
        connection.executemany("DELETE FROM cache_records WHERE snapshot = ?", snapshots)
    for directory in mounts:
        _remove_mount(store, directory)
    return forget_downloads(store, [record for record in records if is_download(record)])


def _remove_mount(store: Store, directory: str) -> None:
    with store.db.transaction() as connection:
        row = connection.execute(
            "DELETE FROM cache_mounts WHERE directory = ? AND NOT EXISTS (SELECT 1 FROM leases"
            " WHERE kind = 'cache-mount' AND item = cache_mounts.id) RETURNING id",
            (directory,),
        ).fetchone()
    if row is not None:
        discard(store.paths, store.paths.cache_mounts / directory)


def free_space(store: Store) -> int:
    """Bytes that are free on the store's file system."""
    status = os.statvfs(store.paths.root)
    return status.f_bavail * status.f_frsize


def collect_by_policy(
    store: Store,
    policies: Sequence[Policy] | None = None,
    *,
    clock: Callable[[], float] = time.time,
    force: bool = False,
) -> Pruned:
    """Automatic collection after a build: at most once an hour, one process at a time."""
    now = clock()
    if not force and not store.is_collection_due(now):
        return Pruned()
    lock = FileLock(store.paths.lock("gc"))
    if not lock.try_acquire():
        return Pruned()
    try:
        with store.db.transaction() as connection:
            connection.execute("REPLACE INTO meta (key, value) VALUES ('collected', ?)", (now,))
        if policies is None:
            policies = default_policies(shutil.disk_usage(store.paths.root).total)
        return _prune(store, policies, clock)
    finally:
        lock.release()
