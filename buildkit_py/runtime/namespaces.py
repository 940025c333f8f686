"""Executor: namespaces, through the fork server in `init.py`.

The server is started at the first run, or earlier by `start()`. One socket pair for each run
carries its news, so runs of several threads never wait for each other here.
"""

from __future__ import annotations

import array
import marshal
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from buildkit_py.errors import SandboxError, UnsupportedHost
from buildkit_py.runtime.spec import DirectoryTree, to_wire
from buildkit_py.runtime.stubs import remove_stubs
from buildkit_py.runtime.watch import NeverStarted, watch

if TYPE_CHECKING:
    from types import TracebackType

    from buildkit_py.runtime.executor import ExitStatus, OnOutput, RunHooks, StubRecord
    from buildkit_py.runtime.spec import SandboxSpec

_INLINE_LIMIT = 64 << 10
_START_TIMEOUT = 30.0
_MOST_STARTS = 3

# The packages' own __init__ files would import `typing` and more: the child gets bare packages.
_BOOTSTRAP = """\
import sys
for name, path in (("buildkit_py", {package!r}), ("buildkit_py.runtime", {runtime!r})):
    module = sys.modules[name] = type(sys)(name)
    module.__path__ = [path]
from buildkit_py.runtime.init import main
main({fd}, namespaces={namespaces}, parking={parking}, scratch={scratch!r})
"""


class NamespaceExecutor:
    """Runs each step in its own mount, pid, ipc, uts, cgroup and perhaps network namespace."""

    name = "namespaces"
    _namespaces = True
    _parking = True  # where the machine allows

    def __init__(self, *, scratch: str | os.PathLike[str] | None = None) -> None:
        self._scratch_parent = scratch
        self._scratch = ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._userxattr = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the fork server, if it does not run; returns before it is ready."""
        with self._lock:
            self._start()

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
        for _again in range(_MOST_STARTS):
            try:
                return self._run(
                    spec,
                    on_output=on_output,
                    cancelled=cancelled,
                    stdin=stdin,
                    timeout=timeout,
                    hooks=hooks,
                )
            except NeverStarted as error:
                _start_over(spec, error.stubs)
        raise SandboxError("the sandbox program was killed", hint="is the machine out of memory?")

    def _run(
        self,
        spec: SandboxSpec,
        *,
        on_output: OnOutput,
        cancelled: threading.Event,
        stdin: int | None,
        timeout: float,
        hooks: RunHooks | None,
    ) -> ExitStatus:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streams: dict[int, int] = {}
        child_fds: list[int] = []
        try:
            if stdin is None:
                child_fds.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            else:
                child_fds.append(os.dup(stdin))
            for number in (1, 2):
                read, write = os.pipe2(os.O_CLOEXEC)
                streams[read] = number
                child_fds.append(write)
            with theirs:
                self._request(spec, [theirs.fileno(), *child_fds])
            while child_fds:
                os.close(child_fds.pop())
            return watch(
                ours,
                streams,
                on_output=on_output,
                cancelled=cancelled,
                timeout=timeout,
                hooks=hooks,
            )
        finally:
            ours.close()
            for fd in (*streams, *child_fds):
                os.close(fd)

    def close(self) -> None:
        """End the server and with it every process that still runs."""
        with self._lock:
            control, process = self._control, self._process
            self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = ""

    # -------------------------------------------------------------- the server
    def _request(self, spec: SandboxSpec, fds: list[int]) -> None:
        with self._lock:
            control = self._start()
            message = to_wire(spec)
            message["scratch"] = self._scratch
            message["userxattr"] = self._userxattr
            message["namespaces"] = self._namespaces
            data = marshal.dumps(message)
            memfd = -1
            if len(data) > _INLINE_LIMIT:
                memfd = os.memfd_create("spec", os.MFD_CLOEXEC)
                with open(memfd, "wb", closefd=False) as file:
                    file.write(data)
                data, fds = b"F", [*fds, memfd]
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
            try:
                control.sendmsg([data], [rights])
            except OSError as error:
                raise self._dead_server() from error
            finally:
                if memfd >= 0:
                    os.close(memfd)

    def _start(self) -> socket.socket:
        if self._control is not None:
            return self._control
        if not sys.executable:
            raise UnsupportedHost("no Python interpreter to start the sandbox program with")
        self._userxattr = not in_initial_user_namespace()
        self._scratch = tempfile.mkdtemp(prefix="pybuild-run-", dir=self._scratch_parent)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        runtime = Path(__file__).parent
        code = _BOOTSTRAP.format(
            package=os.fspath(runtime.parent),
            runtime=os.fspath(runtime),
            fd=theirs.fileno(),
            namespaces=self._namespaces,
            parking=self._parking,
            scratch=self._scratch,
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(_START_TIMEOUT)
        self._greet(ours)
        ours.settimeout(None)
        self._control = ours
        return ours

    def _greet(self, control: socket.socket) -> None:
        try:
            data = control.recv(4096)
        except OSError as error:
            raise SandboxError("the sandbox program does not answer") from error
        message: tuple[Any, ...] = marshal.loads(data) if data else ("gone",)
        if message[0] == "hello":
            return
        control.close()
        if message[0] == "refused":
            _kind, number, call, text = message
            raise UnsupportedHost(
                f"cannot make namespaces here: {call}: {text}",
                syscall=call,
                errno=number,
                hint="`pybuild system doctor` says what this host supports",
            )
        raise SandboxError("the sandbox program ended at its start")

    def _dead_server(self) -> SandboxError:
        return SandboxError("the sandbox program is gone", hint="was it killed?")


def _start_over(spec: SandboxSpec, stubs: StubRecord) -> None:
    """Make a root as it was before something was mounted on it."""
    root = spec.root
    if isinstance(root, DirectoryTree):
        remove_stubs(root.path, stubs)
    elif root.upper is not None and root.work is not None:
        remove_stubs(root.upper, stubs)
        shutil.rmtree(root.work)  # overlay does not take one again that was used
        os.mkdir(root.work, 0o711)


def in_initial_user_namespace() -> bool:
    """Whether this is the host's own user namespace (then overlay may use trusted.* xattrs).

    Its number in linux/proc_ns.h says so; root of a container may map all ids to themselves.
    """
    try:
        return os.readlink("/proc/self/ns/user") == f"user:[{0xEFFFFFFD}]"
    except OSError:
        return True


def has_one_id() -> bool:
    """Whether only one id is mapped in this user namespace."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file) == 1
    except OSError:
        return False
