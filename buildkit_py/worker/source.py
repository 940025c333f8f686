"""Runs source ops: pinned images become lazy snapshots, downloads and checkouts snapshots.

A context is no snapshot: its files stay where they are and are read through its tree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit_py.cache.keys import CacheMap
from buildkit_py.errors import BuildCancelled, SourceError
from buildkit_py.graph import ContextOp, GitOp, HttpOp, ImageOp
from buildkit_py.progress.events import VertexStatus
from buildkit_py.solver.ports import Result

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.graph import Vertex
    from buildkit_py.solver.ports import RunContext
    from buildkit_py.sources.base import Resolved, Secrets
    from buildkit_py.sources.git import GitSource
    from buildkit_py.sources.http import HttpSource
    from buildkit_py.sources.image import ImageSource
    from buildkit_py.sources.local import ContextSource
    from buildkit_py.store.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where files from outside come from; what is rarely needed is made on use."""

    images: ImageSource
    contexts: Mapping[str, ContextSource]
    http: Callable[[], HttpSource]
    git: Callable[[], GitSource]
    secrets: Secrets


@dataclass(slots=True, kw_only=True)
class SourceRunner:
    """Keys and runs source ops; used from several threads."""

    sources: Sources
    snapshots: SnapshotStore
    clock: Callable[[], float]
    _resolved: dict[Digest, Resolved] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def cache_map(self, vertex: Vertex) -> CacheMap:
        """What a download or a checkout is now. Raises SourceError."""
        resolved = self._resolve(vertex)
        return CacheMap(parts={"kind": "source", **resolved.parts})

    def run(self, vertex: Vertex, context: RunContext) -> Result:
        """Give the source's files. Raises SourceError, ContentError."""
        op = vertex.op
        if isinstance(op, ContextOp):
            return Result(context=op.name)
        if isinstance(op, ImageOp):
            return Result(snapshot=self.sources.images.snapshot(op))
        resolved = self._resolve(vertex)
        with self.snapshots.prepare(None) as active:
            self._write(vertex, resolved, active.upper, context)
            kind = "source.git.checkout" if isinstance(op, GitOp) else "source.http"
            description = vertex.options.name or kind
            return Result(
                snapshot=self.snapshots.commit(active, description=description, kind=kind).id
            )

    def _resolve(self, vertex: Vertex) -> Resolved:
        with self._guard:
            known = self._resolved.get(vertex.digest)
        if known is not None:
            return known
        op = vertex.op
        if isinstance(op, HttpOp):
            resolved = self.sources.http().resolve(op, self.sources.secrets)
        elif isinstance(op, GitOp):
            resolved = self.sources.git().resolve(op, self.sources.secrets)
        else:
            raise SourceError(f"{type(op).__name__} is no remote source")
        with self._guard:
            self._resolved[vertex.digest] = resolved
        return resolved

    def fetched(self) -> dict[str, dict[str, str]]:
        """What is known of remote sources (their digest, their commit), by vertex."""
        with self._guard:
            known = dict(self._resolved)
        return {
            vertex: {**item.facts, "digest": str(item.parts.get("digest", ""))}
            for vertex, item in known.items()
        }

    def modified(self, vertex: Vertex) -> int | None:
        """When a remote source last changed, in seconds, if it says."""
        return self._resolve(vertex).modified

    def _write(
        self, vertex: Vertex, resolved: Resolved, directory: Path, context: RunContext
    ) -> None:
        def report(what: str, current: int, total: int) -> None:
            if context.cancelled.is_set():
                raise BuildCancelled("canceled", vertex=vertex.options.name)
            context.emit(
                VertexStatus(
                    vertex=vertex.digest,
                    id=what,
                    action="downloading",
                    current=current,
                    total=total,
                    time=self.clock(),
                    done=bool(total) and current >= total,
                )
            )

        op = vertex.op
        source: Any = self.sources.http() if isinstance(op, HttpOp) else self.sources.git()
        source.write(op, resolved, directory, self.sources.secrets, report)
