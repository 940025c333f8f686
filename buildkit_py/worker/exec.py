"""Runs an ExecOp: snapshot, mounts, sandbox, commit."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import BuildCancelled, ExecError, SandboxError, SolveError
from buildkit_py.graph import ExecOp
from buildkit_py.layers.diff import raise_times
from buildkit_py.progress.events import VertexLog
from buildkit_py.runtime import emulation
from buildkit_py.runtime import spec as sandbox
from buildkit_py.runtime.cgroups import StepCgroup, step_cgroup
from buildkit_py.runtime.executor import is_overlay_refused, is_stack_too_high
from buildkit_py.runtime.limits import parse_resources, parse_ulimits
from buildkit_py.runtime.network import hosts_file, resolv_conf
from buildkit_py.runtime.seccomp import default_filter
from buildkit_py.runtime.stubs import remove_stubs
from buildkit_py.solver.ports import Result
from buildkit_py.store.native import NativeRoot
from buildkit_py.worker.diskguard import DiskGuard, guarded
from buildkit_py.worker.failed import FailedStep, explain, run_again, show
from buildkit_py.worker.mounts import (
    MountResolver,
    MountSources,
    ResolvedMounts,
    times_say_nothing,
)
from buildkit_py.worker.replay import replay_command
from buildkit_py.worker.secrets import Masker

if TYPE_CHECKING:
    from buildkit_py.graph import Vertex
    from buildkit_py.platforms import Platform
    from buildkit_py.runtime.cdi import Devices
    from buildkit_py.runtime.executor import Executor, ExitStatus, RunHooks, StubRecord
    from buildkit_py.solver.ports import RunContext
    from buildkit_py.store.snapshots import Active

NOT_EXECUTABLE = "exec format error"

_TAIL_LINES = 20
_ALL_CAPABILITIES = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSettings:
    """How steps are run.

    `network` is what `default` means: host, none or bridge. `entitlements` are those of --allow;
    None allows everything. `connect` gives hooks for a step that has a network of its own; `dns`
    are the name servers of such a network, none for the host's. `one_id` says that all files have
    the same owner here.
    """

    network: str = "host"
    entitlements: frozenset[str] | None = None
    dns: tuple[str, ...] = ()
    timeout: float = 0.0
    connect: Callable[[], RunHooks] | None = None
    one_id: bool = False
    on_failure: Callable[[FailedStep], None] | None = None
    command: str = "pybuild"
    clock: Callable[[], float] = time.time
    host: Platform | None = None


@dataclass(slots=True, kw_only=True)
class ExecRunner:
    """Runs steps; used from several threads. `executor` is asked for at the first step."""

    sources: MountSources
    executor: Callable[[], Executor]
    settings: ExecSettings = field(default_factory=ExecSettings)
    native: bool = False

    def run(self, vertex: Vertex, inputs: Sequence[Result | None], context: RunContext) -> Result:
        """Run the op. Raises ExecError, SolveError, BuildCancelled."""
        op = vertex.op
        assert isinstance(op, ExecOp)
        self._check_entitlements(op)
        root = inputs[0] if inputs else None
        snapshots = self.sources.snapshots
        try:
            with ExitStack() as stack:
                parent = None if root is None else root.snapshot
                active = stack.enter_context(snapshots.prepare(parent))
                step = _Step(self, vertex, op, inputs, context, stack)
                started = time.time()
                step.run(active)
                if op.settle is not None and times_say_nothing(vertex, op.settle, started):
                    raise_times(active.upper, op.settle)
                description = vertex.options.instruction or vertex.options.name
                made = snapshots.commit(active, description=description, settle=op.settle)
                return Result(snapshot=made.id)
        except SandboxError as error:
            raise SolveError(
                error.message,
                vertex=vertex.options.name,
                span=vertex.options.span,
                hint=error.hint,
            ) from error

    def _check_entitlements(self, op: ExecOp) -> None:
        wanted = []
        if op.security == "insecure":
            wanted.append("security.insecure")
        if op.network == "host" and self.settings.network != "host":
            wanted.append("network.host")
        allowed = self.settings.entitlements
        for name in wanted:
            if allowed is not None and name not in allowed:
                raise SolveError(f"{name} is not allowed", hint=f"build with --allow {name}")


class _Step:
    """One run of one op."""

    def __init__(
        self,
        runner: ExecRunner,
        vertex: Vertex,
        op: ExecOp,
        inputs: Sequence[Result | None],
        context: RunContext,
        stack: ExitStack,
    ) -> None:
        self.runner = runner
        self.settings = runner.settings
        self.vertex = vertex
        self.op = op
        self.inputs = inputs
        self.context = context
        self.stack = stack
        self.tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self.partial = b""
        self.mounted: list[sandbox.SandboxMount] = []
        self.limits = parse_resources(op.resources)

    def run(self, active: Active) -> None:
        mounts = self._mounts()
        limits = self.limits
        name = f"{self.vertex.digest[7:19]}-{active.folder.name}"
        group = self.stack.enter_context(step_cgroup(limits, self.op.cgroup_parent, name))
        for warning in group.warnings:
            self._log(2, f"warning: {warning}\n".encode())
        executor = self.runner.executor()
        if executor.name == "chroot":
            self.runner.native = True
        spec = self._spec(mounts, group, active)
        masker = Masker(mounts.masked)
        self.mounted = mounts.mounts
        if not self.runner.native:
            tree = self._overlay(active)
            try:
                self._run_in(tree, spec, executor, masker, group, active)
            except SandboxError as error:
                if not is_overlay_refused(error):
                    raise
                # Overlay on overlay, or a file system that cannot hold an upper directory.
                self.runner.native = not is_stack_too_high(error)
            else:
                return
        self.context.catch_up()  # to copy a root takes time
        with NativeRoot(self._lowers(active), active.upper, self.runner.sources.db) as native:
            tree_spec = sandbox.DirectoryTree(path=str(native.path))
            stubs = self._run_in(tree_spec, spec, executor, masker, group, None)
            native.diff(same=stubs.restored)

    # -------------------------------------------------------------- what to run
    def _mounts(self) -> ResolvedMounts:
        resolver = MountResolver(
            sources=self.runner.sources,
            inputs=self.inputs,
            stack=self.stack,
            cancelled=self.context.cancelled,
            no_cache=self.context.no_cache,
            on_wait=lambda name: self._log(2, f"waiting for cache mount {name}\n".encode()),
        )
        return resolver.resolve(self.op)

    def _lowers(self, active: Active) -> tuple[str, ...]:
        return tuple(map(str, active.below))

    def _overlay(self, active: Active) -> sandbox.OverlayTree:
        return sandbox.OverlayTree(
            lowers=self._lowers(active), upper=str(active.upper), work=str(active.work)
        )

    def _spec(
        self, mounts: ResolvedMounts, group: StepCgroup, active: Active
    ) -> sandbox.SandboxSpec:
        op = self.op
        insecure = op.security == "insecure"
        network = self.settings.network if op.network == "default" else op.network
        if network not in {"host", "none"} and self.settings.connect is None:
            raise SolveError(
                f"network mode {network} is not available here", hint="use host or none"
            )
        devices = self._devices()
        process = sandbox.ProcessSpec(
            arguments=op.arguments,
            env=(
                *(f"{name}={value}" for name, value in devices.env.items()),
                *self._environment(mounts),
            ),
            cwd=op.cwd or "/",
            user=op.user,
            rlimits=(*group.rlimits, *parse_ulimits(op.ulimits)),
            capabilities=_ALL_CAPABILITIES if insecure else sandbox.DEFAULT_CAPABILITIES,
        )
        return sandbox.SandboxSpec(
            root=sandbox.DirectoryTree(path="/"),  # replaced when it is known
            process=process,
            mounts=(
                *self._files(network),
                *self._lone_apt(active),
                *devices.mounts.values(),
                *mounts.mounts,
            ),
            devices=tuple(devices.nodes.values()),
            hostname=op.hostname,
            network=network if network in {"host", "none"} else "wait",
            seccomp=b"" if insecure else default_filter(one_owner=self.settings.one_id),
            shm_size=op.shm_size or 64 << 20,
            cgroups=group.procs,
            privileged=insecure,
        )

    def _environment(self, mounts: ResolvedMounts) -> tuple[str, ...]:
        names = {entry.partition("=")[0] for entry in self.op.env}
        proxies = [item for item in self.op.proxy_env if item.partition("=")[0] not in names]
        extra = [f"{name}={value}" for name, value in mounts.env.items()]
        return (*self.op.env, *proxies, *extra)

    def _files(self, network: str) -> list[sandbox.SandboxMount]:
        op = self.op
        resolv = resolv_conf(host_network=network == "host", servers=self.settings.dns)
        hosts = hosts_file(op.hostname, op.extra_hosts, host_network=network == "host")
        files: list[sandbox.SandboxMount] = [
            sandbox.FileMount(target="/etc/resolv.conf", content=resolv),
            sandbox.FileMount(target="/etc/hosts", content=hosts),
        ]
        files += [
            sandbox.FileMount(target=f"/dev/pipes/{name}", content=body.encode(), mode=0o755)
            for name, body in op.heredocs
        ]
        return files

    def _lone_apt(self, active: Active) -> list[sandbox.SandboxMount]:
        """Where there is no other user for it to become, apt has to be told so."""
        folder = "etc/apt/apt.conf.d"
        if not self.settings.one_id or not any((d / folder).is_dir() for d in active.below):
            return []
        text = b'APT::Sandbox::User "root";\n'
        return [sandbox.FileMount(target=f"/{folder}/zz-one-id", content=text)]

    def _devices(self) -> Devices:
        from buildkit_py.runtime.cdi import Devices, find_devices  # noqa: PLC0415  (rare)

        if not self.op.devices:
            return Devices()
        found = find_devices([(device.name, device.required) for device in self.op.devices])
        allowed = self.settings.entitlements
        for name in found.names:
            wide = {"device", f"device={name}", f"device={name.partition('=')[0]}"}
            if allowed is not None and not wide & allowed:
                raise SolveError(f"device {name} is not allowed", hint="build with --allow device")
        return found

    # -------------------------------------------------------------- running
    def _run_in(
        self,
        tree: sandbox.Tree,
        spec: sandbox.SandboxSpec,
        executor: Executor,
        masker: Masker,
        group: StepCgroup,
        active: Active | None,
    ) -> StubRecord:
        spec = replace(spec, root=tree)

        def on_output(stream: int, data: bytes) -> None:
            shown = masker.feed(stream, data)
            if shown:
                self._log(stream, shown)

        guard = self._guard(tree, active)
        status = executor.run(
            spec,
            on_output=on_output,
            cancelled=self.context.cancelled,
            timeout=self.op.timeout or self.settings.timeout,
            hooks=guarded(self._hooks(spec), guard, self.context.catch_up),
        )
        if guard.exceeded_in_all():
            status = replace(status, exceeded=True)
        for stream, rest in masker.flush():
            self._log(stream, rest)
        for warning in status.warnings:
            self._log(2, f"warning: {warning}\n".encode())
        self._judge(status, spec, executor, group, guard)
        remove_stubs(guard.folder, status.stubs)
        return status.stubs

    def _guard(self, tree: sandbox.Tree, active: Active | None) -> DiskGuard:
        if active is not None:
            return DiskGuard(active.upper, self.limits.disk)
        assert isinstance(tree, sandbox.DirectoryTree)
        guard = DiskGuard(Path(tree.path), self.limits.disk)
        guard.begin(guard.folder)
        return guard

    def _hooks(self, spec: sandbox.SandboxSpec) -> RunHooks | None:
        connect = self.settings.connect
        return connect() if connect and spec.network == "wait" else None

    def _log(self, stream: int, data: bytes) -> None:
        self.context.catch_up()
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()[-4096:]
        self.tail.extend(lines)
        self.context.emit(
            VertexLog(
                vertex=self.vertex.digest, stream=stream, data=data, time=self.settings.clock()
            )
        )

    def _judge(
        self,
        status: ExitStatus,
        spec: sandbox.SandboxSpec,
        executor: Executor,
        group: StepCgroup,
        guard: DiskGuard,
    ) -> None:
        if status.cancelled:
            raise BuildCancelled("canceled", vertex=self.vertex.options.name)
        stopped = status.timed_out or status.exceeded
        hit = group.limit_hit()
        if status.code == 0 and not stopped and not status.failure:
            if hit == "memory":
                self._log(2, b"warning: a process was killed: the step's memory limit was hit\n")
            return
        error = self._error(status, *explain(status, self.op.resources, hit=hit, guard=guard))
        if self.settings.on_failure is not None:
            failed = FailedStep(
                vertex=self.vertex,
                spec=run_again(spec),
                executor=executor,
                error=error,
                hooks=self._hooks(spec),
            )
            show(self.settings.on_failure, failed, self.context.emit, self.settings.clock)
        raise error

    def _error(self, status: ExitStatus, reason: str, hint: str | None) -> ExecError:
        command = json.dumps(" ".join(self.op.arguments), ensure_ascii=False)
        if status.timed_out and not reason:
            reason = f"timed out after {self.op.timeout or self.settings.timeout:g} s"
        elif not reason and status.failure:
            reason = f"{status.failure}: exit code: {status.code}"
            if status.failure.endswith(NOT_EXECUTABLE):
                hint = self._emulation_hint()
        elif not reason and status.signal:
            reason = f"exit code: {status.code} (killed by signal {status.signal})"
        reason = reason or f"exit code: {status.code}"
        lines = [*self.tail, *([self.partial] if self.partial else [])]
        return ExecError(
            f"process {command} did not complete successfully: {reason}",
            exit_code=status.code,
            log_tail=tuple(line.decode("utf-8", "replace") for line in lines),
            replay=replay_command(
                self.op, self.inputs, self.runner.sources, self.mounted, self.settings.command
            ),
            vertex=self.vertex.options.name,
            span=self.vertex.options.span,
            hint=hint,
        )

    def _emulation_hint(self) -> str | None:
        """A program that the kernel does not know: perhaps it is one for another machine."""
        host, wanted = self.settings.host, self.op.platform
        if host is None or emulation.runs(wanted, host):
            return None
        return emulation.remedy(wanted, host)
