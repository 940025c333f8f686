"""What the solver asks of the world.

The solver is handed a `Worker` (which alone knows sources, snapshots and sandboxes) and cache
backends. Results are named by snapshot ids of the store, so the solver never touches a file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from buildkit_py.cache.keys import CacheMap, Selection
    from buildkit_py.graph import Vertex
    from buildkit_py.progress.events import EventSink


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a vertex gave: a snapshot of the store, or `None` for an empty root.

    `context` marks a build context, which is no snapshot: its files stay where they are.
    """

    snapshot: int | None = None
    context: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Previous:
    """An earlier result of the same step, which differs from the wanted one in some files only.

    `old` and `new` are, per input that counts by content, the lists of files (path in the tree to
    digits of the entry's digest) that it was made of and that it is to be made of now.
    """

    snapshot: int
    old: Mapping[int, Mapping[str, str]]
    new: Mapping[int, Mapping[str, str]]

    def unchanged(self, number: int, path: bytes) -> bool:
        """Whether a file (absolute path in the tree of an input) is as it was then."""
        name = os.fsdecode(path.lstrip(b"/"))
        digest = self.new.get(number, {}).get(name)
        return digest is not None and self.old.get(number, {}).get(name) == digest


def _nothing() -> None:
    """Where nothing was put off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a running vertex may use.

    Call `catch_up` when there is nothing to do but wait: it says of earlier vertices what has not
    been said yet.
    """

    cancelled: threading.Event = field(default_factory=threading.Event)
    emit: EventSink
    catch_up: Callable[[], None] = _nothing
    no_cache: bool = False
    previous: Previous | None = None


class Worker(Protocol):
    """Runs vertices. Calls come from several threads."""

    def cache_map(self, vertex: Vertex) -> CacheMap:
        """The op's own digest and, for each input, what of it belongs into the key.

        For a source this resolves it (a context is scanned, an image is pinned already), so that
        the digest names content. Raises SourceError.
        """
        ...

    def content_digest(self, result: Result, selection: Selection) -> str:
        """Digest of the selected files of a result. Raises CopyError for a missing path."""
        ...

    def content_files(self, result: Result, selection: Selection) -> Mapping[str, str]:
        """The files that `content_digest` covers, for explaining what has changed."""
        ...

    def unchanged(
        self, result: Result, selection: Selection, digest: str, *, mounted: bool
    ) -> bool:
        """Whether a context's files still have the digest they had, after they were used."""
        ...

    def run(self, vertex: Vertex, inputs: Sequence[Result | None], context: RunContext) -> Result:
        """Carry out the op. Raises SolveError; BuildCancelled when `context.cancelled` is set."""
        ...
