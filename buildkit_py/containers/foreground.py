"""Runs a program from an image in the foreground: root, sandbox, streams, signals, status.

The container's changes are made in a scratch layer, which becomes a snapshot at its end when the
container is to be kept, and is thrown away otherwise.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from buildkit_py.containers.config import (
    Root,
    arguments_of,
    container_config,
    new_container,
)
from buildkit_py.containers.mounts import open_mount
from buildkit_py.containers.options import ALL_CAPABILITIES, RunOptions, parse_volume
from buildkit_py.errors import SandboxError, UsageError
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig
from buildkit_py.runtime import spec as sandbox
from buildkit_py.runtime.cgroups import step_cgroup
from buildkit_py.runtime.executor import Executor, ExitStatus, RunHooks, is_overlay_refused
from buildkit_py.runtime.limits import parse_size, parse_ulimits
from buildkit_py.runtime.namespaces import has_one_id
from buildkit_py.runtime.network import hosts_file, resolv_conf
from buildkit_py.runtime.seccomp import default_filter
from buildkit_py.runtime.stubs import remove_stubs
from buildkit_py.store.containers import ContainerStore
from buildkit_py.store.native import NativeRoot

if TYPE_CHECKING:
    from types import FrameType

    from buildkit_py.store import Store
    from buildkit_py.store.snapshots import Active

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
_PATIENCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a run takes from its process. `connect` gives hooks for a network of its own."""

    environ: Mapping[str, str]
    cwd: str
    connect: Callable[[], RunHooks] | None = None
    dns: tuple[str, ...] = ()
    clock: Callable[[], float] = time.time


def run_foreground(
    store: Store, executor: Executor, options: RunOptions, root: Root, around: Surroundings
) -> ExitStatus:
    """Run to the end, with this process' standard streams. Raises PybuildError."""
    containers = ContainerStore(store.db)
    identity = secrets.token_hex(32)
    if options.keep:
        new = new_container(root, options, environ=around.environ)
        identity = containers.begin(new, around.clock())
    _write_cidfile(options.cidfile, identity)
    try:
        return _run_container(store, executor, options, root, around, identity)
    except BaseException:
        if options.keep:
            containers.forget(identity)
        raise


def _run_container(
    store: Store,
    executor: Executor,
    options: RunOptions,
    root: Root,
    around: Surroundings,
    identity: str,
) -> ExitStatus:
    short = identity[:12]
    with ExitStack() as stack:
        active = stack.enter_context(store.snapshots.prepare(root.snapshot))
        group = stack.enter_context(
            step_cgroup(options.limits, options.cgroup_parent, f"run-{short}")
        )
        spec = make_spec(active, root, options, around, name=short)
        more = tuple(open_mount(item, around.cwd, store, stack) for item in options.mounts)
        spec = replace(spec, cgroups=group.procs, mounts=(*spec.mounts, *more))
        status = _run_somehow(store, executor, spec, active, options, around)
        if group.limit_hit() == "memory":
            os.write(2, b"out of memory: the limit was reached\n")
        if options.keep:
            kept = store.snapshots.commit(active, description=f"container {short}")
            ContainerStore(store.db).finish(
                identity, code=status.code, snapshot=kept.id, now=around.clock()
            )
        return status


def _write_cidfile(path: str | None, identity: str) -> None:
    if path is None:
        return
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write(identity)
    except FileExistsError as error:
        raise UsageError(f"container ID file found: {path}", hint="remove it") from error


def _run_somehow(
    store: Store,
    executor: Executor,
    spec: sandbox.SandboxSpec,
    active: Active,
    options: RunOptions,
    around: Surroundings,
) -> ExitStatus:
    """On overlay, or in a full copy of the root where the kernel has no overlay."""
    if executor.name != "chroot":
        try:
            status = _run(executor, spec, options, around)
        except SandboxError as error:
            if not is_overlay_refused(error):
                raise
        else:
            remove_stubs(active.upper, status.stubs)
            return status
    lowers = tuple(os.fspath(item) for item in active.below)
    with NativeRoot(lowers, active.upper, store.db) as native:
        tree = sandbox.DirectoryTree(path=os.fspath(native.path))
        status = _run(executor, replace(spec, root=tree), options, around)
        remove_stubs(tree.path, status.stubs)
        if options.keep:
            native.diff(same=status.stubs.restored)
        return status


