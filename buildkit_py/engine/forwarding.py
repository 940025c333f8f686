"""Layers leave while later ones are still being made.

As soon as a step below the top of an image has ended, its layer (and those below it) are
compressed, and sent where the image will be pushed, by threads that yield to everything else.
Nothing depends on that: what is not done, or fails, the export does and reports as usual.

With secrets in the build nothing is sent ahead: layers are searched for them before any leaves.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from buildkit_py.engine.outputs import check_outputs, export_request
from buildkit_py.errors import BuildCancelled, PybuildError
from buildkit_py.exporters.ahead import early_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from buildkit_py.digest import Digest
    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.outputs import Outputs
    from buildkit_py.engine.request import BuildRequest
    from buildkit_py.exporters.ahead import Early
    from buildkit_py.graph import Vertex


_THREADS = 2
_NICENESS = 10
_PATIENCE = 1.0  # seconds for a server that does not answer, once the build has failed


class Forwarder:
    """Works on layers of finished steps. Use as `with` block around the solve.

    `chain` gives a snapshot and those below it, lowest first; `below_top` are the vertices whose
    layers the image will have, but for its top, with which the build is over.
    When the block ends well, work that has begun is waited for; else it is broken off, and left
    alone where it waits for a server.
    """

    def __init__(
        self,
        chain: Callable[[int], Iterable[int]],
        jobs: Sequence[Early],
        below_top: frozenset[Digest],
    ) -> None:
        self._chain = chain
        self._jobs = dict(enumerate(jobs))
        self._below_top = below_top
        self._stopped = threading.Event()
        self._work: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._known: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stopped.set()
        with suppress(queue.Empty):  # what has not begun is the export's
            while True:
                self._work.get_nowait()
        for _ in self._threads:
            self._work.put(None)
        try:
            for number, thread in enumerate(self._threads):
                thread.join(None if error is None else _PATIENCE * (number == 0))
        except BaseException:
            self._stopped.set()
            raise

    def made(self, vertex: Vertex, snapshot: int | None) -> None:
        """A vertex has its result. Called from any thread, for one vertex at a time or several."""
        if snapshot is None or vertex.digest not in self._below_top or not self._jobs:
            return
        for item in self._chain(snapshot):
            if item not in self._known:
                self._known.add(item)
                self._work.put(item)
        while len(self._threads) < _THREADS:
            thread = threading.Thread(target=self._serve, name="forward", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        with suppress(OSError):  # of this thread alone, and of those that it starts
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (snapshot := self._work.get()) is not None:
            for number, job in list(self._jobs.items()):
                try:
                    job(snapshot, self._watch)
                except Exception as error:
                    if self._stopped.is_set():
                        return  # whatever it is, by now the store may be closed
                    if not isinstance(error, PybuildError | OSError):
                        raise
                    import logging  # noqa: PLC0415 - costs time, and is rare

                    log = logging.getLogger(__name__)
                    log.debug("nothing more is sent ahead: %s", error)
                    self._jobs.pop(number, None)

    def _watch(self) -> None:
        if self._stopped.is_set():
            raise BuildCancelled("canceled")


def open_forwarder(
    outputs: Outputs, request: BuildRequest, compiled: Compiled, env: BuildEnvironment
) -> Forwarder:
    """Check the outputs' attributes, and prepare what can be done ahead. Raises UsageError."""
    check_outputs(outputs, request, compiled, env)
    wanted = export_request(outputs, request, (), compiled, env)
    jobs = []
    for spec in outputs.specs:
        job = early_work(spec, env.store, wanted, send=not request.secrets)
        if job is not None and not request.squash:
            jobs.append(job)
    below = {
        item.digest
        for image in compiled.images
        if image.root is not None
        for item in _below(image.root)
    }

    def chain(snapshot: int) -> list[int]:
        return [item.id for item in env.store.snapshots.chain(snapshot)]

    return Forwarder(chain, jobs, frozenset(below))


def _below(top: Vertex) -> Iterator[Vertex]:
    """The vertices whose layers the top stands on."""
    current = top.inputs[0] if top.inputs else None
    while current is not None:
        yield current
        current = current.inputs[0] if current.inputs else None
