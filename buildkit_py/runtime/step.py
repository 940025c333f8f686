"""One sandbox, from inside: what the forked child does between fork and exec.

Mounts need all capabilities, so they come before the process takes on its own (`process.py`).
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.attach import build_root
from buildkit_py.runtime.process import StepError, become_process
from buildkit_py.runtime.targets import Stubs
from buildkit_py.runtime.users import UnknownUser
from buildkit_py.runtime.wire import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from buildkit_py.runtime.spec import WireSpec

STEP_NAMESPACES = sc.CLONE_NEWNS | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def run_step(
    spec: WireSpec, reply: _socket.socket, stdio: list[int], alive: int, *, prepared: bool = False
) -> None:
    """Become the sandbox's process. Returns only by an exception or by exiting.

    `prepared` says that `stand_by` has done its part.
    """
    tell_of_start(reply)
    stage = "cgroup"
    try:
        warnings = _join_cgroups(spec["cgroups"])
        stage = "namespaces"
        _enter_namespaces(spec, reply, prepared=prepared)
        stage = "mounts"
        stubs = build_root(spec, prepared=prepared) if spec["namespaces"] else _enter_chroot(spec)
        send(reply, ("ready", stubs.made, stubs.before, stubs.after, warnings))
        stage = "process"
        become_process(spec, reply, stdio, alive)
    except (OSError, StepError, UnknownUser) as error:
        send(reply, problem(stage, error))


def problem(stage: str, error: Exception) -> tuple[Any, ...]:
    """An error before exec as a message for the parent."""
    if isinstance(error, StepError):
        return ("error", error.stage, error.number, "", "", str(error))
    if isinstance(error, UnknownUser):
        return ("error", "user", 0, "", "", str(error))
    if isinstance(error, OSError):
        call = getattr(error, "syscall", "")
        path = error.filename if isinstance(error.filename, str) else ""
        return ("error", stage, error.errno or 0, call, path, error.strerror or str(error))
    return ("error", "internal", 0, "", "", f"{type(error).__name__}: {error}")


# ------------------------------------------------------------------ surroundings
def tell_of_start(reply: _socket.socket) -> None:
    """Give the parent the handle to kill us by."""
    pidfd = os.pidfd_open(os.getpid())
    send(reply, ("started",), (pidfd,))
    os.close(pidfd)


def _join_cgroups(files: list[str]) -> list[str]:
    warnings = []
    for path in files:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            warnings.append(f"cannot join cgroup {os.path.dirname(path)}: {error.strerror}")
    return warnings


def _enter_namespaces(spec: WireSpec, reply: _socket.socket, *, prepared: bool) -> None:
    if not spec["namespaces"]:
        return
    # The cgroup namespace's root is the cgroup that we are in by now.
    flags = sc.CLONE_NEWCGROUP | (0 if prepared else STEP_NAMESPACES)
    network = spec["network"]
    if network != "host":
        flags |= sc.CLONE_NEWNET
    sc.unshare(flags)
    if network != "host":
        _loopback_up()
    if network == "wait":
        send(reply, ("network",))
        if reply.recv(64) != b"go":
            os._exit(1)
    sc.sethostname(spec["hostname"])


def _loopback_up() -> None:
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, request))[1]
    request = struct.pack("16sh14x", b"lo", flags | _IFF_UP)
    fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, request)
    probe.close()


def _enter_chroot(spec: WireSpec) -> Stubs:
    path = spec["root"]["path"]
    try:
        os.chroot(path)
    except OSError as error:
        raise sc.SyscallError("chroot", error.errno or 0, path) from error
    os.chdir("/")
    return Stubs()
