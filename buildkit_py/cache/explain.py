"""Why a step was not found in the cache: the first difference that a person can act on.

A missed key is compared with the closest earlier record of the same step. Differences are tried
from the most telling to the least: the instruction's own text, the values it got, the files it
read, its base image, and at last the step before it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from buildkit_py.cache.differences import op_change, short

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheRecord

Cause: TypeAlias = tuple[str, bool]
Files: TypeAlias = "Callable[[str], Mapping[str, str] | None]"

FIRST_BUILD = "first build of this step"
NEW_TIMES = "times of new files (SOURCE_DATE_EPOCH, --timestamps)"
EXPIRED = "its record is older than --cache-ttl"
REMOVED = "its record was removed from the cache"
UNREMARKABLE = frozenset(
    {FIRST_BUILD, REMOVED, EXPIRED}
)  # of a source, which is fetched and not built
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
_SHOWN_FILES = 3


def closest(parts: Mapping[str, Any], records: Sequence[CacheRecord]) -> CacheRecord | None:
    """The record whose key parts have most in common with these; the newest of equals."""
    best: CacheRecord | None = None
    best_score = -1
    for record in records:
        score = _likeness(parts, record.parts)
        if score > best_score:
            best, best_score = record, score
    return best


def _likeness(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    op, before = one.get("op", {}), other.get("op", {})
    if op.get("kind") != before.get("kind"):
        return -1
    same = sum(4 for key, value in op.items() if before.get(key) == value)
    inputs = zip(one.get("inputs", ()), other.get("inputs", ()), strict=False)
    return same + sum(1 for a, b in inputs if a == b)


def explain_miss(
    description: str,
    parts: Mapping[str, Any],
    record: CacheRecord | None,
    *,
    files: Files = lambda _: None,
    argument_names: frozenset[str] = frozenset(),
    no_cache: str = "",
    causes: Sequence[Cause | None] = (),
    was_built: bool = False,
) -> str:
    """One line without the instruction's name; `describe_miss` puts that in front.

    `files` gives a list of files by the name that the parts have for it. `causes` says for each
    input which instruction gives it, and whether that made it anew in this build; `no_cache` which
    option forbids the cache.
    """
    if no_cache:
        return no_cache
    if record is None:
        return REMOVED if was_built else FIRST_BUILD
    before = record.parts
    same_command = _same_command(parts["op"], before.get("op", {}))
    reasons: tuple[Callable[[], str], ...] = (
        lambda: "" if same_command else _text_change(description, record.description),
        lambda: _env_change(parts["op"], before.get("op", {}), argument_names),
        lambda: op_change(parts["op"], before.get("op", {})),
        lambda: _files_change(parts, before, files),
        lambda: _input_change(parts["inputs"], before.get("inputs", ()), causes),
        lambda: NEW_TIMES if parts["op"] != before.get("op", {}) else "",
    )
    for reason in reasons:
        if found := reason():
            return found
    return REMOVED


def describe_miss(description: str, reason: str) -> str:
    """`COPY . /app: 2 files changed (a, b)`."""
    return f"{description}: {reason}"


def _same_command(op: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether two steps are the same as written, though their texts show other values."""
    if op.get("kind") == "image":
        return True  # its text holds the digest
    if op.get("kind") != "exec" or before.get("kind") != "exec":
        return False
    return all(op.get(name) == before.get(name) for name in ("arguments", "heredocs"))


def _text_change(now: str, before: str) -> str:
    if not before or now == before:
        return ""
    return f"the instruction was: {short(before)}"


def _env_change(
    op: Mapping[str, Any], before: Mapping[str, Any], argument_names: frozenset[str]
) -> str:
    if op.get("env") == before.get("env"):
        return ""
    new, old = _variables(op.get("env", ())), _variables(before.get("env", ()))
    changes = []
    for name in [*new, *(name for name in old if name not in new)]:
        if new.get(name) == old.get(name):
            continue
        kind = "ARG" if name in argument_names else "ENV"
        if name not in old:
            changes.append(f"{kind} {name} is new ({short(new[name])})")
        elif name not in new:
            changes.append(f"{kind} {name} is gone")
        else:
            changes.append(f"{kind} {name} {short(old[name])} → {short(new[name])}")
    return ", ".join(changes[:_SHOWN_FILES]) or "order of the environment"


