"""The child that stands by, where it can share the server's memory (`calls.py`).

It makes its namespaces, /proc, /sys, /dev and their masks, gives up what no step has, and waits
for the standard streams. When a request has come, the server enters the child's namespaces, mounts
the root there, leaves again, and adds to the child's list what makes it the step's process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of signal that needs no enum
import _socket
import errno
import os
import stat
import struct

from buildkit_py.runtime import process as pr
from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.attach import build_root, each_place, may_pivot
from buildkit_py.runtime.calls import ANY, CallList, Child, available, tolerating
from buildkit_py.runtime.defaults import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from buildkit_py.runtime.rootfs import (
    DEV_OPTIONS,
    DEVICES,
    LINKS,
    PTS_FLAGS,
    PTS_OPTIONS,
    SAFE,
    SCRATCH_FOLDERS,
)
from buildkit_py.runtime.standby import fits
from buildkit_py.runtime.wire import send_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from buildkit_py.runtime.spec import WireSpec
    from buildkit_py.runtime.targets import Stubs
    from buildkit_py.runtime.users import Identity

_NAMESPACES = (
    sc.CLONE_NEWNS | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS | sc.CLONE_NEWCGROUP | sc.CLONE_NEWPID
)
ENTERED = sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWCGROUP
_CHANNEL = 3  # the number of its socket in the child
_MOST_CANDIDATES = 24
_MOST_CALLS = 20 + _MOST_CANDIDATES
_F_SETFD, _FD_CLOEXEC, _LAST_FD = 2, 1, 0xFFFF_FFFF
_AFTER_WHICH_NEXT = tolerating(*pr.NEXT_CANDIDATE)


def can_park() -> bool:
    """Whether such a child can be had here."""
    initial = f"user:[{0xEFFFFFFD}]"  # as linux/proc_ns.h has it
    return available() and may_pivot() and os.readlink("/proc/self/ns/user") == initial


class Parked:
    """One child that stands by. `filter` is the seccomp program that it has taken already."""

    def __init__(self, template: CallList, seccomp: bytes) -> None:
        self.filter = seccomp
        self._identity: Identity | None = None
        self._program = ("", False)
        self._refused = True
        self.channel, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            first = CallList()
            first.add("dup2", theirs.fileno(), _CHANNEL)
            first.append(template)
            _wait(first)
            self._child = Child(first, _MOST_CALLS, _NAMESPACES)
            self.pid, self.pidfd = self._child.pid, self._child.pidfd
        except OSError:
            self.channel.close()
            raise
        finally:
            theirs.close()

    def enter(self) -> bool:
        """Wait until it has made its mounts, and go there; False when it is gone."""
        if self.channel.recv(1) != b"r":
            return False
        try:
            sc.setns(self.pidfd, ENTERED)
        except sc.SyscallError as error:
            if error.errno != errno.ESRCH:
                raise
            return False
        return True

    def is_gone(self) -> bool:
        """Whether it has ended, or is about to, without a word."""
        try:
            return not self.channel.recv(1, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def build(self, spec: WireSpec, stdio: list[int], home: int) -> Stubs:
        """After `enter`: mount the root, come back, and tell the child what to become.

        `home` is a handle of a process in the namespaces to come back to. Raises what the parts
        of `run_step` raise; then the child still waits.
        """
        try:
            sc.sethostname(spec["hostname"])
            stubs = build_root(spec, prepared=True, for_another=True)
            step = self._step(spec, stdio)
        finally:
            sc.setns(home, ENTERED)
        self._child.extend(step)
        self._refused = False
        try:
            send_rights(self.channel, b"s", stdio)
        except OSError:
            pass  # it has been killed, as `problem` will tell
        return stubs

    def _step(self, spec: WireSpec, stdio: list[int]) -> CallList:
        process = spec["process"]
        identity = self._identity = pr.find_identity(process)
        step = CallList()
        pr.enter_working_directory(process["cwd"])
        step.add("chdir", os.fsencode(process["cwd"]), stage="cwd", path=process["cwd"])
        for number, fd in enumerate(stdio):
            if pr.is_null(fd):  # the first free number is the one that was closed
                step.add("close", number)
                step.add("open", b"/dev/null", os.O_RDWR)
            else:
                pr.hand_over(fd, identity.uid)
        if process["no_new_privileges"]:
            step.add("prctl", sc.PR_SET_NO_NEW_PRIVS, 1)
        if spec["seccomp"] and not self.filter:
            _add_filter(step, spec["seccomp"])
        _add_identity(step, identity, process["capabilities"])
        # Whoever started it must outlive it.
        step.add("prctl", sc.PR_SET_PDEATHSIG, _signal.SIGKILL)
        self._add_program(step, process["arguments"], pr.make_environment(process, identity))
        return step

    def _add_program(
        self, step: CallList, arguments: list[str], environment: dict[str, str]
    ) -> None:
        paths = [
            path for path in pr.candidates_of(arguments, environment) if os.path.lexists(path)
        ]
        self._program = (arguments[0], bool(paths))
        if not paths:
            raise pr.exec_failure(arguments[0], [], exists=False)
        words = step.strings([os.fsencode(item) for item in arguments])
        pairs = [f"{name}={value}" for name, value in environment.items()]
        variables = step.strings([os.fsencode(item) for item in pairs])
        for path in paths[:_MOST_CANDIDATES]:
            place = os.fsencode(path)
            step.add("execve", place, words, variables, tolerate=_AFTER_WHICH_NEXT, stage="exec")

    def problem(self) -> tuple[Any, ...] | None:
        """Why its program was not executed, as a message for the parent; None if it was.

        For a child that has ended otherwise than well.
        """
        outcome = self._child.outcome()
        result, (stage, call, path) = outcome[-1]
        if call == "recvmsg":
            return None if self._refused else ("lost",)
        if result >= 0 and call != "exit_group":
            return None
        if stage == "exec":
            errors = [-number for number, label in outcome if label[0] == "exec" and number < 0]
            name, exists = self._program
            error = pr.exec_failure(name, errors, exists=exists)
        elif stage == "cwd":
            error = pr.no_directory(path, -result)
        elif stage == "user" and self._identity is not None:
            error = pr.no_user(self._identity, -result)
        else:
            return ("error", stage, -result, call, path, os.strerror(-result))
        return ("error", error.stage, error.number, "", "", str(error))


def fits_parked(spec: WireSpec, seccomp: bytes) -> bool:
    """Whether a step can be given to a parked child that has taken that filter."""
    process = spec["process"]
    own = process["tty"] or process["init"] or process["rlimits"] or spec["cgroups"]
    known = not seccomp or seccomp == spec["seccomp"]
    return not own and known and spec["network"] == "host" and fits(spec)


# ------------------------------------------------------------------ before the request
def make_template(scratch: str, seccomp: bytes) -> CallList:
    """What each parked child does first: as `standby.prepare`, and more of what steps share."""
    calls = CallList()
    calls.add("fcntl", _CHANNEL, _F_SETFD, _FD_CLOEXEC)
    calls.add("close_range", _CHANNEL + 1, _LAST_FD, 0)
    for number in range(3):
        calls.add("close", number, tolerate=ANY)
    calls.add("setsid")
    calls.add("umask", 0)
    base = os.fsencode(scratch)
    calls.add("mount", b"tmpfs", base, b"tmpfs", sc.MS_NOSUID, b"mode=700", path=scratch)
    for name in (*SCRATCH_FOLDERS, "proc", "sys", "dev"):
        calls.add("mkdir", base + b"/" + name.encode(), 0o755)
    calls.add("mount", b"proc", base + b"/proc", b"proc", SAFE, 0)
    _add_dev(calls, base)
    calls.add("mount", b"sysfs", base + b"/sys", b"sysfs", SAFE | sc.MS_RDONLY, 0)
    _add_masks(calls, base)
    for number in pr.capabilities_of(DEFAULT_CAPABILITIES)[1]:
        calls.add("prctl", sc.PR_CAPBSET_DROP, number)
    for number in pr.CHANGED_SIGNALS:
        calls.add("rt_sigaction", number, bytes(64), 0, 8)
    calls.add("rt_sigprocmask", 2, bytes(8), 0, 8)
    calls.add("umask", 0o022)
    if seccomp:
        _add_filter(calls, seccomp)
    return calls


def _add_dev(calls: CallList, base: bytes) -> None:
    dev = base + b"/dev/"
    flags = sc.MS_NOSUID | sc.MS_NODEV
    calls.add("mount", b"tmpfs", dev, b"tmpfs", flags, DEV_OPTIONS.encode())
    for name, major, minor in DEVICES:
        node, place = base + b"/node-" + name.encode(), dev + name.encode()
        calls.add("mknod", node, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        calls.add("mknod", place, stat.S_IFREG | 0o666, 0)
        calls.add("mount", node, place, 0, sc.MS_BIND, 0)
    for name, link in LINKS:
        calls.add("symlink", link.encode(), dev + name.encode())
    for name in ("pts", "shm", "mqueue"):
        calls.add("mkdir", dev + name.encode(), 0o755)
    options = PTS_OPTIONS.encode() + b",gid=5"
    calls.add("mount", b"devpts", dev + b"pts", b"devpts", PTS_FLAGS, options)
    calls.add("mount", b"mqueue", dev + b"mqueue", b"mqueue", SAFE, 0)


def _add_masks(calls: CallList, base: bytes) -> None:
    for path in each_place(MASKED_PATHS):
        place = base + path.encode()
        if os.path.isdir(path):
            calls.add("mount", b"tmpfs", place, b"tmpfs", sc.MS_RDONLY, b"size=0k")
        elif os.path.exists(path):
            calls.add("mount", base + b"/dev/null", place, 0, sc.MS_BIND, 0)
    again = sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY
    again |= sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    for path in READONLY_PATHS:
        if os.path.exists(path):
            place = base + path.encode()
            calls.add("mount", place, place, 0, sc.MS_BIND | sc.MS_REC, 0)
            calls.add("mount", place, place, 0, again, 0)


def _wait(first: CallList) -> None:
    """Say that all is ready, and receive three descriptors, which become 0, 1 and 2."""
    byte, control = first.keep(bytes(8)), first.keep(bytes(64))
    part = first.keep(struct.pack("@PN", byte, 1))
    message = struct.pack("@PIPNPNi4x", 0, 0, part, 1, control, 64, 0)
    first.add("write", _CHANNEL, b"r", 1)
    first.add("recvmsg", _CHANNEL, message, 0)


# ------------------------------------------------------------------ of both lists
def _add_filter(calls: CallList, program: bytes) -> None:
    """See seccomp(2): it comes before capabilities are cut."""
    place = calls.keep(program)
    calls.add("seccomp", 1, 0, struct.pack("@HP", len(program) // 8, place))


def _add_identity(calls: CallList, identity: Identity, capabilities: int) -> None:
    groups, ids = identity.groups, (identity.uid, identity.gid)
    packed = struct.pack(f"={len(groups)}I", *groups)
    calls.add("setgroups", len(groups), packed, stage="user", tolerate=tolerating(errno.EPERM))
    calls.add("setresgid", ids[1], ids[1], ids[1], stage="user")
    calls.add("setresuid", ids[0], ids[0], ids[0], stage="user")
    kept = pr.capabilities_of(capabilities)[0] if identity.uid == 0 else 0
    sets = (kept & 0xFFFF_FFFF, kept & 0xFFFF_FFFF, 0, kept >> 32, kept >> 32, 0)
    calls.add("capset", struct.pack("=Ii", 0x2008_0522, 0), struct.pack("=6I", *sets))
    calls.add("prctl", sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL, tolerate=ANY)
