"""`pybuild du` and `prune`, and what `pybuild system df` and `check` do."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from buildkit_py.cli.options import byte_count, seconds, state_root
from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.store import Store
    from buildkit_py.store.usage import UsageRecord

_FILTER = re.compile(r"(?P<key>[a-z-]+)(?:(?P<operator>!=|~=|==?)(?P<value>.*))?\Z", re.DOTALL)
_FLAGS: dict[str, Callable[[UsageRecord], bool]] = {
    "inuse": lambda record: record.in_use,
    "mutable": lambda record: record.mutable,
    "immutable": lambda record: not record.mutable,
    "shared": lambda record: record.shared,
    "private": lambda record: not record.shared,
    "reclaimable": lambda record: record.reclaimable,
}
_FIELDS: dict[str, Callable[[UsageRecord], str]] = {
    "id": lambda record: record.id,
    "type": lambda record: record.kind,
    "parents": lambda record: record.parent,
    "description": lambda record: record.description,
}

Predicate = Callable[["UsageRecord"], bool]


def record_filter(texts: Sequence[str], now: float) -> Predicate:
    """A predicate that all filters must agree to. Raises UsageError."""
    checks = [_one_filter(text, now) for text in texts]
    return lambda record: all(check(record) for check in checks)


def _one_filter(text: str, now: float) -> Predicate:
    match = _FILTER.match(text)
    key = match["key"] if match else text
    operator = (match["operator"] or "").replace("==", "=") if match else ""
    value = (match["value"] or "") if match else ""
    if key in _FLAGS and operator in {"", "=", "!="}:
        wanted = (not operator or _truth(text, value)) != (operator == "!=")
        return lambda record: _FLAGS[key](record) == wanted
    if key in {"until", "unused-for"} and operator == "=":
        from buildkit_py.cli.images import until_seconds

        limit = until_seconds(value, now)
        return lambda record: record.last_used < limit
    if key not in _FIELDS or not operator:
        known = ", ".join(sorted([*_FLAGS, *(f"{name}=" for name in _FIELDS), "until="]))
        raise UsageError(f'invalid filter "{text}"', hint=f"known: {known}")
    return _field_filter(_FIELDS[key], operator, value)


def _truth(text: str, value: str) -> bool:
    if value.lower() not in {"1", "t", "true", "0", "f", "false"}:
        raise UsageError(f'invalid filter "{text}"', hint="true or false")
    return value.lower() in {"1", "t", "true"}


def _field_filter(field: Callable[[UsageRecord], str], operator: str, value: str) -> Predicate:
    if operator == "=":
        return lambda record: field(record) == value
    if operator == "!=":
        return lambda record: field(record) != value
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise UsageError(f'invalid filter pattern "{value}": {error}') from error
    return lambda record: pattern.search(field(record)) is not None


# ------------------------------------------------------------------ du
def configure_du(parser: CommandParser) -> None:
    """Declare the options of `du`."""
    parser.flag("-v", "--verbose", help="Say more of each record")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="filter", help="type=, id=, until=24h, …"
    )
    parser.add_argument("--format", default="", metavar="string", help="json or a template")


def run_du(args: Namespace) -> int:
    """Show what the build cache holds."""
    from buildkit_py.cli.render import human_age, human_size, print_table
    from buildkit_py.store import open_store
    from buildkit_py.store.usage import total, usage_records

    now = time.time()
    chosen = record_filter(args.filter, now)
    with open_store(state_root(args)) as store:
        records = [record for record in usage_records(store) if chosen(record)]
    records.reverse()
    if args.format not in {"", "table"}:
        _print_formatted(args.format, records)
        return 0
    if args.verbose:
        for record in records:
            _print_record(record, now)
    else:
        rows = [
            [
                record.id + "*" * record.mutable,
                str(record.reclaimable).lower(),
                human_size(record.size) + "†" * record.shared,
                human_age(record.last_used, now),
                record.kind,
                _short(record.description),
            ]
            for record in records
        ]
        print_table(["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED", "TYPE", "DESCRIPTION"], rows)
    everything, reclaimable = total(records)
    shared = sum(record.size for record in records if record.shared)
    if shared:
        print(f"Shared:\t\t{human_size(shared)}")
        print(f"Private:\t{human_size(everything - shared)}")
    print(f"Reclaimable:\t{human_size(reclaimable)}")
    print(f"Total:\t\t{human_size(everything)}")
    return 0


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 50 else text[:49] + "…"


_DU_COLUMNS = {
    "ID": "ID",
    "Reclaimable": "RECLAIMABLE",
    "Size": "SIZE",
    "LastUsedAt": "LAST ACCESSED",
    "Type": "TYPE",
    "Description": "DESCRIPTION",
    "CreatedAt": "CREATED",
    "UsageCount": "USAGE COUNT",
    "Parents": "PARENTS",
    "InUse": "IN USE",
    "Shared": "SHARED",
    "Mutable": "MUTABLE",
}
_DU_TABLE = "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAt}}\t{{.Type}}\t{{.Description}}"


def _print_formatted(form: str, records: Sequence[UsageRecord]) -> None:
    from buildkit_py.cli.templates import print_rows

    rows = [
        {
            "ID": record.id,
            "Type": record.kind,
            "Size": record.size,
            "CreatedAt": record.created,
            "LastUsedAt": record.last_used,
            "UsageCount": record.uses,
            "Description": record.description,
            "Parents": [record.parent] if record.parent else [],
            "InUse": record.in_use,
            "Shared": record.shared,
            "Mutable": record.mutable,
            "Reclaimable": record.reclaimable,
        }
        for record in records
    ]
    if form == "json":
        for row in rows:
            print(json.dumps(row))
    else:
        print_rows(form, _DU_COLUMNS, rows, _DU_TABLE)


def _print_record(record: UsageRecord, now: float) -> None:
    from buildkit_py.cli.render import human_age, human_size

    lines = [
        ("ID", record.id),
        ("Created at", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.created))),
        ("Mutable", str(record.mutable).lower()),
        ("Reclaimable", str(record.reclaimable).lower()),
        ("Shared", str(record.shared).lower()),
        ("Size", human_size(record.size)),
        ("Description", record.description),
        ("Usage count", str(record.uses)),
        ("Last used", human_age(record.last_used, now)),
        ("Type", record.kind),
    ]
    if record.parent:
        lines.insert(1, ("Parents", record.parent))
    for name, value in lines:
        print(f"{name + ':':<14}{value}")
    print()


# ------------------------------------------------------------------ prune
def configure_prune(parser: CommandParser) -> None:
    """Declare the options of `prune`."""
    parser.flag("-a", "--all", help="Remove images that have names as well")
    parser.flag("-f", "--force", help="Don't ask")
    parser.flag("--verbose", help="Show what was removed")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="filter", help="type=, until=24h, label=…"
    )
    parser.add_argument(
        "--keep-duration", type=seconds, default=0.0, metavar="duration", help="Keep what was used"
    )
    for name, text in (
        ("--reserved-space", "Cache that always stays"),
        ("--keep-storage", "The same, by its old name"),
        ("--max-used-space", "The most that the cache may take"),
        ("--min-free-space", "Space to have free afterwards"),
    ):
        parser.add_argument(name, type=byte_count, default=0, metavar="bytes", help=text)


def run_prune(args: Namespace) -> int:
    """Remove build cache and images that nothing needs; prints the space that this freed."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.store import open_store
    from buildkit_py.store.prune import Policy, prune

    now = time.time()
    # `until` is about both; what only images have, or only records, leaves the others alone
    labels = [text for text in args.filter if text.startswith("label")]
    others = [text for text in args.filter if not text.startswith(("label", "until"))]
    of_images = [text for text in args.filter if text not in others]
    of_records = [text for text in args.filter if text not in labels]
    policy = Policy(
        pick=record_filter(of_records, now),
        keep_duration=args.keep_duration,
        reserved_space=max(args.reserved_space, args.keep_storage),
        max_used_space=args.max_used_space,
        min_free_space=args.min_free_space,
    )
    if not args.force and not _confirmed(all_images=args.all):
        return 0
    with open_store(state_root(args)) as store:
        lines = [] if others else _prune_images(store, of_images, everything=args.all)
        if labels and not others:
            policy = replace(policy, pick=lambda _: False)  # only what images leave behind
        pruned = prune(store, policy)
    for line in lines:
        print(line)
    for record in pruned.records if args.verbose else ():
        print(f"{record.id}\t{human_size(record.size)}\t{_short(record.description)}")
    print(f"Total reclaimed space: {human_size(pruned.freed)}")
    return 0


