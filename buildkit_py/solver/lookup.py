"""Top-down: which vertices are known by their definition keys, and which must be handled.

From each root the definition key is tried; only where it is not found are the inputs looked at in
turn. So when a vertex near the target is found, nothing below it is fetched, unpacked or hashed.
A vertex that is to be run anew (`no_cache`), and all that is built on it, is not tried: its result
will be another one than its definition was recorded with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.cache.keys import derive_key
from buildkit_py.errors import SolveError
from buildkit_py.graph import ContextOp
from buildkit_py.progress.events import VertexCached, VertexCompleted, VertexStarted
from buildkit_py.solver.ports import Result
from buildkit_py.solver.solution import Origin, Outcome

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheRecord
    from buildkit_py.digest import Digest
    from buildkit_py.graph import Vertex
    from buildkit_py.solver.session import Session


def define(session: Session) -> None:
    """Give each vertex its definition key. Raises what the worker raises, with the vertex' name.

    Contexts are scanned on the way, as far as something selects of them.
    """
    contexts = [v for v in session.graph.vertices.values() if isinstance(v.op, ContextOp)]
    for vertex in contexts:
        _started(session, vertex)
    keys: dict[Digest, Digest] = {}
    for vertex in session.graph.vertices.values():
        if isinstance(vertex.op, ContextOp):
            session.result_of(vertex)
            continue
        try:
            session.maps[vertex.digest] = session.worker.cache_map(vertex)
            parts = session.input_parts(vertex, keys, contents=False)
        except Exception as error:
            _failed(session, vertex, error, contexts)
            raise
        key = derive_key(session.maps[vertex.digest], parts)
        session.definitions[vertex.digest] = key
        keys[vertex.digest] = key.digest
    for vertex in contexts:
        _completed(session, vertex)
        session.outcomes[vertex.digest] = Outcome(origin=Origin.RUN)


def choose(session: Session) -> list[Vertex]:
    """The vertices to handle, inputs first; what was found is in the session's results."""
    session.rerun = _to_run_again(session)
    wanted: dict[Digest, Vertex] = {}
    found: set[Digest] = set()
    stack = list(session.graph.roots)
    while stack:
        vertex = stack.pop()
        digest = vertex.digest
        if digest in wanted or digest in found or isinstance(vertex.op, ContextOp):
            continue
        record = _known(session, vertex)
        if record is not None:
            accept(session, vertex, record, Origin.CACHED)
            found.add(digest)
            continue
        wanted[digest] = vertex
        stack.extend(item for item in vertex.inputs if item is not None)
    _announce(session, wanted, found)
    return [vertex for digest, vertex in session.graph.vertices.items() if digest in wanted]


def accept(session: Session, vertex: Vertex, record: CacheRecord, origin: Origin) -> None:
    """Take a record as the result of a vertex."""
    session.canonical[vertex.digest] = record.canonical
    keys = dict.fromkeys((record.canonical, record.key, session.definitions[vertex.digest].digest))
    outcome = Outcome(
        origin=origin,
        canonical=record.canonical,
        keys=tuple(keys),
        description=record.description,
        created=record.created,
    )
    session.settle(vertex, Result(snapshot=record.snapshot), outcome)


def _known(session: Session, vertex: Vertex) -> CacheRecord | None:
    if vertex.digest in session.rerun or session.maps[vertex.digest].uncacheable:
        return None
    return session.find(vertex, session.definitions[vertex.digest])


def _to_run_again(session: Session) -> set[Digest]:
    """The vertices that are not to be taken from the cache, and those built on them."""
    again: set[Digest] = set()
    for digest, vertex in session.graph.vertices.items():
        below = any(item is not None and item.digest in again for item in vertex.inputs)
        cache_map = session.maps.get(digest)  # a context has none
        asked = vertex.options.no_cache and cache_map is not None and not cache_map.uncacheable
        if below or asked:
            again.add(digest)
    return again


def _announce(session: Session, wanted: dict[Digest, Vertex], found: set[Digest]) -> None:
    """Say of everything that will not be handled that it is cached, in the order of the graph."""
    for digest, vertex in session.graph.vertices.items():
        if digest in wanted or isinstance(vertex.op, ContextOp):
            continue
        if digest not in found:
            record = _below(session, vertex)
            if record is not None:
                accept(session, vertex, record, Origin.SKIPPED)
            else:
                session.outcomes[digest] = Outcome(
                    origin=Origin.SKIPPED, keys=(session.definitions[digest].digest,)
                )
        session.emit(
            VertexCached(vertex=digest, name=vertex.options.name, time=session.settings.clock())
        )


def _below(session: Session, vertex: Vertex) -> CacheRecord | None:
    """The record of a vertex below a hit. It is not needed, but exports hand it on."""
    key = session.definitions[vertex.digest]
    record = session.cache.peek(key.digest)
    if record is None and not session.maps[vertex.digest].uncacheable:
        return session.find_imported(vertex, key)
    return record


def _started(session: Session, vertex: Vertex) -> None:
    now = session.settings.clock()
    session.emit(VertexStarted(vertex=vertex.digest, name=vertex.options.name, time=now))


def _completed(session: Session, vertex: Vertex, error: str | None = None) -> None:
    now = session.settings.clock()
    session.emit(
        VertexCompleted(vertex=vertex.digest, name=vertex.options.name, time=now, error=error)
    )


def _failed(session: Session, vertex: Vertex, error: Exception, contexts: list[Vertex]) -> None:
    name_vertex(error, vertex)
    for context in contexts:
        _completed(session, context)
    _started(session, vertex)
    _completed(session, vertex, str(error))


def name_vertex(error: BaseException, vertex: Vertex) -> None:
    """Add the vertex' name and source range to an error that has none."""
    if isinstance(error, SolveError):
        error.vertex = error.vertex or vertex.options.name
        if error.span is None:
            error.span = vertex.options.span
