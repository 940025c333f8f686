"""Networks that a build makes for its steps, seen from the build: `bridge` and `slirp`.

`open_network` chooses: a bridge with NAT for root, a user-mode stack (pasta or slirp4netns) for
others. Both start at the first step that needs them, and end with `close` or with the build.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Protocol

from buildkit_py.errors import SandboxError, UnsupportedHost
from buildkit_py.runtime.executor import RunHooks
from buildkit_py.runtime.namespaces import in_initial_user_namespace

_TIMEOUT = 20.0
_STOP_SECONDS = 5.0
_SLIRP_SERVER = "10.0.2.3"
_LOCKS = "/run/pybuild/networks"
_REMEDY = "use --network=host or none, or see `pybuild system doctor`"
_ENDS_WITH_STDIN = """\
exec 3<&0 </dev/null
"$@" & program=$!
{ read -r never <&3; kill $program; } >/dev/null 2>&1 &
wait $program
"""
_BOOTSTRAP = """\
import sys
for name, path in (("buildkit_py", {package!r}), ("buildkit_py.runtime", {runtime!r})):
    module = sys.modules[name] = type(sys)(name)
    module.__path__ = [path]
from buildkit_py.runtime.bridge import main
main({fd}, {folder!r})
"""


class Network(Protocol):
    """A way for steps to reach the world. `servers` are name servers that it brings itself."""

    servers: tuple[str, ...]

    def hooks(self) -> RunHooks:
        """Hooks that connect one step, and end its connection. They raise SandboxError."""
        ...

    def close(self) -> None:
        """Take everything away."""
        ...


def open_network(*, rootless: bool | None = None) -> Network:
    """What `bridge` means for this process. Raises UnsupportedHost."""
    if rootless is None:
        rootless = os.geteuid() != 0 or not in_initial_user_namespace()
    return UserModeNetwork() if rootless else BridgeNetwork()


class BridgeNetwork:
    """A bridge of this build's own, made by the keeper (`bridge.py`) at the first step."""

    servers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.name = ""  # of the bridge, once it is there
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def hooks(self) -> RunHooks:
        """See Network."""
        hosts: list[str] = []

        def connect(pid: int) -> None:
            hosts.append(self._ask(f"connect {pid}"))

        def disconnect() -> None:
            for host in hosts:
                with self._lock, suppress(OSError):
                    if self._control is not None:
                        self._control.send(f"disconnect {host}".encode())

        return RunHooks(connect=connect, disconnect=disconnect)

    def close(self) -> None:
        """See Network."""
        with self._lock:
            control, process = self._control, self._process
            self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            try:
                process.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ask(self, request: str) -> str:
        with self._lock:
            control = self._control or self._start()
            try:
                control.send(request.encode())
            except OSError as error:
                raise SandboxError("the program that keeps the bridge is gone") from error
            return _answer(control)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_TIMEOUT)
        runtime = Path(__file__).parent
        code = _BOOTSTRAP.format(
            package=os.fspath(runtime.parent),
            runtime=os.fspath(runtime),
            fd=theirs.fileno(),
            folder=_LOCKS,
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            self.name = _answer(ours)
        except SandboxError:
            ours.close()
            self._process.wait()
            self._process = None
            raise
        self._control = ours
        return ours


def _answer(control: socket.socket) -> str:
    try:
        kind, _, text = control.recv(4096).decode().partition(" ")
    except OSError as error:
        raise SandboxError("the program that keeps the bridge does not answer") from error
    if kind == "ok":
        return text
    raise UnsupportedHost(
        f"cannot connect the step to a bridge: {text or 'its keeper is gone'}", hint=_REMEDY
    )


class UserModeNetwork:
    """A user-mode TCP/IP stack for each step, by pasta or slirp4netns."""

    def __init__(self) -> None:
        self._pasta = shutil.which("pasta")
        self._slirp = shutil.which("slirp4netns")
        if self._pasta is None and self._slirp is None:
            raise UnsupportedHost(
                "network mode bridge needs root, or pasta or slirp4netns", hint=_REMEDY
            )
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            raise UnsupportedHost(
                "network mode bridge needs access to /dev/net/tun",
                hint="as root: chmod 0666 /dev/net/tun; or use --network=host",
            )
        self.servers: tuple[str, ...] = () if self._pasta else (_SLIRP_SERVER,)

    def hooks(self) -> RunHooks:
        """See Network."""
        stack = ExitStack()

        def connect(pid: int) -> None:
            if self._pasta is not None:
                _start_pasta(self._pasta, pid, stack)
            else:
                assert self._slirp is not None
                _start_slirp(self._slirp, pid, stack)

        return RunHooks(connect=connect, disconnect=stack.close)

    def close(self) -> None:
        """Each step's stack has ended with the step."""


def _start_slirp(program: str, pid: int, stack: ExitStack) -> None:
    """It ends when the write end of its exit pipe closes: with the step, or with this process."""
    exit_read, exit_write = os.pipe2(os.O_CLOEXEC)
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    words = [program, "--configure", "--mtu=65520", "--disable-host-loopback"]
    words += [f"--exit-fd={exit_read}", f"--ready-fd={ready_write}", str(pid), "tap0"]
    try:
        process = _start_helper(words, (exit_read, ready_write))
    finally:
        os.close(exit_read)
        os.close(ready_write)
    try:
        ready = select.select([ready_read], [], [], _TIMEOUT)[0]
        if not ready or os.read(ready_read, 1) != b"1":
            os.close(exit_write)
            raise _refused(process, program)
    finally:
        os.close(ready_read)
    stack.callback(_stop, process)
    stack.callback(os.close, exit_write)


def _start_pasta(program: str, pid: int, stack: ExitStack) -> None:
    """It stays in the foreground, and says by its pid file that it is ready.

    It gives up capabilities before it looks at its target, and then may not look into /proc of a
    step that has more: so it gets the namespace as a file, bound in our own mount namespace.
    """
    from buildkit_py.runtime import syscalls as sc  # noqa: PLC0415  (ctypes takes its time)

    folder = Path(tempfile.mkdtemp(prefix="pybuild-pasta-"))
    try:
        target = folder / "netns"
        target.touch()
        sc.mount(f"/proc/{pid}/ns/net", os.fspath(target), None, sc.MS_BIND)
        words = [program, "--foreground", "--quiet", "--config-net", "--pid", f"{folder}/pid"]
        words += ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]  # no ports
        words += ["--no-map-gw", "--runas", "0"]  # nor the host's loopback; ids stay
        words += ["--no-netns-quit", "--netns-only", "--netns", os.fspath(target)]
        process = _start_helper(["/bin/sh", "-c", _ENDS_WITH_STDIN, "sh", *words], (), PIPE)
        deadline = time.monotonic() + _TIMEOUT
        while not _has_text(folder / "pid"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise _refused(process, program)
            time.sleep(0.005)
        stack.callback(_stop, process)
    finally:
        with suppress(OSError):
            sc.umount2(os.fspath(folder / "netns"), sc.MNT_DETACH)
        shutil.rmtree(folder, ignore_errors=True)


def _start_helper(
    words: list[str], fds: tuple[int, ...], stdin: int = DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=stdin,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        start_new_session=True,
    )


def _has_text(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _refused(process: subprocess.Popen[bytes], program: str) -> UnsupportedHost:
    if process.stdin is None:
        process.kill()
    text = process.communicate()[1].decode("utf-8", "replace").strip()
    name = os.path.basename(program)
    last = text.splitlines()[-1] if text else "it gives no reason"
    return UnsupportedHost(f"{name} cannot connect the step: {last}", hint=_REMEDY)


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
