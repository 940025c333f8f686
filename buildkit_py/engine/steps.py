"""Which instruction has its result: turns results of vertices into StepCompleted, in file order.

A cached build looks at few vertices. What lies below a hit is not looked at, but its snapshots
are the parents of the one that was found, so their steps can still be named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, digest_of, hex_of
from buildkit_py.engine.request import StepResult
from buildkit_py.graph import ExecOp, FileOp, ImageOp, MergeOp, Vertex
from buildkit_py.progress.events import EventSink, StepCompleted, StepInfo
from buildkit_py.stage_builder import LoweredStep

if TYPE_CHECKING:
    from buildkit_py.store.snapshots import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexOutcome:
    """How a vertex ended: its snapshot, and whether it was found or made."""

    snapshot: int | None
    cached: bool
    started: float = 0.0
    completed: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedStep:
    """A step with its id (hex digits) and outcome."""

    step: LoweredStep
    id: str
    outcome: VertexOutcome


def step_infos(steps: Sequence[LoweredStep]) -> tuple[StepInfo, ...]:
    """The steps as displays want them."""
    own = {step.vertex.digest for step in steps if step.vertex is not None}
    return tuple(
        StepInfo(
            text=step.text,
            vertex=None if step.vertex is None else step.vertex.digest,
            stage=step.stage,
            name="" if step.vertex is None else step.vertex.options.name,
            triggers=step.triggers,
            needs=() if step.vertex is None else _needs(step.vertex, own),
        )
        for step in steps
    )


def _needs(vertex: Vertex, own: set[Digest]) -> tuple[Digest, ...]:
    """The nearest steps below: what is no step (a link, a context) is looked through."""
    found: dict[Digest, None] = {}
    waiting = list(vertex.inputs)
    while waiting:
        item = waiting.pop(0)
        if item is None:
            continue
        if item.digest in own:
            found[item.digest] = None
        else:
            waiting.extend(item.inputs)
    return tuple(found)


@dataclass(slots=True, kw_only=True)
class StepTracker:
    """Collects outcomes, and says of each step when it and all before it are done.

    `parent_of` gives the parent of a snapshot. The step of a FROM has its base image's id.
    """

    steps: Sequence[LoweredStep]
    emit: EventSink
    clock: Callable[[], float]
    parent_of: Callable[[int], int | None]
    finished: list[FinishedStep] = field(default_factory=list)
    outcomes: dict[Digest, VertexOutcome] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _said: int = 0

    def restart(self) -> None:
        """Forget all outcomes, for a graph that is solved again; what was said is not repeated."""
        with self._guard:
            self.finished.clear()
            self.outcomes.clear()

    def vertex_done(self, vertex: Vertex, outcome: VertexOutcome) -> None:
        """Take the outcome of a vertex; may be called from any thread."""
        with self._guard:
            self._learn(vertex, outcome)
            self._advance(hold_last=True)

    def _learn(self, vertex: Vertex, outcome: VertexOutcome) -> None:
        self.outcomes[vertex.digest] = outcome
        if not outcome.cached:
            return
        # below a hit: the chain of parents tells the snapshots of vertices nobody looked at
        current, snapshot = vertex, outcome.snapshot
        while snapshot is not None and isinstance(current.op, ExecOp | FileOp | MergeOp):
            below = current.inputs[0] if current.inputs else None
            if below is None or below.digest in self.outcomes:
                return
            snapshot = self.parent_of(snapshot)
            self.outcomes[below.digest] = VertexOutcome(snapshot=snapshot, cached=True)
            current = below

    def outcomes_of_steps(self) -> list[FinishedStep]:
        """The steps whose results are known, by the vertices that made them."""
        return [
            FinishedStep(step=step, id="", outcome=outcome)
            for step in self.steps
            if step.vertex is not None
            and (outcome := self.outcomes.get(step.vertex.digest)) is not None
        ]

    def finish(self, image_id: str | None) -> None:
        """Say the rest. The last step is the image, so it bears the image's id."""
        with self._guard:
            for step in self.steps:
                vertex = step.vertex
                if vertex is not None and vertex.digest not in self.outcomes:
                    self.outcomes[vertex.digest] = VertexOutcome(snapshot=None, cached=True)
            self._advance(hold_last=False, image_id=image_id)

    def _advance(self, *, hold_last: bool, image_id: str | None = None) -> None:
        last = len(self.steps) - 1
        while len(self.finished) <= last:
            index = len(self.finished)
            step = self.steps[index]
            outcome = self._outcome(step)
            if outcome is None or (hold_last and index == last):
                return
            name = self._id(step, outcome)
            if index == last and image_id:
                name = hex_of(Digest(image_id))
            self.finished.append(FinishedStep(step=step, id=name, outcome=outcome))
            if index < self._said:
                continue
            self._said = index + 1
            self.emit(
                StepCompleted(index=index, id=name, cached=outcome.cached, time=self.clock())
            )

    def _outcome(self, step: LoweredStep) -> VertexOutcome | None:
        if step.vertex is not None:
            return self.outcomes.get(step.vertex.digest)
        if step.root is None:
            return VertexOutcome(snapshot=None, cached=True)
        below = self.outcomes.get(step.root.digest)
        if below is None:
            return None
        before = self.finished[-1] if self.finished else None
        cached = before.outcome.cached if before and before.step.stage == step.stage else True
        return VertexOutcome(snapshot=below.snapshot, cached=cached)

    def _id(self, step: LoweredStep, outcome: VertexOutcome) -> str:
        if step.vertex is not None and isinstance(step.vertex.op, ImageOp):
            return hex_of(step.vertex.op.digest)
        identity = {
            "config": step.moment.trail,
            "history": step.trail,
            "snapshot": outcome.snapshot,
        }
        return hex_of(digest_of(identity))


def parents_in(snapshots: SnapshotStore) -> Callable[[int], int | None]:
    """For a tracker: the parent of a snapshot."""

    def parent_of(snapshot: int) -> int | None:
        found = snapshots.find(snapshot)
        return None if found is None else found.parent

    return parent_of


def steps_so_far(tracker: StepTracker, sizes: dict[int, int]) -> tuple[StepResult, ...]:
    """All steps of a build that has failed; those that were not done are not cached and took 0."""
    undone = VertexOutcome(snapshot=None, cached=False)
    steps = []
    reasons = {}
    for step in tracker.steps:
        outcome = undone
        if step.vertex is not None:
            outcome = tracker.outcomes.get(step.vertex.digest, undone)
            reasons[step.vertex.digest] = outcome.reason
        steps.append(FinishedStep(step=step, id="", outcome=outcome))
    return step_results(steps, reasons, sizes)


def step_results(
    finished: list[FinishedStep], reasons: dict[Digest, str], sizes: dict[int, int]
) -> tuple[StepResult, ...]:
    """The steps as the build's result shows them."""
    out: list[StepResult] = []
    for item in finished:
        vertex = item.step.vertex
        outcome = item.outcome
        result = StepResult(
            text=item.step.text,
            id=item.id,
            cached=outcome.cached,
            stage=item.step.stage,
            span_line=item.step.span.start.line if item.step.span else 0,
            metadata=vertex is None,
        )
        if vertex is not None:
            result = replace(
                result,
                seconds=max(0.0, outcome.completed - outcome.started),
                size=sizes.get(outcome.snapshot, 0) if outcome.snapshot is not None else 0,
                reason=reasons.get(vertex.digest, ""),
            )
        out.append(result)
    return tuple(out)
