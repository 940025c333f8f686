"""The earlier result of a step that differs in some files only, and which of its files are good.

A copy links unchanged files from there. So a file counts as known only if what lies at its
destination came from it: where two sources were copied to one name, the last of them is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from buildkit_py.solver.ports import Previous

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheRecord, CacheStore
    from buildkit_py.cache.keys import Selection

Files: TypeAlias = Mapping[str, str]
Pairs: TypeAlias = dict[tuple[int, int], tuple[Files, Files]]


def earlier_result(
    cache: CacheStore,
    parts: Mapping[str, Any],
    record: CacheRecord | None,
    selections: Sequence[Sequence[Selection]],
    files: Mapping[str, Files],
) -> Previous | None:
    """What a record gave, if its op is the same and only contents differ.

    `files` are the lists of now, by the names that the parts have for them.
    """
    if record is None or record.snapshot is None or record.parts.get("op") != parts["op"]:
        return None
    pairs = _lists(cache, parts["lists"], record.parts.get("lists", ()), files)
    if not pairs or cache.find(record.canonical) is None:
        return None
    places = _places(parts, {pair: selections[pair[0]][pair[1]] for pair in pairs}, pairs)
    if places is None:
        return None
    times = Counter(place for found in places.values() for place in found.values())
    old: dict[int, Files] = {}
    new: dict[int, Files] = {}
    for pair, (there, here) in pairs.items():
        own = places.get(pair)
        kept = {p: digest for p, digest in there.items() if own is None or times[own[p]] == 1}
        old[pair[0]] = {**old.get(pair[0], {}), **kept}
        new[pair[0]] = {**new.get(pair[0], {}), **here}
    return Previous(snapshot=record.snapshot, old=old, new=new)


def _lists(
    cache: CacheStore,
    now: Sequence[Sequence[str] | None],
    before: Sequence[Sequence[str] | None],
    files: Mapping[str, Files],
) -> Pairs:
    """Old and new list of each input and selection; empty where one of them is not known."""
    found: Pairs = {}
    for index, names in enumerate(now):
        if names is None:
            continue
        known = before[index] if index < len(before) else None
        if known is None or len(known) != len(names):
            return {}
        for position, (there, here) in enumerate(zip(known, names, strict=True)):
            old, new = cache.files(there), files.get(here)
            if old is None or new is None:
                return {}
            found[index, position] = (old, new)
    return found


def _places(
    parts: Mapping[str, Any], selections: Mapping[tuple[int, int], Selection], pairs: Pairs
) -> dict[tuple[int, int], Files] | None:
    """Where each file was copied to, by its path: the same place for all that may have met.

    Empty for a single source, whose files cannot meet. None when nothing can be told, because
    an archive was unpacked among others.
    """
    if len(selections) == 1 and not any(item.wildcard for item in selections.values()):
        return {}
    if any(action.get("unpack") for action in parts["op"].get("actions", ())):
        return None
    exact = {
        pair: {path: _place(selection, path) for path in pairs[pair][0]}
        for pair, selection in selections.items()
    }
    found: dict[tuple[int, int], Files] = {}
    for pair, places in exact.items():
        found[pair] = {path: place for path, place in places.items() if place is not None}
        if len(found[pair]) < len(places):
            return {
                other: {path: path.rpartition("/")[2] for path in pairs[other][0]}
                for other in exact
            }
    return found


def _place(selection: Selection, path: str) -> str | None:
    """Where below the destination a file goes; None where a pattern or a link hides that."""
    if selection.parents:
        return path
    source = selection.paths[0].strip("/")
    if selection.wildcard:
        return None
    if not source:
        return path
    names, above = path.split("/"), source.split("/")
    if names[: len(above)] != above:
        return None
    return "/".join(names[len(above) :]) or names[-1]
