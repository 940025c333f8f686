"""Mount specs of an ExecOp to sandbox mounts: bind, cache, tmpfs, secret, ssh.

All that is opened for a step (locks, copies, agent sockets) is closed by the given stack. Nothing
here gives a step write access to a user's files: a context is bound read-only, and a writable bind
is an overlay whose upper directory is thrown away.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from buildkit_py.errors import SolveError
from buildkit_py.graph import (
    BindMount,
    CacheMount,
    ContextOp,
    ExecOp,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.materialise import copy_tree
from buildkit_py.layers.tree import MergedTree, Node, Tree, clean_path
from buildkit_py.runtime import spec as sandbox
from buildkit_py.worker.cachemounts import CacheMounts, CacheRequest

if TYPE_CHECKING:
    import threading

    from buildkit_py.graph import Vertex
    from buildkit_py.solver.ports import Result
    from buildkit_py.store.database import Database
    from buildkit_py.store.snapshots import SnapshotStore
    from buildkit_py.worker.secrets import BuildSecrets


@dataclass(slots=True, kw_only=True)
class ResolvedMounts:
    """What a step's mounts come to. `masked` are values that its output must not show."""

    mounts: list[sandbox.SandboxMount] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    masked: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSources:
    """Where the content of mounts comes from."""

    snapshots: SnapshotStore
    db: Database
    caches: CacheMounts
    contexts: Callable[[str], Tree]
    secrets: BuildSecrets


