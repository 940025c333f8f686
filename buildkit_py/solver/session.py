"""The state of one solve: keys and results of vertices so far, shared by its threads.

Each vertex' entries are written by the one thread that handles it, before the scheduler lets any
of its users start; so plain dictionaries do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from buildkit_py.cache.keys import CacheKey, CacheMap, InputPart, Selection, by_content, by_key
from buildkit_py.digest import Digest, digest_of
from buildkit_py.graph import ContextOp
from buildkit_py.solver.ports import Result

if TYPE_CHECKING:
    from buildkit_py.cache.base import CacheBackend, CacheRecord, CacheStore
    from buildkit_py.graph import BuildGraph, Vertex
    from buildkit_py.progress.events import EventSink
    from buildkit_py.solver.ports import Worker
    from buildkit_py.solver.solution import Outcome


Observe: TypeAlias = Callable[["Vertex", Result, "Outcome"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverSettings:
    """What does not change from one solve to the next.

    `locks` is a folder for lock files by which processes wait for each other's equal steps.
    `scope` tells builds apart that have steps of equal text (by context and Dockerfile, say): it
    only helps to explain misses. `argument_names` are what ARG declares, for the same purpose,
    `no_cache_option` is what forbids the cache to vertices that do without it.
    `observe` is told of every result as soon as it is there, from any thread.
    """

    jobs: int = 4
    locks: Path | None = None
    scope: str = ""
    argument_names: frozenset[str] = frozenset()
    no_cache_option: str = "--no-cache"
    clock: Callable[[], float]
    observe: Observe | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """One solve."""

    graph: BuildGraph
    worker: Worker
    cache: CacheStore
    imports: Sequence[CacheBackend]
    emit: EventSink
    settings: SolverSettings
    cancelled: threading.Event
    maps: dict[Digest, CacheMap] = field(default_factory=dict)
    definitions: dict[Digest, CacheKey] = field(default_factory=dict)
    canonical: dict[Digest, Digest] = field(default_factory=dict)
    results: dict[Digest, Result] = field(default_factory=dict)
    outcomes: dict[Digest, Outcome] = field(default_factory=dict)
    rerun: set[Digest] = field(default_factory=set)
    contents: dict[tuple[Digest, Digest], str] = field(default_factory=dict)

    def settle(self, vertex: Vertex, result: Result, outcome: Outcome) -> None:
        """Take the result of a vertex, and say so to whoever observes."""
        self.keep(vertex, result, outcome)
        self.tell(vertex, result, outcome)

    def keep(self, vertex: Vertex, result: Result, outcome: Outcome) -> None:
        """Take the result of a vertex. `tell` must follow."""
        self.results[vertex.digest] = result
        self.outcomes[vertex.digest] = outcome

    def tell(self, vertex: Vertex, result: Result, outcome: Outcome) -> None:
        """Say to whoever observes what was kept."""
        if self.settings.observe is not None:
            self.settings.observe(vertex, result, outcome)

    def find(self, vertex: Vertex, key: CacheKey) -> CacheRecord | None:
        """A record, from the state root or from an imported cache (then kept in the root)."""
        record = self.cache.find(key.digest)
        return self.find_imported(vertex, key) if record is None else record

    def find_imported(self, vertex: Vertex, key: CacheKey) -> CacheRecord | None:
        """A record of an imported cache, kept with what a later miss is compared with."""
        for backend in self.imports:
            record = backend.find(key.digest)
            if record is not None:
                from buildkit_py.solver.misses import adopt  # noqa: PLC0415  # imports only

                return adopt(self, vertex, key, record)
        return None

    def content(self, vertex: Vertex, selection: Selection) -> str:
        """The digest of what is selected of a vertex' result, which is there (or a context)."""
        known = (vertex.digest, digest_of(selection.to_json()))
        if known not in self.contents:
            result = self.result_of(vertex)
            self.contents[known] = self.worker.content_digest(result, selection)
        return self.contents[known]

    def result_of(self, vertex: Vertex) -> Result:
        """The result of a vertex; a context is its own result and needs no run."""
        if isinstance(vertex.op, ContextOp):
            return self.results.setdefault(vertex.digest, Result(context=vertex.op.name))
        return self.results[vertex.digest]

    def input_parts(
        self, vertex: Vertex, keys: Mapping[Digest, Digest], *, contents: bool
    ) -> list[InputPart]:
        """The inputs of a vertex as parts of its key; `keys` gives those that count by key.

        With `contents`, inputs that may count by content do; without, contexts only.
        """
        counted = self.maps[vertex.digest].inputs
        parts: list[InputPart] = []
        for index, item in enumerate(vertex.inputs):
            selections = counted[index].selections if index < len(counted) else ()
            if item is None:
                parts.append(None)
            elif selections and (contents or isinstance(item.op, ContextOp)):
                parts.append(by_content([self.content(item, chosen) for chosen in selections]))
            elif isinstance(item.op, ContextOp):
                parts.append(by_key(Digest(self.content(item, Selection()))))
            else:
                parts.append(by_key(keys[item.digest], selections))
        return parts
