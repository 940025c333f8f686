"""A step that failed: what `--on-failure` gets of it, and the command that runs it again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.graph import TmpfsMount
from buildkit_py.runtime import spec as sandbox
from buildkit_py.runtime.limits import parse_resources

if TYPE_CHECKING:
    from buildkit_py.errors import ExecError
    from buildkit_py.graph import ExecOp, Vertex
    from buildkit_py.runtime.executor import Executor, ExitStatus, RunHooks
    from buildkit_py.solver.ports import Result
    from buildkit_py.worker.diskguard import DiskGuard


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """What `on_failure` gets: the sandbox with the step's files in it, ready to run in again."""

    vertex: Vertex
    spec: sandbox.SandboxSpec
    executor: Executor
    error: ExecError
    hooks: RunHooks | None = None


def explain(
    status: ExitStatus, resources: tuple[str, ...], *, oom: bool, guard: DiskGuard
) -> tuple[str, str | None]:
    """Why a limit ended the step, and what would help; ("", None) if none did."""
    limits = dict(item.split("=", 1) for item in resources if "=" in item)
    if oom:
        limit = limits.get("memory", "?")
        return f"out of memory, limit {limit}", "give the step more with --resource memory=…"
    if status.exceeded and guard.reason == "limit":
        limit = limits.get("disk", "?")
        return f"it wrote too much, limit {limit}", "give the step more with --resource disk=…"
    if status.exceeded:
        return "it filled the disk of the state root", "`pybuild prune` frees what is not used"
    return "", None


def run_again(spec: sandbox.SandboxSpec) -> sandbox.SandboxSpec:
    """The same root, files of the failed run included; overlay needs a fresh work directory."""
    tree = spec.root
    if isinstance(tree, sandbox.OverlayTree) and tree.work is not None:
        work = Path(tree.work + "-again")
        work.mkdir(exist_ok=True)
        tree = replace(tree, work=str(work))
    return replace(spec, root=tree)


def replay_command(op: ExecOp, root: Result | None, command: str) -> str:
    """A command that runs the step again by hand, without its secrets.

    What `run` cannot give again (mounts of contexts, stages, caches, secrets and agents) is named
    in a comment behind it.
    """
    image = "scratch" if root is None else f"snapshot:{root.snapshot}"
    words = [command, "run", "--rm", "-it", *_surroundings(op)]
    if op.cwd not in {"", "/"}:
        words += ["-w", op.cwd]
    if op.user:
        words += ["-u", op.user]
    for entry in op.env:
        words += ["-e", entry]
    missing = [mount for mount in op.mounts if not isinstance(mount, TmpfsMount)]
    kinds = {type(mount).__name__.removesuffix("Mount").lower(): None for mount in missing}
    comment = f"  # without its mounts: {', '.join(kinds)}" if kinds else ""
    return shlex.join([*words, image, *_with_heredocs(op)]) + comment


def _limits(op: ExecOp) -> list[str]:
    """Those that `run` has an option for."""
    limits = parse_resources(op.resources)
    words = []
    if limits.memory is not None:
        words += ["--memory", str(limits.memory)]
    if limits.pids is not None:
        words += ["--pids-limit", str(limits.pids)]
    if limits.cpu_quota is not None and limits.cpu_quota > 0:
        words += ["--cpus", f"{limits.cpu_quota / (limits.cpu_period or 100_000):g}"]
    if op.cgroup_parent:
        words += ["--cgroup-parent", op.cgroup_parent]
    return words


def _surroundings(op: ExecOp) -> list[str]:
    words = []
    if op.network != "default":
        words += ["--network", op.network]
    if op.security == "insecure":
        words.append("--privileged")
    if op.shm_size:
        words += ["--shm-size", str(op.shm_size)]
    for limit in op.ulimits:
        words += ["--ulimit", limit]
    words += _limits(op)
    for name, address in op.extra_hosts:
        words += ["--add-host", f"{name}:{address}"]
    for mount in op.mounts:
        if isinstance(mount, TmpfsMount):
            size = f"size={mount.size}," if mount.size else ""
            words += ["--tmpfs", f"{mount.target}:{size}exec"]
    return words


def _with_heredocs(op: ExecOp) -> list[str]:
    """The program, after the scripts that its step had in /dev/pipes are there again."""
    if not op.heredocs:
        return list(op.arguments)
    lines = ["mkdir /dev/pipes"]
    for name, body in op.heredocs:
        path = shlex.quote(f"/dev/pipes/{name}")
        lines += [f"printf %s {shlex.quote(body)} > {path}", f"chmod 755 {path}"]
    return ["/bin/sh", "-c", "\n".join([*lines, f"exec {shlex.join(op.arguments)}"])]
