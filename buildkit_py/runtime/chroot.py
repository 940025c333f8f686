"""Executor: root without the right to make namespaces, as inside an unprivileged container.

A step runs in a chroot. It shares the container's network, processes and mounts, so isolation is
that of the container around it. Binds cannot be mounted: they are copied in before the step and
taken out after it, caches back to where they came from. One step runs at a time: what a step
leaves running could not be told from a process of another one.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import UnsupportedHost
from buildkit_py.runtime.executor import StubRecord
from buildkit_py.runtime.namespaces import NamespaceExecutor
from buildkit_py.runtime.spec import (
    DirectoryTree,
    FileMount,
    HostMount,
    SandboxMount,
    TmpfsMount,
    TreeMount,
)

if TYPE_CHECKING:
    from buildkit_py.runtime.executor import ExitStatus, OnOutput, RunHooks
    from buildkit_py.runtime.spec import SandboxSpec

_LINKS = 40
_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9))


class ChrootExecutor(NamespaceExecutor):
    """Runs each step in a chroot. Roots must be plain directories."""

    name = "chroot"
    _namespaces = False

    def __init__(self, *, scratch: str | os.PathLike[str] | None = None) -> None:
        super().__init__(scratch=scratch)
        self._one_at_a_time = threading.Lock()

    def run(
        self,
        spec: SandboxSpec,
        *,
        on_output: OnOutput,
        cancelled: threading.Event,
        stdin: int | None = None,
        timeout: float = 0.0,
        hooks: RunHooks | None = None,
    ) -> ExitStatus:
        """Run to the end; see Executor."""
        root = spec.root
        if not isinstance(root, DirectoryTree):
            raise UnsupportedHost(
                "overlay mounts cannot be made here",
                hint="`pybuild system doctor` says what would allow them",
            )
        if spec.network != "host":
            raise UnsupportedHost(
                f"network mode {spec.network} needs namespaces", hint="use --network=host"
            )
        with self._one_at_a_time, ExitStack() as stack:
            placed = _Placed(root.path, stack)
            placed.devices()
            for mount in spec.mounts:
                placed.put(mount)
            placed.settle()
            status = super().run(
                replace(spec, mounts=()),
                on_output=on_output,
                cancelled=cancelled,
                stdin=stdin,
                timeout=timeout,
                hooks=hooks,
            )
            return replace(status, stubs=StubRecord(restored=tuple(placed.restored)))


class _Placed:
    """Copies of mounts inside a root, taken out again when the stack unwinds."""

    def __init__(self, root: str, stack: ExitStack) -> None:
        self.root = os.path.realpath(root)
        self.stack = stack
        self.restored: list[str] = []
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}
        stack.callback(self._restore_times)

    def settle(self) -> None:
        """Remember the directories as they are now that everything is placed."""
        self.after = {path: os.stat(path).st_ctime_ns for path in self.before}
        self.stack.callback(self._find_changed)

    def _find_changed(self) -> None:
        """Forget directories that the step itself has changed: they keep their new times."""
        for path, changed in self.after.items():
            if not _is_ours(path) or os.stat(path).st_ctime_ns != changed:
                self.before.pop(path, None)

    def _restore_times(self) -> None:
        for path, modified in self.before.items():
            if _is_ours(path) and os.path.isdir(path):
                os.utime(path, ns=(modified, modified))

    def devices(self) -> None:
        dev = self._target("/dev", directory=True)
        for name, major, minor in _NODES:
            path = os.path.join(dev, name)
            if os.path.lexists(path):
                continue
            self._note(dev)
            try:
                os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
                os.chmod(path, 0o666)  # noqa: S103  (device nodes are for all)
            except PermissionError:
                shutil.copyfile(os.devnull, path)
            self.stack.callback(_remove, path)

    def put(self, mount: SandboxMount) -> None:
        match mount:
            case FileMount():
                self._file(mount)
            case TmpfsMount():
                self.stack.callback(_empty, self._target(mount.target, directory=True))
            case HostMount():
                self._copy(mount.source, mount.target, back=not mount.readonly)
            case TreeMount(tree=DirectoryTree(path=path)):
                source = os.path.realpath(path + "/" + mount.source)
                if os.path.commonpath([source, os.path.realpath(path)]) != os.path.realpath(path):
                    raise UnsupportedHost(f"the mount source {mount.source} leads out of its tree")
                self._copy(source, mount.target, back=not mount.readonly)
            case TreeMount():
                raise UnsupportedHost(
                    f"cannot mount on {mount.target}: binds of stages and images need namespaces",
                    hint="use COPY --from, or see `pybuild system doctor`",
                )

    def _file(self, mount: FileMount) -> None:
        path = self._target(mount.target, directory=False)
        saved = None
        if os.path.getsize(path):
            saved = path + ".pybuild-saved"
            self._note(os.path.dirname(path))
            os.rename(path, saved)
            self.restored.append(path[len(self.root) :])
        Path(path).write_bytes(mount.content)
        os.chmod(path, mount.mode)
        os.chown(path, mount.uid, mount.gid)
        self.stack.callback(_restore, path, saved)

    def _copy(self, source: str, target: str, *, back: bool) -> None:
        directory = os.path.isdir(source)
        path = self._target(target, directory=directory)
        if not directory:
            shutil.copy2(source, path)
            self.stack.callback(_remove, path)
            return
        shutil.copytree(source, path, symlinks=True, dirs_exist_ok=True)
        self.stack.callback(_empty, path)
        if back:
            self.stack.callback(_copy_back, path, source)

    def _target(self, target: str, *, directory: bool) -> str:
        """The real path of a target in the root, made if missing; links cannot lead out."""
        here, links = self.root, 0
        pending = [name for name in target.split("/") if name not in {"", "."}]
        while pending:
            name = pending.pop(0)
            if name == "..":
                here = here if here == self.root else os.path.dirname(here)
                continue
            path = os.path.join(here, name)
            if os.path.islink(path):
                links += 1
                if links > _LINKS:
                    raise UnsupportedHost(f"too many symbolic links at {target}")
                link = os.readlink(path)
                here = self.root if link.startswith("/") else here
                pending = [item for item in link.split("/") if item not in {"", "."}] + pending
                continue
            here = path
            if os.path.lexists(here):
                continue
            self._note(os.path.dirname(here))
            if pending or directory:
                os.mkdir(here, 0o755)
            else:
                Path(here).touch()
            self.stack.callback(_remove, here)
        return here

    def _note(self, directory: str) -> None:
        self.before.setdefault(directory, os.stat(directory).st_mtime_ns)


def _is_ours(path: str) -> bool:
    """Whether the step has not put links into the way to where something was placed."""
    return os.path.realpath(path) == path


def _remove(path: str) -> None:
    if not _is_ours(os.path.dirname(path)):
        return
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)
    except OSError:
        pass  # the step has put something into it: it stays


def _restore(path: str, saved: str | None) -> None:
    if saved is None:
        _remove(path)
    elif _is_ours(os.path.dirname(path)):
        os.rename(saved, path)


def _empty(path: str) -> None:
    if not _is_ours(path) or not os.path.isdir(path):
        return
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def _copy_back(path: str, source: str) -> None:
    if not _is_ours(path) or not os.path.isdir(path):
        return
    _empty(source)
    shutil.copytree(path, source, symlinks=True, dirs_exist_ok=True)