def _files_change(parts: Mapping[str, Any], before: Mapping[str, Any], files: Files) -> str:
    found: dict[str, list[str]] = {}
    unnamed = False
    inputs = zip(parts["inputs"], before.get("inputs", ()), strict=False)
    for index, (here, there) in enumerate(inputs):
        if not here or not there or "content" not in here or "content" not in there:
            continue
        changed = [
            position
            for position, pair in enumerate(zip(here["content"], there["content"], strict=False))
            if pair[0] != pair[1]
        ]
        for position in changed:
            old = files(_list_name(before, index, position))
            new = files(_list_name(parts, index, position))
            if old is None or new is None:
                unnamed = True
                continue
            for how, paths in file_changes(_digests(old), _digests(new)).items():
                shown = [path + _attributes_change(path, old, new) for path in paths]
                found.setdefault(how, []).extend(shown)
    if found:
        return _counted({how: list(dict.fromkeys(paths)) for how, paths in found.items()})
    return "files changed" if unnamed else ""


def _list_name(parts: Mapping[str, Any], index: int, position: int) -> str:
    """The name of the list of files of one selection of one input."""
    lists = parts.get("lists", ())
    names = (lists[index] if index < len(lists) else None) or ()
    return str(names[position]) if position < len(names) else ""


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    """The list without modes and owners, which the digests cover."""
    return {path: entry.partition(" ")[0] for path, entry in files.items()}


def _attributes_change(path: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """` mode 644 → 755` where that is known of a file in both lists."""
    before = old.get(path, "").split()[1:]
    now = new.get(path, "").split()[1:]
    if not before or not now:
        return ""
    modes = int(before[0], 8), int(now[0], 8)
    words = []
    if stat.S_IFMT(modes[0]) != stat.S_IFMT(modes[1]):
        words.append(f"{_kind(modes[0])} → {_kind(modes[1])}")
    elif modes[0] != modes[1]:
        words.append(f"mode {modes[0] & 0o7777:o} → {modes[1] & 0o7777:o}")
    if before[1] != now[1]:
        words.append(f"owner {before[1]} → {now[1]}")
    return "".join(f" {word}" for word in words)


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "device")


def _counted(found: Mapping[str, Sequence[str]]) -> str:
    """`2 files changed (a, b), 1 deleted (c)`."""
    words: list[str] = []
    for how, paths in found.items():
        shown = ", ".join(paths[:_SHOWN_FILES])
        more = ", …" if len(paths) > _SHOWN_FILES else ""
        noun = "" if words else " file" if len(paths) == 1 else " files"
        words.append(f"{len(paths)}{noun} {how} ({shown}{more})")
    return ", ".join(words)


def file_changes(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, list[str]]:
    """Paths that differ, by what happened to them.

    A file that is gone and one of the same digest that has come are the same, renamed.
    """
    paths = changed_files(old, new)
    gone = {old[path]: path for path in reversed(paths) if path not in new}
    moved: dict[str, str] = {}
    for path in paths:
        if path not in old and new[path] in gone:
            moved[path] = gone.pop(new[path])
    sources = set(moved.values())
    found: dict[str, list[str]] = {"changed": [], "added": [], "deleted": [], "renamed": []}
    for path in paths:
        if path in moved:
            found["renamed"].append(f"{moved[path]} → {path}")
        elif path not in old:
            found["added"].append(path)
        elif path in new:
            found["changed"].append(path)
        elif path not in sources:
            found["deleted"].append(path)
    return {how: entries for how, entries in found.items() if entries}


def changed_files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Paths that were added, removed or changed, in the order of the new list.

    A directory is named only if nothing in it explains the difference better.
    """
    paths = [path for path, digest in new.items() if old.get(path) != digest]
    paths += [path for path in old if path not in new]
    parents = {path.rpartition("/")[0] or "." for path in paths}
    inner = [path for path in paths if path not in parents]
    return inner or paths


def _input_change(
    inputs: Sequence[Any], before: Sequence[Any], causes: Sequence[Cause | None]
) -> str:
    if len(inputs) != len(before):
        return "other inputs than before"
    for index, (here, there) in enumerate(zip(inputs, before, strict=True)):
        if here != there:
            cause = causes[index] if index < len(causes) else None
            if cause is None:
                return "the step before it has a new result"
            name, is_new = cause
            return f"follows {name}" if is_new else f"{name} has another result than it had before"
    return ""


def _variables(env: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (item.partition("=") for item in env)}
