"""Drives scheduler, cache and worker: looks up what is known, runs the rest on a few threads.

The thread that calls `solve` only hands out vertices and collects ends; so a KeyboardInterrupt
arrives there, sets the session's `cancelled`, and every worker unwinds as after a failure.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import BuildCancelled
from buildkit_py.graph import BuildGraph, Vertex
from buildkit_py.solver.lookup import choose, define
from buildkit_py.solver.scheduler import Scheduler
from buildkit_py.solver.session import Observe, Session, SolverSettings
from buildkit_py.solver.solution import Solution

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheBackend, CacheStore
    from buildkit_py.cache.keys import CacheKey
    from buildkit_py.digest import Digest
    from buildkit_py.progress.events import EventSink
    from buildkit_py.solver.later import Later
    from buildkit_py.solver.ports import Worker
    from buildkit_py.solver.solution import Outcome


class Solver:
    """Solves graphs with one worker and one cache. `solve` may be called from several threads."""

    def __init__(
        self,
        worker: Worker,
        cache: CacheStore,
        emit: EventSink,
        *,
        imports: Sequence[CacheBackend] = (),
        settings: SolverSettings | None = None,
    ) -> None:
        self._worker = worker
        self._cache = cache
        self._emit = emit
        self._imports = tuple(imports)
        self._settings = settings or solver_settings()

    def solve(
        self, graph: BuildGraph | Sequence[Vertex], *, cancelled: threading.Event | None = None
    ) -> Solution:
        """The results of all roots, and of whatever else was looked at.

        `cancelled` interrupts from outside; it is also set when a vertex fails, which ends the
        others. Raises the first vertex' error, or BuildCancelled.
        """
        if not isinstance(graph, BuildGraph):
            graph = BuildGraph(roots=tuple(graph))
        session = self._session(graph, cancelled or threading.Event())
        define(session)
        wanted = choose(session)
        if wanted:
            _Run(session, wanted).drive()
        return Solution(results=session.results, outcomes=session.outcomes)

    def preview(self, graph: BuildGraph) -> dict[Digest, Outcome]:
        """What solving would do, as far as can be told without running anything.

        Vertices that would be found have the origin they would have; the others RUN, with the
        reason. Steps on something that would be run anew may still be found by content.
        """
        from buildkit_py.solver.previews import predict  # noqa: PLC0415  # --dry-run only

        session = self._session(graph, threading.Event())
        define(session)
        return predict(session, choose(session))

    def keys(self, graph: BuildGraph) -> dict[Digest, tuple[CacheKey, bool]]:
        """The definition key of each vertex, and whether a record of it is at hand."""
        session = self._session(graph, threading.Event())
        define(session)
        return {
            digest: (key, self._cache.peek(key.digest) is not None)
            for digest, key in session.definitions.items()
        }

    def _session(self, graph: BuildGraph, cancelled: threading.Event) -> Session:
        return Session(
            graph=graph,
            worker=self._worker,
            cache=self._cache,
            imports=self._imports,
            emit=self._emit,
            settings=self._settings,
            cancelled=cancelled,
        )


def solver_settings(
    *,
    jobs: int = 0,
    locks: Path | None = None,
    scope: str = "",
    argument_names: frozenset[str] = frozenset(),
    no_cache_option: str = "--no-cache",
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> SolverSettings:
    """Settings with defaults; `jobs` 0 is one for each core, and two at least."""
    return SolverSettings(
        jobs=jobs or max(2, os.cpu_count() or 2),
        locks=locks,
        scope=scope,
        argument_names=argument_names,
        no_cache_option=no_cache_option,
        clock=clock,
        observe=observe,
    )


class _Run:
    """The vertices that were not found: scheduler, threads, and the first error."""

    def __init__(self, session: Session, wanted: Sequence[Vertex]) -> None:
        self._session = session
        self._vertices = {vertex.digest: vertex for vertex in wanted}
        self._scheduler = Scheduler(
            {
                vertex.digest: [
                    item.digest
                    for item in vertex.inputs
                    if item is not None and item.digest in self._vertices
                ]
                for vertex in wanted
            }
        )
        self._work: queue.SimpleQueue[Vertex | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[tuple[Digest, BaseException | None]] = queue.SimpleQueue()
        self._guard = threading.Lock()  # of the scheduler
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def drive(self) -> None:
        """Until everything has ended. Raises the first error."""
        try:
            while True:
                self._hand_out()
                if self._scheduler.finished:
                    break
                self._collect()
        except BaseException:
            self._abandon()
            raise
        finally:
            for _ in self._threads:
                self._work.put(None)
            for thread in self._threads:
                thread.join()
        if self._error is not None:
            raise self._error

    def _hand_out(self) -> None:
        with self._guard:
            self._hand_out_all()

    def _hand_out_all(self) -> None:
        if self._session.cancelled.is_set() and not self._scheduler.failed:
            self._scheduler.stop()
            self._error = self._error or BuildCancelled("the build was interrupted")
        while self._scheduler.running < self._session.settings.jobs:
            digest = self._scheduler.take()
            if digest is None:
                return
            if self._scheduler.running > len(self._threads):
                self._start_thread()
            self._work.put(self._vertices[digest])

    def _collect(self) -> None:
        digest, error = self._ends.get()
        with self._guard:
            if error is None:
                self._scheduler.complete(digest)
                return
            self._scheduler.fail(digest)
        self._session.cancelled.set()
        if self._error is None or (
            isinstance(self._error, BuildCancelled) and not isinstance(error, BuildCancelled)
        ):
            self._error = error

    def _abandon(self) -> None:
        """After an interrupt: tell the workers, and wait for what runs."""
        self._session.cancelled.set()
        with self._guard:
            self._scheduler.stop()
        while self._scheduler.running:
            digest, error = self._ends.get()
            with self._guard:
                if error is None:
                    self._scheduler.complete(digest)
                else:
                    self._scheduler.fail(digest)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"solver-{len(self._threads)}")
        thread.daemon = True
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        from buildkit_py.solver.later import Later  # noqa: PLC0415  # misses only
        from buildkit_py.solver.step import handle  # noqa: PLC0415

        later = Later()
        vertex: Vertex | None = None
        while (vertex := vertex or self._work.get()) is not None:
            error: BaseException | None = None
            try:
                handle(self._session, vertex, later)
            except BaseException as caught:  # noqa: BLE001  # raised again by drive()
                error = caught
            following = self._follow(vertex.digest) if error is None else None
            if following is None:
                self._ends.put((vertex.digest, error or _error_of(later)))
            vertex = following

    def _follow(self, digest: Digest) -> Vertex | None:
        """The one vertex that a success makes ready, for the same thread to go on with.

        A chain of steps needs no one to hand them out. None leaves the end to the driving thread.
        """
        with self._guard:
            if self._session.cancelled.is_set():
                return None
            following = self._scheduler.follow(digest)
            return None if following is None else self._vertices[following]


def _error_of(later: Later) -> BaseException | None:
    """Say what has been put off; the error that this gives, if any."""
    try:
        later.catch_up()
    except BaseException as error:  # noqa: BLE001  # raised again by drive()
        return error
    return None