@dataclass(slots=True, kw_only=True)
class MountResolver:
    """Resolves the mounts of one step; owned by the thread that runs it."""

    sources: MountSources
    inputs: Sequence[Result | None]
    stack: ExitStack
    cancelled: threading.Event
    no_cache: bool = False
    on_wait: Callable[[str], None] | None = None
    _context_copies: dict[tuple[str, str], Path] = field(default_factory=dict)

    def resolve(self, op: ExecOp) -> ResolvedMounts:
        """All mounts of an op, in its order. Raises SolveError, UsageError."""
        out = ResolvedMounts()
        caches = self._open_caches(op)
        for mount in op.mounts:
            match mount:
                case BindMount():
                    out.mounts.append(self._bind(mount))
                case CacheMount():
                    out.mounts.append(
                        sandbox.TreeMount(
                            target=mount.target,
                            tree=sandbox.DirectoryTree(path=os.fspath(caches[id(mount)])),
                            readonly=mount.readonly,
                        )
                    )
                case TmpfsMount():
                    out.mounts.append(sandbox.TmpfsMount(target=mount.target, size=mount.size))
                case SecretMount():
                    self._secret(mount, out)
                case SshMount():
                    self._ssh(mount, out)
                case _:
                    assert_never(mount)
        return out

    # -------------------------------------------------------------- trees
    def tree_of(self, index: int) -> Tree:
        """The files of an input."""
        result = self.inputs[index] if index < len(self.inputs) else None
        if result is None or (result.snapshot is None and result.context is None):
            return MergedTree([])
        if result.context is not None:
            return self.sources.contexts(result.context)
        return MergedTree(self.sources.snapshots.directories(result.snapshot))

    def _bind(self, mount: BindMount) -> sandbox.SandboxMount:
        tree = self.tree_of(mount.input)
        node = tree.lookup(mount.source)
        if node is None:
            raise SolveError(
                f'failed to compute cache key: "{mount.source}": not found',
                hint="the source of a --mount=type=bind must exist in what it mounts from",
            )
        if isinstance(tree, MergedTree):
            lowers = tuple(os.fsdecode(item) for item in tree.directories)
            return self._overlay(mount, lowers, mount.source)
        base, source = self._plain_directory(tree, node, mount)
        if mount.writable and node.is_dir:
            return self._overlay(mount, (f"{base}{source}".rstrip("/"),), "/")
        if mount.writable:
            return self._overlay(mount, (base,), source)
        return sandbox.TreeMount(
            target=mount.target,
            tree=sandbox.DirectoryTree(path=base),
            source=source,
            nosuid=True,
            nodev=True,
        )

    def _overlay(
        self, mount: BindMount, lowers: tuple[str, ...], source: str
    ) -> sandbox.TreeMount:
        upper = work = None
        if mount.writable:
            scratch = self._scratch()
            upper, work = f"{scratch}/fs", f"{scratch}/work"
            Path(upper).mkdir()
            Path(work).mkdir()
            if lowers:
                _copy_mode(lowers[-1], upper)
        return sandbox.TreeMount(
            target=mount.target,
            tree=sandbox.OverlayTree(lowers=lowers, upper=upper, work=work),
            source=source,
            readonly=not mount.writable,
        )

    def _plain_directory(self, tree: Tree, node: Node, mount: BindMount) -> tuple[str, str]:
        """A real directory, and the path in it, that show just what the context shows."""
        if isinstance(tree, ContextTree) and not tree.filtered:
            return os.fsdecode(tree.directory), os.fsdecode(node.path)
        name = self.inputs[mount.input]
        assert name is not None
        assert name.context is not None
        key = (name.context, os.fsdecode(node.path))
        known = self._context_copies.get(key)
        if known is None:
            known = self._scratch() / "view"
            known.mkdir()
            if node.is_dir:
                copy_tree(tree, node, known)
            else:
                copy_tree(tree, node, known / os.fsdecode(node.name))
            self._context_copies[key] = known
        inside = "/" if node.is_dir else f"/{os.fsdecode(node.name)}"
        return os.fspath(known), inside

    def _scratch(self) -> Path:
        from buildkit_py.store.trash import remove_tree  # noqa: PLC0415  (only with such mounts)

        folder = self.sources.db.scratch("m")
        folder.mkdir(mode=0o711)
        self.stack.callback(remove_tree, folder)
        return folder

    # -------------------------------------------------------------- caches
    def _open_caches(self, op: ExecOp) -> Mapping[int, Path]:
        mounts = [mount for mount in op.mounts if isinstance(mount, CacheMount)]
        if not mounts:
            return {}
        requests = {id(mount): self._cache_request(mount) for mount in mounts}
        found = self.sources.caches.open(
            list(requests.values()),
            self.stack,
            cancelled=self.cancelled,
            empty=self.no_cache,
            on_wait=self.on_wait,
        )
        return {number: found[request.key] for number, request in requests.items()}

    def _cache_request(self, mount: CacheMount) -> CacheRequest:
        if mount.input is None:
            return CacheRequest(mount=mount)
        result = self.inputs[mount.input] if mount.input < len(self.inputs) else None
        if result is None:
            return CacheRequest(mount=mount)
        base = f"context:{result.context}"
        if result.snapshot is not None:
            base = self.sources.snapshots.chain_id(result.snapshot)
        tree = self.tree_of(mount.input)
        node = tree.lookup(mount.source)
        if node is None or not node.is_dir:
            raise SolveError(f'the source "{mount.source}" of a cache mount is no directory')
        return CacheRequest(
            mount=mount, base=base, fill=lambda target: copy_tree(tree, node, target)
        )

    # -------------------------------------------------------------- secrets
    def _secret(self, mount: SecretMount, out: ResolvedMounts) -> None:
        value = self.sources.secrets.value(mount.id)
        if value is None:
            if mount.required:
                raise SolveError(
                    f"secret {mount.id}: not found",
                    hint=f"give it with --secret id={mount.id},src=FILE or ,env=NAME",
                )
            return
        out.masked.append(value)
        if mount.env is not None:
            out.env[mount.env] = value.decode("utf-8", "surrogateescape")
        if mount.target is not None:
            out.mounts.append(
                sandbox.FileMount(
                    target=mount.target,
                    content=value,
                    mode=mount.mode,
                    uid=mount.uid,
                    gid=mount.gid,
                )
            )

    def _ssh(self, mount: SshMount, out: ResolvedMounts) -> None:
        from buildkit_py.worker.ssh import AgentProxy, agent_socket  # noqa: PLC0415  (rare)

        agent = self.sources.secrets.agents.get(mount.id)
        if agent is None:
            if mount.required:
                raise SolveError(
                    f'unset ssh forward key "{mount.id}"', hint="give an agent with --ssh"
                )
            return
        auth_sock = self.sources.secrets.environ.get("SSH_AUTH_SOCK")
        path = self.stack.enter_context(agent_socket(agent, auth_sock))
        proxy = AgentProxy(path, mode=mount.mode, uid=mount.uid, gid=mount.gid)
        self.stack.enter_context(proxy)
        out.mounts.append(sandbox.HostMount(target=mount.target, source=proxy.path, readonly=True))
        out.env.setdefault("SSH_AUTH_SOCK", mount.target)


def _copy_mode(source: str, target: str) -> None:
    status = os.stat(source)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.chown(target, status.st_uid, status.st_gid)


def absolute(path: str, cwd: str) -> str:
    """A target as an absolute, clean path."""
    return os.fsdecode(clean_path(path if path.startswith("/") else f"{cwd}/{path}"))


def times_say_nothing(vertex: Vertex, settle: int, started: float) -> bool:
    """Whether files may have earlier times than `settle` that are no property of the inputs.

    A clock that is behind makes them, and `cp -p` from a mounted build context, whose files have
    the time of their checkout.
    """
    mounted = any(
        item is not None and isinstance(item.op, ContextOp) for item in vertex.inputs[1:]
    )
    return mounted or started < settle
