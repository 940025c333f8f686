"""Builds of an ordinary user's process: carried out by a child in a user namespace.

A process with threads cannot enter a user namespace, and a library must not change its host
process anyway. So a build of a process that is not root runs in a child of the same interpreter,
which enters the namespace first. Request, events, result or error are pickled, each message with
its length before it, over a socket pair that nobody else has an end of. When the host process
dies, the socket ends and the child cancels its build.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from buildkit_py.engine.request import BuildRequest, BuildResult
from buildkit_py.errors import BuildCancelled, PybuildError, SandboxError, UnsupportedHost

if TYPE_CHECKING:
    from buildkit_py.progress.events import EventSink

_LENGTH = struct.Struct("=Q")
_TICK = 0.1
_CANCEL = b"c"
_CHUNK = 1 << 16
_CODE = "import sys; sys.path.insert(0, {path!r}); from {module} import main; main({fd})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteBuild:
    """What the child needs to carry out a build."""

    request: BuildRequest
    root: str
    executor: str
    environment: Mapping[str, str]


# ------------------------------------------------------------------ the host's side
def build_in_child(
    build: RemoteBuild,
    *,
    on_event: EventSink | None = None,
    cancelled: threading.Event | None = None,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> BuildResult:
    """Carry out a build in a child process. Raises PybuildError as the build does."""
    if not sys.executable:
        raise UnsupportedHost("no Python interpreter to run the build with", hint="run as root")
    ours, theirs = socket.socketpair()
    with ExitStack() as stack:
        stack.enter_context(ours)
        with theirs:
            child = _start(theirs.fileno(), stdin, stdout)
        stack.callback(_end, child, ours)
        if child.stdin is not None:
            assert stdin is not None
            _pump(stdin, child.stdin, close=True)
        if child.stdout is not None:
            assert stdout is not None
            stack.callback(_pump(child.stdout, stdout).join)
        with suppress(BrokenPipeError):  # then the child says why, or is gone
            _send(ours, build)
        return _follow(ours, on_event, cancelled)


def _start(fd: int, stdin: BinaryIO | None, stdout: BinaryIO | None) -> subprocess.Popen[bytes]:
    code = _CODE.format(path=_package_folder(), module=__name__, fd=fd)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=None if stdin is None else _descriptor(stdin),
        stdout=None if stdout is None else _descriptor(stdout),
        pass_fds=[fd],
    )


def _package_folder() -> str:
    return os.fspath(Path(__file__).resolve().parents[2])


def _descriptor(stream: BinaryIO) -> int:
    try:
        return stream.fileno()
    except (OSError, AttributeError):
        return subprocess.PIPE


def _pump(source: Any, sink: Any, *, close: bool = False) -> threading.Thread:
    def copy() -> None:
        with suppress(OSError, ValueError):
            while data := source.read(_CHUNK):
                sink.write(data)
        with suppress(OSError, ValueError):
            sink.close() if close else sink.flush()

    thread = threading.Thread(target=copy, name="pybuild-stream", daemon=True)
    thread.start()
    return thread


def _follow(
    ours: socket.socket, on_event: EventSink | None, cancelled: threading.Event | None
) -> BuildResult:
    told = False
    while True:
        if cancelled is not None and cancelled.is_set() and not told:
            told = True
            with suppress(OSError):
                ours.send(_CANCEL)
        if not select.select([ours], [], [], _TICK)[0]:
            continue
        message = _receive(ours)
        if message is None:
            raise SandboxError("the process that carries out the build is gone")
        kind, value = message
        if kind == "event":
            if on_event is not None:
                on_event(value)
        elif kind == "error":
            raise _restored(value)
        else:
            assert isinstance(value, BuildResult)
            return value


def _end(child: subprocess.Popen[bytes], ours: socket.socket) -> None:
    """The end of the socket cancels a build that still runs."""
    ours.close()
    child.wait()


# ------------------------------------------------------------------ messages
def _send(channel: socket.socket, message: Any) -> None:
    data = pickle.dumps(message, protocol=5)
    channel.sendall(_LENGTH.pack(len(data)) + data)


def _receive(channel: socket.socket) -> Any:
    """One message, None at the end of the stream."""
    head = _exactly(channel, _LENGTH.size)
    data = None if head is None else _exactly(channel, _LENGTH.unpack(head)[0])
    # Both ends are ours: nobody else could have written this.
    return None if data is None else pickle.loads(data)  # noqa: S301


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _portable(error: BaseException) -> tuple[type[BaseException], tuple[Any, ...], Any]:
    """An error as (class, arguments, attributes): ours have parameters that pickle forgets."""
    if isinstance(error, PybuildError | OSError):
        return type(error), error.args, error.__dict__
    if isinstance(error, KeyboardInterrupt):
        return BuildCancelled, ("canceled",), {"message": "canceled", "hint": None, "vertex": ""}
    text = f"{type(error).__name__}: {error}"
    return PybuildError, (text,), {"message": text, "hint": None}


def _restored(parts: tuple[type[BaseException], tuple[Any, ...], Any]) -> BaseException:
    kind, arguments, attributes = parts
    if issubclass(kind, OSError):
        return kind(*arguments)
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


# ------------------------------------------------------------------ the child's side
def main(fd: int) -> None:
    """Enter a user namespace, carry out the one build that is sent, tell how it went."""
    from buildkit_py.runtime import idmap  # noqa: PLC0415

    channel = socket.socket(fileno=fd)
    channel.set_inheritable(False)
    build = _receive(channel)
    if build is None:
        return
    with suppress(UnsupportedHost):  # COPY, ADD and metadata need none; RUN says what is missing
        idmap.enter_user_namespace()
    cancelled = threading.Event()
    sending = threading.Lock()
    threading.Thread(target=_await_cancel, args=(channel, cancelled), daemon=True).start()

    def tell(kind: str, value: Any) -> None:
        with sending, suppress(OSError):
            _send(channel, (kind, value))

    try:
        tell("result", _build(build, lambda event: tell("event", event), cancelled))
    except BaseException as error:  # noqa: BLE001  (told to the host process, which raises it)
        tell("error", _portable(error))
    sys.stdout.flush()


def _await_cancel(channel: socket.socket, cancelled: threading.Event) -> None:
    with suppress(OSError):
        channel.recv(1)
    cancelled.set()


def _build(build: RemoteBuild, on_event: EventSink, cancelled: threading.Event) -> BuildResult:
    from buildkit_py.engine import Engine  # noqa: PLC0415  (it imports this module)

    with Engine(
        build.root, executor=build.executor, environment=build.environment, in_process=True
    ) as engine:
        return engine.build(
            build.request,
            on_event=on_event,
            cancelled=cancelled,
            stdin=sys.stdin.buffer,
            stdout=sys.stdout.buffer,
        )
