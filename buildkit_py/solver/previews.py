"""`--dry-run`: what would be run and what would be found, running nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildkit_py.cache.explain import UNREMARKABLE
from buildkit_py.cache.keys import derive_key
from buildkit_py.graph import ContextOp
from buildkit_py.solver.lookup import accept
from buildkit_py.solver.misses import description_of, study
from buildkit_py.solver.solution import Origin, Outcome

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheRecord
    from buildkit_py.digest import Digest
    from buildkit_py.graph import Vertex
    from buildkit_py.solver.session import Session


def predict(session: Session, wanted: Sequence[Vertex]) -> dict[Digest, Outcome]:
    """How each vertex would end; `wanted` are those not found by their definitions."""
    for vertex in wanted:
        record = _found(session, vertex)
        if record is not None:
            accept(session, vertex, record, Origin.CACHED)
            continue
        session.outcomes[vertex.digest] = Outcome(
            origin=Origin.RUN,
            description=description_of(vertex),
            reason=_reason(session, vertex),
        )
    return dict(session.outcomes)


def _found(session: Session, vertex: Vertex) -> CacheRecord | None:
    """The record of a vertex whose inputs' keys are all known, by its chained key."""
    if vertex.options.no_cache or session.maps[vertex.digest].uncacheable:
        _keep_source_key(session, vertex)
        return None
    known = all(
        item is None or isinstance(item.op, ContextOp) or item.digest in session.canonical
        for item in vertex.inputs
    )
    if not known:
        return None
    parts = session.input_parts(vertex, session.canonical, contents=False)
    return session.find(vertex, derive_key(session.maps[vertex.digest], parts))


def _keep_source_key(session: Session, vertex: Vertex) -> None:
    if session.maps[vertex.digest].uncacheable:
        session.canonical[vertex.digest] = session.definitions[vertex.digest].digest


def _reason(session: Session, vertex: Vertex) -> str:
    key = session.definitions[vertex.digest]
    if not session.maps[vertex.digest].uncacheable:
        return study(session, vertex, key).reason
    if session.cache.peek(key.digest) is not None:
        return ""
    reason = study(session, vertex, key).reason
    return "" if reason in UNREMARKABLE else reason
