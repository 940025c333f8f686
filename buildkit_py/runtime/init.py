"""The sandbox program: a fork server that starts one process for each request.

It is started once by `python -I -S`, single-threaded, and imports only what it needs (fork costs
by the size of the process). The parent sends, over a SOCK_SEQPACKET socket, one message for each
step: a marshalled spec, and as SCM_RIGHTS a reply socket and the three standard streams. A spec
that is too big for a message comes in a memfd. Each step is a child of the server, PID 1 of a new
pid namespace. One child stands by ahead of its step, with its namespaces and usual mounts made; a
step that finds none, or asks for other mounts, gets a child of its own. What stands by is a child
that shares this process' memory (`parked.py`), or where that cannot be, a fork (`standby.py`). The
reply socket answers, by the child or for it by the server:

    ("started",) + pidfd
    ("network",)              when it waits for its network
    ("terminal",) + master    for a tty
    ("ready", stubs…)         the root is mounted
    ("error", stage, errno, syscall, path, message)   before exec
    ("lost",)                 instead of the next: it was killed before it began
    ("exited", status, rusage)

When the parent dies the socket reaches its end: every child is killed and the server leaves. When
the server is killed, its pid namespace goes, and all children with it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of signal that needs no enum
import _socket
import gc
import marshal
import os
import select
import sys

from buildkit_py.runtime import calls
from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.leftovers import children_of, remove_cgroup
from buildkit_py.runtime.parked import ENTERED, Parked, can_park, fits_parked, make_template
from buildkit_py.runtime.process import IGNORED_SIGNALS, look_around, restore_signals
from buildkit_py.runtime.standby import stand_by
from buildkit_py.runtime.step import problem, run_step
from buildkit_py.runtime.wire import TAKEN, decode, receive, send, send_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from buildkit_py.runtime.spec import WireSpec

_ORPHAN_ROUNDS = 1000
_PATIENCE_MS = 1
_MOST_FAILURES = 16


class Running:
    """A step's child; `parked` is what it was before, if it was not forked."""

    def __init__(self, pid: int, reply: _socket.socket, parked: Parked | None = None) -> None:
        self.pid = pid
        self.reply = reply
        self.parked = parked


