"""Why a vertex was not found, and what an earlier result of it may spare."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.digest import digest_of
from buildkit_py.graph import ContextOp, ImageOp, MergeOp
from buildkit_py.solver.earlier import earlier_result
from buildkit_py.solver.solution import Origin

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheRecord
    from buildkit_py.cache.explain import Cause
    from buildkit_py.cache.keys import CacheKey
    from buildkit_py.graph import Vertex
    from buildkit_py.solver.ports import Previous
    from buildkit_py.solver.session import Session

_PREFIX = re.compile(r"\[([^\]]*?)(\d+)(?:/\d+)?\] ")
_MOST_FILES = 100_000
REBASED = "put on a new base without being copied again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """The reason, the closest earlier result, and the file lists to keep.

    `lists` names, for each input that counts by content, the lists of its selections.
    """

    reason: str
    previous: Previous | None = None
    lists: Sequence[Sequence[str] | None] = ()
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def description_of(vertex: Vertex) -> str:
    """The instruction as written, or the display name without its number."""
    return vertex.options.instruction or _PREFIX.sub("", vertex.options.name)


def slot_of(scope: str, vertex: Vertex) -> str:
    """The place of a vertex in its build: the name's bracket without the total."""
    found = _PREFIX.match(vertex.options.name)
    place = f"{found[1]}{found[2]}" if found else vertex.options.name
    return f"{scope}|{vertex.options.stage}|{place}"


def study(session: Session, vertex: Vertex, key: CacheKey) -> Miss:
    """Compare a key that was not found with records of the same step."""
    from buildkit_py.cache.explain import (  # noqa: PLC0415  # misses only
        EXPIRED,
        REMOVED,
        closest,
        explain_miss,
    )

    lists, files = _file_lists(session, vertex, key)
    parts = {**key.parts, "lists": lists}
    records = session.cache.candidates(
        description_of(vertex), slot_of(session.settings.scope, vertex)
    )
    scope = f"{session.settings.scope}|"
    own = [record for record in records if record.slot.startswith(scope)]
    best = closest(key.parts, own) or closest(key.parts, records)
    reason = _of_linked(session, vertex) or explain_miss(
        description_of(vertex),
        parts,
        best,
        files=lambda name: files.get(name) or session.cache.files(name),
        argument_names=session.settings.argument_names,
        no_cache=session.settings.no_cache_option if vertex.options.no_cache else "",
        causes=_causes(session, vertex),
        was_built=best is None
        and session.cache.was_built(vertex.options.written or description_of(vertex)),
    )
    if reason == REMOVED and session.cache.is_expired(key.digest):
        reason = EXPIRED
    same = [record for record in records if record.parts.get("op") == key.parts["op"]]
    base = closest(key.parts, same)
    selections = [counted.selections for counted in session.maps[vertex.digest].inputs]
    previous = earlier_result(session.cache, parts, base, selections, files)
    return Miss(reason=reason, previous=previous, lists=lists, files=files)


def _of_linked(session: Session, vertex: Vertex) -> str:
    """Why a linked layer is put on its base anew: because it is new itself, or the base is."""
    layer = vertex.inputs[-1] if isinstance(vertex.op, MergeOp) else None
    outcome = None if layer is None else session.outcomes.get(layer.digest)
    if outcome is None:
        return ""
    return outcome.reason if outcome.origin is Origin.RUN else REBASED


def adopt(session: Session, vertex: Vertex, key: CacheKey, record: CacheRecord) -> CacheRecord:
    """Keep an imported record, with its parts as they are known here."""
    lists, files = _file_lists(session, vertex, key)
    save_lists(session, files)
    own = replace(
        record,
        parts={**key.parts, "lists": lists},
        description=description_of(vertex),
        slot=slot_of(session.settings.scope, vertex),
    )
    session.cache.save(own, [key.digest])
    return own


def save_lists(session: Session, lists: Mapping[str, Mapping[str, str]]) -> None:
    """Keep the file lists of a vertex, so that its next miss can name files."""
    for name, files in lists.items():
        if session.cache.files(name) is None:
            session.cache.save_files(name, files)


def _file_lists(
    session: Session, vertex: Vertex, key: CacheKey
) -> tuple[list[list[str] | None], dict[str, Mapping[str, str]]]:
    """Of each input the names of its lists, and the lists.

    A list is named by the content and by the selection: files of the same content that lie
    elsewhere have the same digest, but other paths.
    """
    names: list[list[str] | None] = []
    found: dict[str, Mapping[str, str]] = {}
    counted = session.maps[vertex.digest].inputs
    for index, part in enumerate(key.parts["inputs"]):
        if part is None or "content" not in part:
            names.append(None)
            continue
        source = vertex.inputs[index]
        assert source is not None
        own: list[str] = []
        for content, selection in zip(part["content"], counted[index].selections, strict=True):
            name = digest_of({"content": content, "selection": selection.to_json()})
            own.append(name)
            files = session.worker.content_files(session.result_of(source), selection)
            if len(files) <= _MOST_FILES:
                found[name] = files
        names.append(own)
    return names, found


def _causes(session: Session, vertex: Vertex) -> list[Cause | None]:
    """For each input: the instruction whose result it is, and whether it was not found either."""
    out: list[Cause | None] = []
    for item in vertex.inputs:
        outcome = None if item is None else session.outcomes.get(item.digest)
        if item is None or outcome is None or isinstance(item.op, ContextOp):
            out.append(None)
        else:
            out.append((_named(item), bool(outcome.reason)))
    return out


def _named(vertex: Vertex) -> str:
    """The instruction; a base image by the name that people call it."""
    if not isinstance(vertex.op, ImageOp):
        return description_of(vertex)
    name = vertex.op.reference.partition("@")[0].removesuffix(":latest")
    return "FROM " + name.removeprefix("docker.io/").removeprefix("library/")
