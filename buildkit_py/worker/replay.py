"""The command that runs a step again by hand, with its mounts; secrets by their place only."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildkit_py.graph import BindMount, CacheMount, SecretMount, SshMount, TmpfsMount
from buildkit_py.layers.context import ContextTree
from buildkit_py.runtime import spec as sandbox
from buildkit_py.runtime.limits import parse_resources

if TYPE_CHECKING:
    from buildkit_py.graph import ExecMount, ExecOp
    from buildkit_py.solver.ports import Result
    from buildkit_py.worker.mounts import MountSources


def replay_command(
    op: ExecOp,
    inputs: Sequence[Result | None],
    sources: MountSources,
    mounted: Sequence[sandbox.SandboxMount],
    command: str,
) -> str:
    """The command; `mounted` is what the step had. What it cannot give is named in a comment.

    Values of secrets do not stand in it, but the file or variable that they came from.
    """
    root = inputs[0] if inputs else None
    image = "scratch" if root is None else f"snapshot:{root.snapshot}"
    words = [command, "run", "--rm", "-it", *_surroundings(op)]
    if op.cwd not in {"", "/"}:
        words += ["-w", op.cwd]
    if op.user:
        words += ["-u", op.user]
    for entry in op.env:
        words += ["-e", entry]
    quoted = [shlex.join(words)]
    missing: dict[str, None] = {}
    for mount in op.mounts:
        again = _mount(mount, inputs, sources, mounted)
        if again is None:
            missing[type(mount).__name__.removesuffix("Mount").lower()] = None
        elif again:
            quoted.append(again)
    quoted.append(shlex.join([image, *_with_heredocs(op)]))
    comment = f"  # without its mounts: {', '.join(missing)}" if missing else ""
    return " ".join(quoted) + comment


def _mount(
    mount: ExecMount,
    inputs: Sequence[Result | None],
    sources: MountSources,
    mounted: Sequence[sandbox.SandboxMount],
) -> str | None:
    """Options for a mount, quoted; None where there are none, "" where none are needed."""
    match mount:
        case TmpfsMount():
            size = f"size={mount.size}," if mount.size else ""
            return shlex.join(["--tmpfs", f"{mount.target}:{size}exec"])
        case BindMount():
            return _bind(mount, inputs, sources)
        case CacheMount():
            return _cache(mount, mounted)
        case SecretMount():
            return _secret(mount, sources)
        case SshMount():
            return _agent(mount, sources)


def _record(**fields: str | bool) -> str:
    """`--mount` with its record, quoted as CSV and for a shell."""
    items = []
    for key, value in fields.items():
        text = key if value is True else f"{key.replace('_', '-')}={value}"
        if value is not False:
            items.append('"' + text.replace('"', '""') + '"' if {*text} & {*',"\n'} else text)
    return shlex.join(["--mount", ",".join(items)])


def _bind(mount: BindMount, inputs: Sequence[Result | None], sources: MountSources) -> str | None:
    result = inputs[mount.input] if mount.input < len(inputs) else None
    if result is None:
        return None
    target, readonly = mount.target, not mount.writable
    if result.context is None:
        return _record(
            type="image",
            source=f"snapshot:{result.snapshot}",
            image_subpath=mount.source,
            target=target,
            readonly=readonly,
        )
    tree = sources.contexts(result.context)
    if not isinstance(tree, ContextTree) or tree.filtered:  # a copy that is gone by then
        return None
    path = os.fsdecode(tree.directory) + mount.source.rstrip("/")
    return _record(
        type="bind", source=path, target=target, readonly=readonly, overlay=mount.writable
    )


def _cache(mount: CacheMount, mounted: Sequence[sandbox.SandboxMount]) -> str | None:
    for item in mounted:
        if not isinstance(item, sandbox.TreeMount) or item.target != mount.target:
            continue
        if isinstance(item.tree, sandbox.DirectoryTree):
            source, readonly = item.tree.path, mount.readonly
            return _record(type="bind", source=source, target=mount.target, readonly=readonly)
    return None


def _secret(mount: SecretMount, sources: MountSources) -> str | None:
    secret = sources.secrets.secrets.get(mount.id)
    if secret is None:
        return ""
    if secret.value is not None or (secret.env is not None and mount.target is not None):
        return None
    if secret.env is not None:
        if not (secret.env.isascii() and secret.env.isidentifier()):
            return None
        return f'-e {shlex.quote(mount.env or "")}="${secret.env}"'
    path = os.path.abspath(secret.path or secret.id)
    options = []
    if mount.env is not None:
        options.append(f'-e {shlex.quote(mount.env)}="$(cat {shlex.quote(path)})"')
    if mount.target is not None:
        options.append(_record(type="bind", source=path, target=mount.target, readonly=True))
    return " ".join(options)


def _agent(mount: SshMount, sources: MountSources) -> str | None:
    agent = sources.secrets.agents.get(mount.id)
    if agent is None:
        return ""
    if not agent.paths:
        source = '"$SSH_AUTH_SOCK"'
    elif len(agent.paths) == 1 and not os.path.isfile(agent.paths[0]):
        source = shlex.quote(os.path.abspath(agent.paths[0]))
    else:
        return None
    target = shlex.quote(mount.target)
    return f"-v {source}:{target} -e SSH_AUTH_SOCK={target}"


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