def _confirmed(*, all_images: bool) -> bool:
    what = "all images" if all_images else "images without a name"
    print(f"WARNING! This will remove {what} and all build cache that no image needs.")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()  # nobody is there to end the line
    return answer.strip().lower() in {"y", "yes"}


def _prune_images(store: Store, filters: Sequence[str], *, everything: bool) -> list[str]:
    from buildkit_py.cli.images import filtered_images

    lines: list[str] = []
    for image in filtered_images(store, filters):
        if image.names and not everything:
            continue
        lines += [f"Untagged: {name.familiar}" for name in image.names]
        store.images.remove(image.id)
        lines.append(f"Deleted: {image.id}")
    return lines


# ------------------------------------------------------------------ system
def print_disk_use(args: Namespace) -> int:
    """`system df`: images, build cache and cache mounts, each in a line."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.cli.templates import print_rows
    from buildkit_py.store import open_store
    from buildkit_py.store.usage import CACHE_MOUNT, images_below, total, usage_records

    with open_store(state_root(args)) as store:
        records = usage_records(store)
        images = store.images.list()
        named = images_below(store, [image for image in images if image.names])
    shared = sum(record.size for record in records if record.shared)
    dangling = sum(r.size for r in records if r.shared and r.id not in named)
    rows = [_df_row("Images", len(images), sum(bool(i.names) for i in images), shared, dangling)]
    for title, chosen in (
        ("Build Cache", [r for r in records if r.kind != CACHE_MOUNT and not r.shared]),
        ("Cache Mounts", [r for r in records if r.kind == CACHE_MOUNT]),
    ):
        size, reclaimable = total(chosen)
        active = sum(record.in_use for record in chosen)
        rows.append(_df_row(title, len(chosen), active, size, reclaimable))
    form = getattr(args, "format", None) or ""
    print_rows(form, _DF_COLUMNS, rows, _DF_TABLE)
    if form:
        return 0
    if getattr(args, "verbose", False):
        for record in records:
            print(json.dumps(asdict(record)))
    else:
        used = human_size(sum(record.size for record in records))
        print(f"\nState root: {state_root(args)} ({used})")
    return 0


_DF_COLUMNS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_DF_TABLE = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"


def _df_row(
    title: str, count: int, active: int, size: int, reclaimable: int
) -> dict[str, str | int]:
    from buildkit_py.cli.render import human_size

    part = f" ({reclaimable * 100 // size}%)" if size else ""
    return {
        "Type": title,
        "TotalCount": count,
        "Active": active,
        "Size": human_size(size),
        "Reclaimable": human_size(reclaimable) + part,
    }


def check_state(args: Namespace) -> int:
    """`system check`: 0 when rows, files and digests agree, else 1 and what does not."""
    from buildkit_py.store import open_store
    from buildkit_py.store.check import check_store

    with open_store(state_root(args)) as store:
        problems = check_store(store, thorough=not getattr(args, "quick", False))
        counted = f"{len(store.content.all_digests())} blobs, {len(store.images.list())} images"
    for problem in problems:
        mark = "leftover" if problem.harmless else "problem"
        print(f"{mark}: {problem.subject}: {problem.message}")
    bad = sum(not problem.harmless for problem in problems)
    if bad:
        print(f"{bad} problems found")
        return 1
    print(f"Store is sound: {counted}")
    return 0
