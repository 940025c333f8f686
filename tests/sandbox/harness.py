"""A store with one small image, an executor and an ExecRunner, for tests of the sandbox."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from buildkit_py.errors import PybuildError
from buildkit_py.graph import ExecOp, Vertex, VertexOptions
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import Tree
from buildkit_py.progress.events import Event, VertexLog
from buildkit_py.runtime.executor import Executor
from buildkit_py.runtime.namespaces import NamespaceExecutor
from buildkit_py.runtime.spec import HostMount, OverlayTree, ProcessSpec, SandboxSpec
from buildkit_py.solver.ports import Result, RunContext
from buildkit_py.store import Store, open_store
from buildkit_py.worker.cachemounts import CacheMounts
from buildkit_py.worker.exec import ExecRunner, ExecSettings
from buildkit_py.worker.mounts import MountSources
from buildkit_py.worker.secrets import BuildSecrets

APPLETS = (
    "sh true false cat ls id echo mount umount sleep env grep tty stat touch rm mkdir head mv ln"
    " mknod chmod chown kill ps setsid nohup dd wc hostname pwd date seq sort find readlink test"
).split()
PASSWD = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n"
GROUP = "root:x:0:root\nbob:x:1000:\nwheel:x:10:bob,root\naudio:x:29:bob\n"


@dataclass(slots=True)
class Outcome:
    """What one step gave."""

    output: str = ""
    snapshot: int | None = None
    error: PybuildError | None = None
    events: list[Event] = field(default_factory=list)

    def ok(self) -> Self:
        """Insist on success."""
        assert self.error is None, f"{self.error}\n{self.output}"
        return self


class Rig:
    """Use it in a `with` block."""

    def __init__(self, base: Path, busybox: Path, **settings: Any) -> None:
        self.base = base
        self.busybox = busybox
        self.settings = settings
        self.contexts: dict[str, Callable[[], Tree]] = {}
        self.secrets = BuildSecrets()
        self.native = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.store: Store = self._stack.enter_context(open_store(self.base))
        self.executor: Executor = self._stack.enter_context(
            NamespaceExecutor(scratch=self.store.paths.tmp)
        )
        self.image = self.commit(self._fill)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _fill(self, root: Path) -> None:
        (root / "bin").mkdir()
        shutil.copy(self.busybox, root / "bin/busybox")
        for name in APPLETS:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc").mkdir()
        (root / "etc/passwd").write_text(PASSWD)
        (root / "etc/group").write_text(GROUP)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)

    def commit(self, fill: Callable[[Path], None], parent: int | None = None) -> int:
        """A snapshot made by a function that writes into its directory."""
        with self.store.snapshots.prepare(parent) as active:
            fill(active.upper)
            return self.store.snapshots.commit(active).id

    def directory(self, snapshot: int | None) -> Path:
        """The top layer of a snapshot."""
        assert snapshot is not None
        return self.store.snapshots.get(snapshot).directory

    def runner(self) -> ExecRunner:
        """An ExecRunner on this store."""
        sources = MountSources(
            snapshots=self.store.snapshots,
            db=self.store.db,
            caches=CacheMounts(paths=self.store.paths, db=self.store.db),
            contexts=lambda name: self.contexts[name](),
            secrets=self.secrets,
        )
        settings = ExecSettings(**self.settings)
        return ExecRunner(
            sources=sources, executor=lambda: self.executor, settings=settings, native=self.native
        )

    def context(self, name: str, directory: Path, ignore: Any = None) -> Result:
        """Register a build context and give it as an input."""
        self.contexts[name] = lambda: ContextTree(directory, ignore)
        return Result(context=name)

    def run(
        self,
        command: str | Sequence[str],
        *inputs: Result | None,
        parent: int | None = -1,
        cancelled: threading.Event | None = None,
        no_cache: bool = False,
        **op: Any,
    ) -> Outcome:
        """Run a shell command (or words) as a step on `parent` (the image by default)."""
        outcome = Outcome()
        words = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        exec_op = ExecOp(arguments=words, env=op.pop("env", ("PATH=/bin",)), **op)
        vertex = Vertex(op=exec_op, options=VertexOptions(name="RUN test", instruction="RUN test"))
        base = self.image if parent == -1 else parent
        root = None if base is None else Result(snapshot=base)
        context = RunContext(
            emit=outcome.events.append, cancelled=cancelled or threading.Event(), no_cache=no_cache
        )
        try:
            outcome.snapshot = self.runner().run(vertex, [root, *inputs], context).snapshot
        except PybuildError as error:
            outcome.error = error
        logs = [event.data for event in outcome.events if isinstance(event, VertexLog)]
        outcome.output = b"".join(logs).decode("utf-8", "replace")
        return outcome


def host_tools_spec(base: Path, *words: str, number: int = 0, **options: Any) -> SandboxSpec:
    """A sandbox that has the host's /usr read-only, so that real programs can attack from it."""
    lower = base / "tools"
    if not lower.exists():
        lower.mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                (lower / name).symlink_to(f"usr/{name}")
        for name in ("usr", "etc", "tmp", "root"):
            (lower / name).mkdir()
        (lower / "etc/passwd").write_text(PASSWD)
    upper = base / f"upper{number}"
    (upper / "fs").mkdir(parents=True)
    (upper / "work").mkdir()
    mounts = [HostMount(target="/usr", source="/usr"), *options.pop("mounts", ())]
    process = ProcessSpec(
        arguments=words, env=("PATH=/usr/bin:/usr/sbin",), **options.pop("process", {})
    )
    tree = OverlayTree(lowers=(os.fspath(lower),), upper=f"{upper}/fs", work=f"{upper}/work")
    return SandboxSpec(root=tree, process=process, mounts=tuple(mounts), **options)