def make_spec(
    active: Active,
    root: Root,
    options: RunOptions,
    around: Surroundings,
    *,
    name: str,
) -> sandbox.SandboxSpec:
    """The sandbox of a container. Raises UsageError."""
    hostname = options.hostname or name
    lowers = tuple(os.fspath(item) for item in active.below)
    privileged = options.privileged
    config = container_config(root, options, environ=around.environ)
    process = sandbox.ProcessSpec(
        arguments=arguments_of(config),
        env=_environment(config, options, hostname),
        cwd=config.working_dir or "/",
        user=config.user,
        tty=options.tty,
        init=options.init,
        no_new_privileges=options.no_new_privileges,
        capabilities=ALL_CAPABILITIES if privileged else options.capabilities,
        rlimits=parse_ulimits(options.ulimits),
        extra_groups=options.groups,
    )
    return sandbox.SandboxSpec(
        root=sandbox.OverlayTree(
            lowers=lowers, upper=os.fspath(active.upper), work=os.fspath(active.work)
        ),
        process=process,
        mounts=(*_files(hostname, options, around), *_mounts(options, around.cwd)),
        devices=tuple(_device(item) for item in options.devices),
        hostname=hostname,
        network=options.network if options.network in {"host", "none"} else "wait",
        seccomp=default_filter(one_owner=has_one_id())
        if options.seccomp and not privileged
        else b"",
        shm_size=options.shm_size or 64 << 20,
        readonly_root=options.read_only,
        privileged=privileged,
    )


def _environment(config: ContainerConfig, options: RunOptions, hostname: str) -> tuple[str, ...]:
    values = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if options.tty:
        values["TERM"] = "xterm"
    values |= config.env_map()
    return tuple(f"{name}={value}" for name, value in values.items())


def _files(hostname: str, options: RunOptions, around: Surroundings) -> list[sandbox.SandboxMount]:
    extra = [_host(item) for item in options.add_hosts]
    servers = options.dns or around.dns
    resolv = resolv_conf(host_network=options.network == "host", servers=servers)
    return [
        sandbox.FileMount(target="/etc/resolv.conf", content=resolv, readonly=False),
        sandbox.FileMount(
            target="/etc/hosts",
            content=hosts_file(hostname, extra, host_network=options.network == "host"),
            readonly=False,
        ),
        sandbox.FileMount(target="/etc/hostname", content=f"{hostname}\n".encode()),
    ]


def _host(text: str) -> tuple[str, str]:
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name or not address:
        raise UsageError(f'invalid host: "{text}"', hint="write name:address")
    return name, address


def _mounts(options: RunOptions, cwd: str) -> list[sandbox.SandboxMount]:
    mounts: list[sandbox.SandboxMount] = [parse_volume(item, cwd) for item in options.volumes]
    for text in options.tmpfs:
        target, _, settings = text.partition(":")
        words = settings.split(",")
        size = parse_size(next((x[5:] for x in words if x.startswith("size=")), "0"))
        mounts.append(sandbox.TmpfsMount(target=target, size=size, noexec="exec" not in words))
    return mounts


def _device(text: str) -> sandbox.DeviceNode:
    source, _, rest = text.partition(":")
    return sandbox.DeviceNode(path=rest.partition(":")[0] or source, source=source)


# ------------------------------------------------------------------ running
def _run(
    executor: Executor, spec: sandbox.SandboxSpec, options: RunOptions, around: Surroundings
) -> ExitStatus:
    cancelled = threading.Event()
    with ExitStack() as stack:
        started = stack.enter_context(_forwarded_signals(cancelled))
        terminal = None
        if options.tty:
            from buildkit_py.runtime.terminal import TerminalRelay  # noqa: PLC0415

            terminal = stack.enter_context(TerminalRelay()).attach
        stdin = None
        if options.interactive and not options.tty:
            stdin = stack.enter_context(_input()) if os.isatty(0) else 0
        hooks = RunHooks()
        if around.connect is not None and spec.network == "wait":
            hooks = around.connect()
        return executor.run(
            spec,
            on_output=_show,
            cancelled=cancelled,
            stdin=stdin,
            timeout=options.timeout,
            hooks=replace(hooks, started=started, terminal=terminal),
        )


def _show(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]


@contextmanager
def _input() -> Iterator[int]:
    """A pipe fed from our terminal: the program is no member of our session."""
    read, write = os.pipe()

    def pump() -> None:
        with suppress(OSError):
            while data := os.read(0, 4096):
                os.write(write, data)
        os.close(write)

    threading.Thread(target=pump, name="stdin", daemon=True).start()
    try:
        yield read
    finally:
        os.close(read)


@contextmanager
def _forwarded_signals(
    cancelled: threading.Event,
) -> Iterator[Callable[[int, Callable[[int], None]], None]]:
    """Signals go to the program; whoever insists (three times) ends it. Gives a `started` hook."""
    target: list[Callable[[int], None]] = []
    early: list[int] = []
    count = 0

    def started(_pid: int, send: Callable[[int], None]) -> None:
        target.append(send)
        for number in early:
            send(number)

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += number != signal.SIGUSR1
        if count >= _PATIENCE:
            cancelled.set()
        if target:
            target[0](number)
        else:
            early.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield started
        return
    previous = {number: signal.signal(number, handle) for number in _FORWARDED}
    try:
        yield started
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
