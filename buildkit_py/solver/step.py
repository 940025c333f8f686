"""One vertex whose inputs are there: look it up by its further keys, else run it.

Around the run stands a lock named by the content key: a process that wants the same step waits,
then finds the record. A thread holds at most one such lock and never waits for a second one.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.cache.base import CacheRecord
from buildkit_py.cache.explain import UNREMARKABLE
from buildkit_py.cache.keys import CacheKey, derive_key
from buildkit_py.digest import Digest, digest_of, hex_of
from buildkit_py.errors import BuildCancelled
from buildkit_py.graph import ContextOp, ExecOp, FileOp
from buildkit_py.progress.events import (
    VertexCached,
    VertexCompleted,
    VertexStarted,
    VertexStatus,
)
from buildkit_py.solver.lookup import accept, name_vertex
from buildkit_py.solver.misses import Miss, description_of, save_lists, slot_of, study
from buildkit_py.solver.ports import RunContext
from buildkit_py.solver.solution import Origin, Outcome
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.graph import Vertex
    from buildkit_py.solver.later import Later
    from buildkit_py.solver.ports import Result
    from buildkit_py.solver.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """The keys of a vertex, in the order in which they are tried."""

    definition: CacheKey
    chained: CacheKey
    content: CacheKey

    @property
    def aliases(self) -> tuple[Digest, ...]:
        return (self.definition.digest, self.chained.digest, self.content.digest)


def handle(session: Session, vertex: Vertex, later: Later) -> None:
    """Give a vertex its result, and say so, or later. Raises what the worker raises.

    A call to `later.catch_up` must follow. It is made here when the vertex fails.
    """
    clock = session.settings.clock
    name = vertex.options.name
    started = VertexStarted(vertex=vertex.digest, name=name, time=clock())
    later.add(lambda: session.emit(started))
    if not _runs_at_once(session, vertex):
        later.catch_up()
    try:
        cached = _solve(session, vertex, later)
    except BaseException as error:
        text = "canceled" if isinstance(error, BuildCancelled) else str(error)
        name_vertex(error, vertex)
        ended = VertexCompleted(vertex=vertex.digest, name=name, time=clock(), error=text)
        later.add(lambda: session.emit(ended))
        later.catch_up()
        raise
    kind = VertexCached if cached else VertexCompleted
    event = kind(vertex=vertex.digest, name=name, time=clock())
    later.add(lambda: session.emit(event))


def _runs_at_once(session: Session, vertex: Vertex) -> bool:
    """Whether nothing that takes time (a download, another build) comes before its program."""
    op, below = vertex.op, vertex.inputs[0] if vertex.inputs else None
    if not isinstance(op, ExecOp) or op.mounts or session.imports or below is None:
        return False
    if not isinstance(below.op, ExecOp | FileOp):
        return False  # an image may have to be fetched
    outcome = session.outcomes.get(below.digest)
    return outcome is not None and outcome.origin is Origin.RUN


def _solve(session: Session, vertex: Vertex, later: Later) -> bool:
    if session.cancelled.is_set():
        raise BuildCancelled("the build was interrupted")
    if session.maps[vertex.digest].uncacheable:
        _run_source(session, vertex, later)
        return False
    keys = _derive(session, vertex)
    again = vertex.options.no_cache
    if not again and _find(session, vertex, keys, Origin.CACHED):
        return True
    miss = study(session, vertex, keys.content)
    with ExitStack() as stack:
        if not again and session.settings.locks is not None:
            stack.enter_context(_lock(session, vertex, keys.content.digest, later))
            if _find(session, vertex, keys, Origin.WAITED):
                return True
        _run(session, vertex, keys, miss, later)
    return False


def _derive(session: Session, vertex: Vertex) -> _Keys:
    cache_map = session.maps[vertex.digest]
    chained = derive_key(cache_map, session.input_parts(vertex, session.canonical, contents=False))
    content = derive_key(cache_map, session.input_parts(vertex, session.canonical, contents=True))
    return _Keys(definition=session.definitions[vertex.digest], chained=chained, content=content)


def _find(session: Session, vertex: Vertex, keys: _Keys, origin: Origin) -> bool:
    """Look up the keys that depend on the inputs' results; a hit makes the others aliases."""
    for key in {item.digest: item for item in (keys.chained, keys.content)}.values():
        record = session.find(vertex, key)
        if record is not None:
            session.cache.alias(record, [k for k in keys.aliases if k != record.canonical])
            accept(session, vertex, record, origin)
            outcome = session.outcomes[vertex.digest]
            every = tuple(dict.fromkeys((*outcome.keys, *keys.aliases)))
            session.outcomes[vertex.digest] = replace(outcome, keys=every)
            return True
    return False


