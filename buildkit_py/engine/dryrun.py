"""`--dry-run`: what a build would do, told without running anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildkit_py.engine.request import BuildResult
from buildkit_py.engine.steps import StepTracker, VertexOutcome, step_results
from buildkit_py.progress.events import BuildCompleted, BuildWarning
from buildkit_py.solver.misses import description_of
from buildkit_py.solver.solution import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.graph import BuildGraph

KEYS = "pybuild.keys"


def foresee(
    ref: str,
    graph: BuildGraph,
    tracker: StepTracker,
    shop: Workshop,
    warnings: Sequence[BuildWarning],
    started: float,
) -> BuildResult:
    """The result of a dry run: steps with reasons; with `explain`, keys in the metadata too."""
    solver = shop.solver(None)
    outcomes = solver.preview(graph)
    for digest, outcome in outcomes.items():
        tracker.vertex_done(
            graph.vertices[digest],
            VertexOutcome(snapshot=None, cached=outcome.origin is not Origin.RUN),
        )
    tracker.finish(None)
    reasons = {digest: item.reason for digest, item in outcomes.items()}
    now = shop.env.clock()
    metadata: dict[str, Any] = {}
    if shop.request.explain:
        metadata[KEYS] = [
            {
                "step": description_of(graph.vertices[digest]),
                "key": key.digest,
                "recorded": recorded,
                **key.parts,
            }
            for digest, (key, recorded) in solver.keys(graph).items()
        ]
    tracker.emit(BuildCompleted(time=now, warnings=tuple(warnings)))
    return BuildResult(
        ref=ref,
        image_id=None,
        digest=None,
        steps=step_results(tracker.finished, reasons, {}),
        warnings=tuple(warnings),
        seconds=now - started,
        metadata=metadata,
    )
