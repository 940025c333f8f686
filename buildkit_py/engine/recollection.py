"""What of a finished build lets the next one, if nothing has changed, be told without building.

The build is walked through the solver once more, where now everything is found: the events of that
are what a build that is all cached says. Whatever cannot be checked by a few look-ups (a remote
source, a secret, an export) is not kept.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildkit_py.engine.aftermath import metadata_text
from buildkit_py.engine.inputs import consulted, content_if_file
from buildkit_py.engine.record import request_to_json, summary_of
from buildkit_py.engine.steps import (
    StepTracker,
    VertexOutcome,
    parents_in,
    step_infos,
    step_results,
)
from buildkit_py.errors import PybuildError
from buildkit_py.graph import ContextOp, GitOp, HttpOp, ImageOp
from buildkit_py.oci.reference import parse_reference
from buildkit_py.progress.events import BuildCompleted, BuildStarted, BuildWarning, Event
from buildkit_py.recall.lookup import bases
from buildkit_py.recall.record import RecallKey, build_data, event_log, save, shown_texts
from buildkit_py.registry.places import config_paths
from buildkit_py.solver.solution import Origin

if TYPE_CHECKING:
    from buildkit_py.engine.compile import Compiled
    from buildkit_py.engine.inputs import BuildInputs
    from buildkit_py.engine.request import BuildRequest, BuildResult, StepResult
    from buildkit_py.engine.workshop import Workshop
    from buildkit_py.graph import BuildGraph, Vertex
    from buildkit_py.solver.ports import Result
    from buildkit_py.solver.solution import Outcome, Solution

# Options that leave a build's result where a look-up finds it; with any other it is not kept.
_HARMLESS = frozenset(
    (
        "context dockerfile tags build_args target platforms labels build_contexts add_hosts"
        " network shm_size ulimits resources cgroup_parent allow iidfile metadata_file on_failure"
        " jobs timeout step_timeout timestamps normalize_modes insecure_registries ignorefile"
    ).split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A build at its end. `said` are the events of its exports, `warnings` those of its plan."""

    request: BuildRequest
    inputs: BuildInputs
    compiled: Compiled
    graph: BuildGraph
    shop: Workshop
    result: BuildResult
    warnings: Sequence[BuildWarning]
    said: Sequence[Event]


def remember(build: Finished, key: RecallKey) -> None:
    """Keep a build, if it can be recalled at all. Never fails."""
    try:
        data = _data(build, key)
        if data is not None:
            save(build.shop.env.store.db, key.key, data, build.shop.env.clock())
    except (OSError, PybuildError):
        return  # only speeds up the next build


def _data(build: Finished, key: RecallKey) -> dict[str, Any] | None:
    if not _is_plain(build):
        return None
    files = _files(build)
    trees = [context.stamps() for context in build.shop.contexts.values()]
    base_rows = _base_rows(build)
    image = _image_row(build)
    if files is None or None in trees or base_rows is None or image is None:
        return None
    found = _solve_again(build)
    if found is None:
        return None
    solution, tracker, events = found
    warnings = build.result.warnings
    again = replace(build.result, steps=_steps(build, tracker))
    directories = [context.tree.directory for context in build.shop.contexts.values()]
    contexts = frozenset(
        vertex.options.name
        for vertex in build.graph.vertices.values()
        if isinstance(vertex.op, ContextOp)
    )
    return {
        "ref": build.result.ref,
        "display": key.display,
        "environment": _environment(build),
        "files": files,
        "places": _places(build),
        "trees": [
            (directory, *tree)
            for directory, tree in zip(directories, trees, strict=True)
            if tree is not None
        ],
        "bases": base_rows,
        **image,
        **_used(solution),
        "names": list(build.result.names),
        "results": _result_files(build),
        "build": build_data(request_to_json(build.request), summary_of(again)),
        "events": event_log(events),
        "warnings": key.render(warnings),
        **shown_texts(events, contexts),
    }


def _is_plain(build: Finished) -> bool:
    """Whether only harmless options are set and all sources are here."""
    request, default = build.request, type(build.request)()
    return (
        all(
            item.name in _HARMLESS or getattr(request, item.name) == getattr(default, item.name)
            for item in fields(request)
        )
        and "BUILDKIT_INLINE_CACHE" not in request.build_args
        and len(build.compiled.images) == 1
        and len(build.warnings) == len(build.result.warnings)
        and not any(isinstance(v.op, HttpOp | GitOp) for v in build.graph.vertices.values())
        and "\0" not in build.inputs.dockerfile.text
    )


def _steps(build: Finished, tracker: StepTracker) -> tuple[StepResult, ...]:
    """The steps of the finished build with the ids and sizes they have when all is cached."""
    found = step_results(tracker.finished, {}, {})
    return tuple(
        replace(step, size=before.size, seconds=0.0)
        for step, before in zip(found, build.result.steps, strict=True)
    )