class Server:
    """The children that run, by their pidfd; and the one that stands by.

    While a fork stands by the server does not listen on the control socket: that child does.
    `home` is a handle of a process in the server's own namespaces, to come back by.
    """

    def __init__(
        self, control: _socket.socket, scratch: str, home: int, *, namespaces: bool, parking: bool
    ) -> None:
        self.control = control
        self.scratch = scratch
        self.home = home
        self.parking = parking
        self.parked: Parked | None = None
        self.template: tuple[bytes, calls.CallList] | None = None
        self.filter = b""
        self.standby: tuple[int, _socket.socket] | None = None
        self.failures = 0 if namespaces else _MOST_FAILURES
        self.namespaces = namespaces
        self.children: dict[int, Running] = {}
        self.cgroups: set[str] = set()  # of all steps: when the parent is killed they are ours
        self.poll = select.poll()
        self.poll.register(control.fileno(), select.POLLIN)
        self.alive_read, self.alive_write = os.pipe2(os.O_CLOEXEC)
        self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> None:
        """Until the parent is gone."""
        self._stand_by()
        while True:
            # A child is made ahead when a step has ended, or has been running for a moment: at
            # its start both would only be in each other's way.
            ready = self.standby is not None or self.parked is not None
            wanted = not ready and self.failures < _MOST_FAILURES
            events = self.poll.poll(_PATIENCE_MS if wanted else None)
            if not events:
                self._stand_by()
            for fd, _event in events:
                if fd == self.control.fileno():
                    if not self._request():
                        self._kill_all()
                        return
                elif self.standby is not None and fd == self.standby[1].fileno():
                    self._taken(*self.standby)
                elif self.parked is not None and fd == self.parked.pidfd:
                    self._lost(self.parked)
                else:
                    self._reap(fd)
                    self._stand_by()

    def _request(self) -> bool:
        try:
            received = receive(self.control)
        except OSError:
            return False
        if received is None:
            return False
        if self.parked is None or not self._give(self.parked, *received):
            self._start(*received)
        return True

    def _start(self, data: bytes, fds: list[int]) -> None:
        """Run a request in a child of its own."""
        reply = _socket.socket(fileno=fds[0])
        try:
            spec = decode(data, fds)
            self._watch(self._fork(spec, reply, fds[1:]), reply, spec["cgroups"])
        except OSError as error:
            call = getattr(error, "syscall", "fork")
            tell(reply, ("error", "start", error.errno or 0, call, "", error.strerror or ""))
            tell(reply, ("exited", 0, 0))
            reply.close()
        for fd in fds[1:]:
            os.close(fd)

    # -------------------------------------------------------------- a child ahead of its step
    def _stand_by(self) -> None:
        """Have one child ready, whose namespaces and usual mounts are made while nobody waits."""
        if self.standby or self.parked or self.failures >= _MOST_FAILURES:
            return
        if self.parking:
            self._park()
            return
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)

        def child() -> None:
            ours.close()
            stand_by(self.control, theirs, self.scratch, self.alive_read)

        try:
            pid = self._new_process(child)
        except OSError:
            self.failures = _MOST_FAILURES  # the next step will say what is wrong
            ours.close()
        else:
            self.standby = (pid, ours)
            self.poll.unregister(self.control.fileno())
            self.poll.register(ours.fileno(), select.POLLIN)
        theirs.close()

    def _taken(self, pid: int, channel: _socket.socket) -> None:
        """The child that stood by runs a step now, or gives one back; or it is gone."""
        self.standby = None
        self.poll.unregister(channel.fileno())
        self.poll.register(self.control.fileno(), select.POLLIN)
        try:
            received = receive(channel)
        except OSError:
            received = None
        channel.close()
        if received is not None and received[0][:1] == TAKEN:
            self.failures = 0
            cgroups = os.fsdecode(received[0][1:]).splitlines()
            self._watch(pid, _socket.socket(fileno=received[1][0]), cgroups)
            return
        os.waitpid(pid, 0)
        if received is None:
            self.failures += 1  # it could not prepare: a child of the step's own says why
        else:
            self._start(*received)

    # -------------------------------------------------------------- one that shares our memory
    def _park(self) -> None:
        if self.template is None or self.template[0] != self.filter:
            self.template = (self.filter, make_template(self.scratch, self.filter))
        try:
            self.parked = Parked(self.template[1], self.filter)
        except OSError:
            self.parking = False
        else:
            self.poll.register(self.parked.pidfd, select.POLLIN)

    def _give(self, parked: Parked, data: bytes, fds: list[int]) -> bool:
        """Have the parked child run a request; False when it cannot."""
        spec = decode(data, fds)
        self.filter = spec["seccomp"] or self.filter
        if parked.filter not in {b"", self.filter}:
            os.kill(parked.pid, _signal.SIGKILL)  # the next one will have the new filter
        if not fits_parked(spec, parked.filter) or not self._enter(parked):
            return False
        self.parked = None
        self.failures = 0
        reply = _socket.socket(fileno=fds[0])
        self.children[parked.pidfd] = Running(parked.pid, reply, parked)
        tell(reply, ("started",), (parked.pidfd,))
        try:
            stubs = parked.build(spec, fds[1:4], self.home)
        except Exception as error:  # noqa: BLE001  (the server must go on)
            tell(reply, problem("mounts", error))
            os.kill(parked.pid, _signal.SIGKILL)
            parked.channel.close()
            self._sweep(fds[1:])
        else:
            parked.channel.close()
            tell(reply, ("ready", stubs.made, stubs.before, stubs.after, []))
        for fd in fds[1:]:
            os.close(fd)
        return True

    def _enter(self, parked: Parked) -> bool:
        try:
            entered = parked.enter()
        except OSError:  # a kernel that cannot, or the right to do so is missing
            self.parking = False
            os.kill(parked.pid, _signal.SIGKILL)
            return False
        if entered and parked.is_gone():
            sc.setns(self.home, ENTERED)
            return False
        return entered

    def _lost(self, parked: Parked) -> None:
        """It was killed, or could not do its part: then what stands by next is a fork."""
        self.parked = None
        self.poll.unregister(parked.pidfd)
        os.close(parked.pidfd)
        parked.channel.close()
        status = os.waitpid(parked.pid, 0)[1]
        self.failures += 1
        if os.waitstatus_to_exitcode(status) == calls.FAILED:
            self.parking = False

    def _sweep(self, spared: list[int]) -> None:
        """Close what a failure has left open."""
        known = {self.control.fileno(), self.home, self.own_pid_namespace, *spared}
        known |= {self.alive_read, self.alive_write, *self.children}
        known |= {child.reply.fileno() for child in self.children.values()}
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in known:
                try:
                    os.close(int(name))
                except OSError:
                    continue  # that of the listing itself

    # -------------------------------------------------------------- children
    def _fork(self, spec: WireSpec, reply: _socket.socket, stdio: list[int]) -> int:
        def child() -> None:
            self.control.close()
            if self.standby is not None:
                self.standby[1].close()
            run_step(spec, reply, stdio, self.alive_read)

        return self._new_process(child, reply)

    def _new_process(self, run: Callable[[], None], reply: _socket.socket | None = None) -> int:
        """Fork a child, PID 1 of a new pid namespace, that runs a function and ends."""
        if self.namespaces:
            sc.unshare(sc.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self._child(run, reply)
        if self.namespaces:
            sc.setns(self.own_pid_namespace, sc.CLONE_NEWPID)
        return pid

    def _watch(self, pid: int, reply: _socket.socket, cgroups: list[str]) -> None:
        pidfd = os.pidfd_open(pid)
        self.cgroups.update(map(os.path.dirname, cgroups))
        self.children[pidfd] = Running(pid, reply)
        self.poll.register(pidfd, select.POLLIN)

    def _child(self, run: Callable[[], None], reply: _socket.socket | None) -> None:
        try:
            os.close(self.alive_write)
            for pidfd, other in self.children.items():
                os.close(pidfd)
                other.reply.close()
            run()
        except BaseException as error:  # noqa: BLE001  (nothing may run on in a forked child)
            if reply is not None:
                text = f"{type(error).__name__}: {error}"
                send(reply, ("error", "internal", 0, "", "", text))
        finally:
            os._exit(125)

    def _reap(self, pidfd: int) -> None:
        child = self.children.pop(pidfd)
        self.poll.unregister(pidfd)
        _pid, status, usage = os.wait4(child.pid, 0)
        os.close(pidfd)
        if not self.namespaces:
            self._end_orphans()
        news = child.parked.problem() if status and child.parked else None
        if news is not None:
            tell(child.reply, news)
        tell(child.reply, ("exited", status, usage.ru_maxrss))
        child.reply.close()

    def _end_orphans(self) -> None:
        """Without a pid namespace: whatever a step has left came to us, its only subreaper."""
        known = {child.pid for child in self.children.values()}
        for _round in range(_ORPHAN_ROUNDS):
            orphans = children_of(os.getpid()) - known
            if not orphans:
                return
            for pid in orphans:
                os.kill(pid, _signal.SIGKILL)
            for pid in orphans:
                os.waitpid(pid, 0)

    def _kill_all(self) -> None:
        """The parent is gone: so are all children, and what it would have removed after them."""
        pids = [child.pid for child in self.children.values()]
        pids += [] if self.standby is None else [self.standby[0]]
        pids += [] if self.parked is None else [self.parked.pid]
        for pid in pids:
            os.kill(pid, _signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        # A step may have ended by the parent's death (its output broke) before we heard of that.
        for folder in self.cgroups:
            if os.path.isdir(folder):
                remove_cgroup(folder)


def tell(reply: _socket.socket, message: tuple[Any, ...], fds: tuple[int, ...] = ()) -> None:
    """Send one message to the parent, which may not care any more."""
    try:
        send_rights(reply, marshal.dumps(message), list(fds))
    except OSError:
        pass


def _become_first_of_pid_namespace(control: _socket.socket) -> int:
    """Fork into a pid namespace of the server's own; the outer process only waits.

    When the server ends, for whatever reason, the kernel ends all steps with it. And in a user
    namespace it may return to this pid namespace after each fork, but not to the host's. A handle
    of the outer process is returned.
    """
    outer = os.pidfd_open(os.getpid())
    sc.unshare(sc.CLONE_NEWPID)
    child = os.fork()
    if child:
        control.close()
        status = os.waitpid(child, 0)[1]
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    sc.prctl(sc.PR_SET_PDEATHSIG, _signal.SIGKILL)
    return outer


def main(control_fd: int, *, namespaces: bool, parking: bool, scratch: str) -> None:
    """Serve requests on the inherited socket."""
    restore_signals(range(1, 65))
    for number in IGNORED_SIGNALS:
        _signal.signal(number, _signal.SIG_IGN)
    os.setsid()
    os.umask(0)
    os.chdir("/")
    os.environ.clear()
    control = _socket.socket(fileno=control_fd)
    os.set_inheritable(control_fd, False)
    home = -1
    if namespaces:
        # Once here instead of in each child: whatever a child mounts stays in its own copy.
        try:
            sc.unshare(sc.CLONE_NEWNS)
            sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
            home = _become_first_of_pid_namespace(control)
        except OSError as error:
            call = getattr(error, "syscall", "")
            send(control, ("refused", error.errno, call, error.strerror))
            sys.exit(1)
    else:
        sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
    look_around()
    send(control, ("hello",))
    gc.disable()
    gc.freeze()
    parking = parking and namespaces and can_park()
    Server(control, scratch, home, namespaces=namespaces, parking=parking).serve()
