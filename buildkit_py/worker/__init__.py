"""The local worker: from the kind of an op to what carries it out."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.errors import CopyError
from buildkit_py.graph import ContextOp, ExecOp, FileOp, GitOp, HttpOp, ImageOp, MergeOp
from buildkit_py.solver.ports import Result
from buildkit_py.store.failures import os_error

if TYPE_CHECKING:
    from buildkit_py.cache.keys import CacheMap, Selection
    from buildkit_py.graph import Vertex
    from buildkit_py.layers.tree import Tree
    from buildkit_py.solver.ports import Previous, RunContext
    from buildkit_py.store.snapshots import SnapshotStore
    from buildkit_py.worker.contents import ContentDigests
    from buildkit_py.worker.copy_tree import PreviousCopy
    from buildkit_py.worker.exec import ExecRunner
    from buildkit_py.worker.source import SourceRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWorker:
    """Runs vertices on this machine; the solver's `Worker`. Used from several threads.

    `exec_runner` is asked for at the first RUN. `made_at` gives the time (seconds) of files that
    have no source to take one from. `warn` is told of what a step could not do as it was asked.
    """

    snapshots: SnapshotStore
    sources: SourceRunner
    contents: ContentDigests
    exec_runner: Callable[[], ExecRunner]
    tree_of: Callable[[Result | None], Tree | None]
    made_at: Callable[[], int]
    warn: Callable[[str], None] = lambda _: None

    def cache_map(self, vertex: Vertex) -> CacheMap:
        """What of an op and of its inputs belongs into the key. Raises SourceError."""
        if isinstance(vertex.op, HttpOp | GitOp):
            return self.sources.cache_map(vertex)
        from buildkit_py.worker.keys import cache_map  # noqa: PLC0415

        return cache_map(vertex)

    def content_digest(self, result: Result, selection: Selection) -> str:
        """The digest of the selected files of a result."""
        return self.contents.content_digest(result, selection)

    def content_files(self, result: Result, selection: Selection) -> Mapping[str, str]:
        """The files that the digest covers."""
        return self.contents.content_files(result, selection)

    def unchanged(
        self, result: Result, selection: Selection, digest: str, *, mounted: bool
    ) -> bool:
        """Whether a context's files still have that digest."""
        return self.contents.unchanged(result, selection, digest, mounted=mounted)

    def run(self, vertex: Vertex, inputs: Sequence[Result | None], context: RunContext) -> Result:
        """Carry out the op. Raises SolveError."""
        op = vertex.op
        if isinstance(op, ImageOp | ContextOp | HttpOp | GitOp):
            return self.sources.run(vertex, context)
        if isinstance(op, ExecOp):
            return self.exec_runner().run(vertex, inputs, context)
        if isinstance(op, FileOp):
            return self._file(vertex, op, inputs, context)
        assert isinstance(op, MergeOp)
        return self._merge(vertex, inputs)

    def _merge(self, vertex: Vertex, inputs: Sequence[Result | None]) -> Result:
        base, top = inputs
        assert top is not None
        assert top.snapshot is not None
        parent = None if base is None else base.snapshot
        description = vertex.options.instruction or vertex.options.name
        return Result(
            snapshot=self.snapshots.rebase(parent, top.snapshot, description=description).id
        )

    def _file(
        self, vertex: Vertex, op: FileOp, inputs: Sequence[Result | None], context: RunContext
    ) -> Result:
        from buildkit_py.layers.attributes import lacks  # noqa: PLC0415
        from buildkit_py.worker.file import FileRun, run_file_op  # noqa: PLC0415

        base = inputs[0] if inputs else None
        parent = None if base is None else base.snapshot
        previous = self._previous(context.previous)
        with self.snapshots.prepare(parent) as active:
            run = FileRun(
                base=active.below,
                inputs=[None, *(self.tree_of(item) for item in inputs[1:])],
                upper=active.upper,
                made_at=max(self.made_at(), op.settle or 0),
                previous=previous,
                cancelled=context.cancelled,
            )
            try:
                result = run_file_op(op, run)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
                    raise os_error("cannot write to the store", error) from error
                named = isinstance(error.filename, (str, bytes))
                name = os.fsdecode(error.filename) if named else ""
                where = f" {name}" if name and not name.startswith(str(active.folder)) else ""
                raise CopyError(f"cannot copy{where}: {error.strerror}") from error
            for text in (
                *result.warnings,
                *lacks(result.squashed_owners, result.skipped_devices),
            ):
                self.warn(text)
            description = vertex.options.instruction or vertex.options.name
            made = self.snapshots.commit(active, description=description, settle=op.settle)
            self.snapshots.layers.similar[made.directory] = (
                None if previous is None else previous.upper
            )
            return Result(snapshot=made.id)

    def _previous(self, previous: Previous | None) -> PreviousCopy | None:
        """The layer of an earlier run of the same step, if its files are here."""
        if previous is None:
            return None
        from buildkit_py.worker.copy_tree import PreviousCopy  # noqa: PLC0415

        found = self.snapshots.find(previous.snapshot)
        if found is None or not found.unpacked or not self.snapshots.use(previous.snapshot):
            return None

        same: dict[int, frozenset[bytes]] = {}
        for index, new in previous.new.items():
            old = previous.old.get(index, {})
            kept = [name for name, digest in new.items() if old.get(name) == digest]
            same[index] = frozenset([b"/" + os.fsencode(name) for name in kept])

        def unchanged(index: int, path: bytes) -> bool:
            return path in same.get(index, ())

        return PreviousCopy(upper=found.directory, unchanged=unchanged)