# ------------------------------------------------------------------ what was read
def _files(build: Finished) -> list[tuple[bytes, bytes | None]] | None:
    found = consulted(build.request, build.inputs)
    if found is None:
        return None
    for name, context in build.shop.contexts.items():
        if name != "context":
            path = Path(os.fsdecode(context.tree.directory)) / ".dockerignore"
            found[path] = content_if_file(path)
    for name in config_paths(build.shop.env.environment):
        found[Path(name)] = content_if_file(Path(name))
    return [(os.fsencode(path), content) for path, content in found.items()]


def _places(build: Finished) -> list[tuple[bytes, bytes]]:
    """Directories as they were asked for, and where they led."""
    named = build.compiled.plans[0].contexts
    asked = {
        name: build.inputs.directory if name == "context" else Path(named[name].value)
        for name in ("context", *build.shop.contexts)
    }
    return [(os.fsencode(path), os.path.realpath(os.fsencode(path))) for path in asked.values()]


def _environment(build: Finished) -> list[tuple[str, str | None]]:
    """Build arguments that were taken from the environment."""
    environment = build.shop.env.environment
    names = [name for name, value in build.request.build_args.items() if value is None]
    return [(name, environment.get(name)) for name in names]


# ------------------------------------------------------------------ the store
def _base_rows(build: Finished) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]] | None:
    """The names of the base images, and what they lead to."""
    wanted: list[tuple[str, ...]] = []
    for key in build.compiled.bases:
        if key.layout is not None:
            return None
        reference = parse_reference(key.reference)
        if reference.digest is None:
            wanted.append((str(reference),))
        else:
            wanted.append((reference.repository, reference.digest))
    connection = build.shop.env.store.db.connection()
    out = []
    for statement, values, _ in bases({"bases": [(name, []) for name in wanted]}):
        rows = [tuple(row) for row in connection.execute(statement, values).fetchall()]
        if not rows:
            return None  # found by its id
        out.append((values, rows))
    return out


def _image_row(build: Finished) -> dict[str, Any] | None:
    row = (
        build.shop.env.store.db.connection()
        .execute("SELECT snapshot, platform FROM images WHERE id = ?", (build.result.image_id,))
        .fetchone()
    )
    if row is None:
        return None
    return {"image": build.result.image_id, "snapshot": row[0], "platform": row[1]}


def _used(solution: Solution) -> dict[str, Any]:
    """Cache records that must stand, those that are used, and their snapshots."""
    found = {digest: item for digest, item in solution.outcomes.items() if item.keys}
    records = [
        (item.keys[-1], solution.results[digest].snapshot)
        for digest, item in found.items()
        if item.origin is Origin.CACHED
    ]
    snapshots = {result.snapshot for result in solution.results.values()} - {None}
    return {
        "records": [(str(key), snapshot) for key, snapshot in records],
        "used": [str(item.keys[-1]) for item in found.values()],
        "snapshots": sorted(item for item in snapshots if item is not None),
    }


def _result_files(build: Finished) -> list[tuple[str, str]]:
    out = []
    directory = build.shop.env.directory
    if build.request.iidfile and build.result.image_id:
        out.append((os.fspath(directory / build.request.iidfile), str(build.result.image_id)))
    if build.request.metadata_file:
        text = metadata_text(build.result.metadata).decode()
        out.append((os.fspath(directory / build.request.metadata_file), text))
    return out


# ------------------------------------------------------------------ the events
def _solve_again(build: Finished) -> tuple[Solution, StepTracker, list[Event]] | None:
    """The build as it would go now; None if something of it would run again."""
    vertices = build.graph.vertices
    foreseen = build.shop.solver(None, emit=lambda _: None).preview(build.graph)
    for digest, outcome in foreseen.items():
        costs_nothing = isinstance(vertices[digest].op, ImageOp | ContextOp)
        if outcome.origin is Origin.RUN and not costs_nothing:
            return None
    events: list[Event] = list(build.warnings)
    steps = [step for image in build.compiled.images for step in image.steps]
    events.append(BuildStarted(ref=build.result.ref, steps=step_infos(steps), total=len(vertices)))
    parent_of = parents_in(build.shop.env.store.snapshots)
    tracker = StepTracker(steps=steps, emit=events.append, clock=lambda: 0.0, parent_of=parent_of)

    def observe(vertex: Vertex, result: Result, outcome: Outcome) -> None:
        cached = outcome.origin is not Origin.RUN
        tracker.vertex_done(vertex, VertexOutcome(snapshot=result.snapshot, cached=cached))

    solution = build.shop.solver(observe, emit=events.append).solve(build.graph)
    events += build.said
    tracker.finish(build.result.image_id)
    events.append(
        BuildCompleted(
            time=0.0,
            image_id=build.result.image_id or "",
            names=build.result.names,
            warnings=build.result.warnings,
        )
    )
    return solution, tracker, [_timeless(event) for event in events]


def _timeless(event: Event) -> Event:
    return event if isinstance(event, BuildWarning) else replace(event, time=0.0)
