"""A step that failed: why, and what `--on-failure` gets of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.progress.events import VertexHeld
from buildkit_py.runtime import spec as sandbox

if TYPE_CHECKING:
    from buildkit_py.errors import ExecError
    from buildkit_py.graph import Vertex
    from buildkit_py.progress.events import EventSink
    from buildkit_py.runtime.executor import Executor, ExitStatus, RunHooks
    from buildkit_py.worker.diskguard import DiskGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """What `on_failure` gets: the sandbox with the step's files in it, ready to run in again."""

    vertex: Vertex
    spec: sandbox.SandboxSpec
    executor: Executor
    error: ExecError
    hooks: RunHooks | None = None


def show(
    on_failure: Callable[[FailedStep], None],
    failed: FailedStep,
    emit: EventSink,
    clock: Callable[[], float],
) -> None:
    """Call `on_failure` while displays leave the terminal alone."""
    vertex = failed.vertex.digest
    emit(VertexHeld(vertex=vertex, held=True, time=clock()))
    try:
        on_failure(failed)
    finally:
        emit(VertexHeld(vertex=vertex, held=False, time=clock()))


def explain(
    status: ExitStatus, resources: tuple[str, ...], *, hit: str, guard: DiskGuard
) -> tuple[str, str | None]:
    """Why a limit ended the step, and what would help; ("", None) if none did."""
    limits = dict(item.split("=", 1) for item in resources if "=" in item)
    if hit == "memory":
        limit = limits.get("memory", "?")
        return f"out of memory, limit {limit}", "give the step more with --resource memory=…"
    if status.exceeded and guard.reason == "limit":
        limit = limits.get("disk", "?")
        return f"it wrote too much, limit {limit}", "give the step more with --resource disk=…"
    if status.exceeded:
        return "it filled the disk of the state root", "`pybuild prune` frees what is not used"
    if hit == "pids":
        limit = limits.get("pids", "?")
        reason = f"exit code: {status.code} (too many processes, limit {limit})"
        return reason, "give the step more with --resource pids=…"
    return "", None


def run_again(spec: sandbox.SandboxSpec) -> sandbox.SandboxSpec:
    """The same root, files of the failed run included; overlay needs a fresh work directory."""
    tree = spec.root
    if isinstance(tree, sandbox.OverlayTree) and tree.work is not None:
        work = Path(tree.work + "-again")
        work.mkdir(exist_ok=True)
        tree = replace(tree, work=str(work))
    return replace(spec, root=tree)