def _lock(session: Session, vertex: Vertex, key: Digest, later: Later) -> FileLock:
    folder = session.settings.locks
    assert folder is not None

    def waiting() -> None:
        later.catch_up()
        session.emit(
            VertexStatus(
                vertex=vertex.digest,
                id="waiting for another build",
                action="waiting",
                current=0,
                total=0,
                time=session.settings.clock(),
            )
        )

    path = folder / f"step-{hex_of(key)[:32]}"  # swept with the garbage
    return FileLock(path, cancelled=session.cancelled, on_wait=waiting)


def _inputs(session: Session, vertex: Vertex) -> list[Result | None]:
    return [None if item is None else session.result_of(item) for item in vertex.inputs]


def _run_source(session: Session, vertex: Vertex, later: Later) -> None:
    key = session.definitions[vertex.digest]
    context = RunContext(cancelled=session.cancelled, emit=session.emit, catch_up=later.catch_up)
    started = session.settings.clock()
    known = session.cache.peek(key.digest) is not None
    reason = "" if known else study(session, vertex, key).reason
    result = session.worker.run(vertex, _inputs(session, vertex), context)
    if not known:
        session.cache.save(_record(session, vertex, key, key.digest, result))
    session.canonical[vertex.digest] = key.digest
    outcome = Outcome(
        origin=Origin.RUN,
        canonical=key.digest,
        keys=(key.digest,),
        reason="" if reason in UNREMARKABLE else reason,
        description=description_of(vertex),
        created=started,
        seconds=session.settings.clock() - started,
    )
    session.keep(vertex, result, outcome)
    later.add(lambda: session.tell(vertex, result, outcome))


def _run(session: Session, vertex: Vertex, keys: _Keys, miss: Miss, later: Later) -> None:
    if session.cancelled.is_set():
        raise BuildCancelled("the build was interrupted")
    context = RunContext(
        cancelled=session.cancelled,
        emit=session.emit,
        catch_up=later.catch_up,
        no_cache=vertex.options.no_cache,
        previous=miss.previous,
    )
    started = session.settings.clock()
    result = session.worker.run(vertex, _inputs(session, vertex), context)
    canonical = keys.content.digest
    if vertex.options.no_cache:
        # What was run anew may differ from what the same key gave before; what is built on it
        # must not find what was built on that.
        canonical = digest_of({"key": canonical, "run": os.urandom(16).hex()})
    if _inputs_stood_still(session, vertex):
        save_lists(session, miss.files)
        record = _record(session, vertex, keys.content, canonical, result, miss.lists)
        session.cache.save(record, keys.aliases)
    else:
        canonical = digest_of({"key": canonical, "run": os.urandom(16).hex()})
    session.canonical[vertex.digest] = canonical
    outcome = Outcome(
        origin=Origin.RUN,
        canonical=canonical,
        keys=tuple(dict.fromkeys((canonical, *keys.aliases))),
        reason=miss.reason,
        description=description_of(vertex),
        created=started,
        seconds=session.settings.clock() - started,
    )
    session.keep(vertex, result, outcome)
    later.add(lambda: session.tell(vertex, result, outcome))


def _inputs_stood_still(session: Session, vertex: Vertex) -> bool:
    """Whether no file of a context was changed between taking its digest and now.

    Otherwise the result is good for this build, but would be wrong under its key for ever after.
    """
    counted = session.maps[vertex.digest].inputs
    return all(
        session.worker.unchanged(
            session.result_of(item),
            selection,
            session.content(item, selection),
            mounted=isinstance(vertex.op, ExecOp),
        )
        for item, how in zip(vertex.inputs, counted, strict=False)
        if item is not None and isinstance(item.op, ContextOp)
        for selection in how.selections
    )


def _record(
    session: Session,
    vertex: Vertex,
    key: CacheKey,
    canonical: Digest,
    result: Result,
    lists: Sequence[Sequence[str] | None] = (),
) -> CacheRecord:
    parts = {**key.parts, "lists": lists}
    parts["after"] = [
        None if item is None or isinstance(item.op, ContextOp) else description_of(item)
        for item in vertex.inputs
    ]
    return CacheRecord(
        key=canonical,
        canonical=canonical,
        snapshot=result.snapshot,
        parts=parts,
        description=description_of(vertex),
        slot=slot_of(session.settings.scope, vertex),
        created=session.settings.clock(),
    )
