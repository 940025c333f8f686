"""Follows one running step: its output, its news, time-out and cancellation."""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import SandboxError, UnsupportedHost
from buildkit_py.runtime.executor import ExitStatus, OnOutput, RunHooks, StubRecord

if TYPE_CHECKING:
    import threading

_READ_SIZE = 64 << 10
_TICK_MS = 100  # how soon a cancellation is seen
_DRAIN_SECONDS = 2.0


class NeverStarted(SandboxError):
    """The child that took a request was killed before it began: nothing has run.

    `stubs` are the mount points that were made for it.
    """

    stubs = StubRecord()


def watch(
    reply: socket.socket,
    streams: dict[int, int],
    *,
    on_output: OnOutput,
    cancelled: threading.Event,
    timeout: float,
    hooks: RunHooks | None,
) -> ExitStatus:
    """Until the process has ended and its output is read. `streams` maps fds to 1 or 2."""
    watcher = _Watcher(reply, on_output, hooks or RunHooks())
    try:
        if hooks is not None and hooks.waiting is not None:
            hooks.waiting()
        return watcher.loop(streams, cancelled, timeout)
    finally:
        watcher.close()


class _Watcher:
    def __init__(self, reply: socket.socket, on_output: OnOutput, hooks: RunHooks) -> None:
        self.reply = reply
        self.on_output = on_output
        self.hooks = hooks
        self.pidfd = -1
        self.pid = 0
        self.master = -1
        self.kill_wanted = False
        self.status: int | None = None
        self.max_rss = 0
        self.problem: tuple[Any, ...] | None = None
        self.stubs = StubRecord()
        self.warnings: tuple[str, ...] = ()
        self.poll = select.poll()
        self.asked_next = time.monotonic() + _TICK_MS / 1000

    def loop(
        self, streams: dict[int, int], cancelled: threading.Event, timeout: float
    ) -> ExitStatus:
        open_streams = dict(streams)
        for fd in open_streams:
            self.poll.register(fd, select.POLLIN)
        self.poll.register(self.reply.fileno(), select.POLLIN)
        deadline = time.monotonic() + timeout if timeout else None
        was_cancelled = timed_out = exceeded = False
        drained_by = 0.0
        while self.status is None or open_streams:
            for fd, _event in self.poll.poll(_TICK_MS):
                if fd == self.reply.fileno():
                    self._news(open_streams)
                else:
                    self._read(fd, open_streams)
            if self.status is not None:
                # A process that left its pid namespace's tree (chroot mode) may hold the pipe.
                drained_by = drained_by or time.monotonic() + _DRAIN_SECONDS
                if time.monotonic() > drained_by:
                    break
            elif cancelled.is_set():
                was_cancelled = True
                self.kill()
            elif deadline is not None and time.monotonic() > deadline:
                timed_out = True
                self.kill()
            elif self._is_exceeded():
                exceeded = True
                self.kill()
        return self._result(cancelled=was_cancelled, timed_out=timed_out, exceeded=exceeded)

    def _is_exceeded(self) -> bool:
        if self.hooks.exceeded is None or time.monotonic() < self.asked_next:
            return False
        self.asked_next = time.monotonic() + _TICK_MS / 1000
        return self.hooks.exceeded()

    def kill(self) -> None:
        self.kill_wanted = True
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        if self.status is None:
            self.kill()
        if self.hooks.disconnect is not None:
            self.hooks.disconnect()
        for fd in (self.pidfd, self.master):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.master = -1

    # -------------------------------------------------------------- events
    def _read(self, fd: int, open_streams: dict[int, int]) -> None:
        try:
            data = os.read(fd, _READ_SIZE)
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal whose last user is gone
                raise
            data = b""
        if data:
            self.on_output(open_streams[fd], data)
        else:
            self.poll.unregister(fd)
            del open_streams[fd]

    def _news(self, open_streams: dict[int, int]) -> None:
        data, fds, _flags, _address = socket.recv_fds(self.reply, 1 << 16, 4)
        if not data:
            self.poll.unregister(self.reply.fileno())
            if self.status is None:
                if self.pidfd < 0 and self.problem is None:
                    raise NeverStarted("the sandbox program was killed")
                self.status = -signal.SIGKILL
                self.problem = self.problem or ("error", "server", 0, "", "", "")
            return
        message: tuple[Any, ...] = marshal.loads(data)
        match message[0]:
            case "started":
                self._started(fds[0])
            case "ready":
                _kind, made, before, after, warnings = message
                self.stubs = StubRecord(made=tuple(made), before=before, after=after)
                self.warnings = tuple(warnings)
            case "network":
                if self.hooks.connect is not None:
                    self.hooks.connect(self.pid)
                self.reply.send(b"go")
            case "terminal":
                self._terminal(fds[0], open_streams)
            case "error":
                self.problem = message
            case "lost":
                self._lost()
            case "exited":
                _kind, status, self.max_rss = message
                self.status = os.waitstatus_to_exitcode(status)
            case _:
                pass

    def _lost(self) -> None:
        if self.kill_wanted:
            self.status = -signal.SIGKILL
            return
        error = NeverStarted("the sandbox program was killed")
        error.stubs = self.stubs
        raise error

    def _started(self, pidfd: int) -> None:
        self.pid, self.pidfd = _pid_of(pidfd), pidfd
        if self.kill_wanted:
            self.kill()
        elif self.hooks.started is not None:
            self.hooks.started(self.pid, self.send_signal)

    def _terminal(self, master: int, open_streams: dict[int, int]) -> None:
        self.master = master
        self.poll.register(master, select.POLLIN)
        open_streams[master] = 1
        if self.hooks.terminal is not None:
            self.hooks.terminal(os.dup(master))

    # -------------------------------------------------------------- result
    def _result(self, *, cancelled: bool, timed_out: bool, exceeded: bool) -> ExitStatus:
        failure = ""
        status = self.status or 0
        if self.problem is not None and not (cancelled or timed_out or exceeded):
            _kind, stage, number, call, path, text = self.problem
            if stage != "exec":
                raise _setup_error(stage, number, call, path, text)
            failure = text
            status = 127 if number == errno.ENOENT else 126
        return ExitStatus(
            code=status if status >= 0 else 128 - status,
            signal=-status if status < 0 else 0,
            failure=failure,
            timed_out=timed_out,
            cancelled=cancelled,
            exceeded=exceeded,
            max_rss_kib=self.max_rss,
            stubs=self.stubs,
            warnings=self.warnings,
        )


def _pid_of(pidfd: int) -> int:
    """The process id as seen from here: the server lives in a pid namespace of its own."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    found = text.partition(b"\nPid:")[2].split(None, 1)
    return int(found[0]) if found else 0


def _setup_error(stage: str, number: int, call: str, path: str, text: str) -> SandboxError:
    if stage == "server":
        return SandboxError("the sandbox program was killed", hint="is the machine out of memory?")
    if stage in {"user", "cwd", "limits", "internal"} or not call:
        what = f"{text}: {path}" if path else text
        hint = None
        if "only one id is mapped" in text:
            hint = "add this user to /etc/subuid and /etc/subgid; see `pybuild system doctor`"
        return SandboxError(what, syscall=call, path=path, errno=number, hint=hint)
    where = f" {path}" if path else ""
    message = f"cannot make the sandbox ({stage}): {call}{where}: {text.lower()}"
    if number in {errno.EPERM, errno.EACCES}:
        hint = "`pybuild system doctor` says what this host supports"
        return UnsupportedHost(message, syscall=call, path=path, errno=number, hint=hint)
    return SandboxError(message, syscall=call, path=path, errno=number)
