"""Connects this process' terminal to that of a sandbox: raw mode, window size, input."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import termios
import threading
import tty
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

_CHUNK = 4096


class TerminalRelay:
    """While entered, keys go to the sandbox as they are typed. `attach` is a RunHooks.terminal."""

    def __init__(self, stdin: int = 0) -> None:
        self._stdin = stdin
        self._master = -1
        self._saved: list[object] | None = None
        self._previous: object = None
        self._stop_read, self._stop_write = os.pipe()
        self._thread: threading.Thread | None = None

    def attach(self, master: int) -> None:
        """Take the master side of the sandbox's terminal, and begin."""
        self._master = master
        self._resize()
        self._thread = threading.Thread(target=self._pump, name="terminal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        if os.isatty(self._stdin):
            self._saved = termios.tcgetattr(self._stdin)
            tty.setraw(self._stdin)
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGWINCH, self._on_resize)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._stop_write)
        if self._thread is not None:
            self._thread.join()
        os.close(self._stop_read)
        if self._saved is not None:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        if self._previous is not None:
            signal.signal(signal.SIGWINCH, self._previous)  # type: ignore[arg-type]
        if self._master >= 0:
            os.close(self._master)

    def _on_resize(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._resize()

    def _resize(self) -> None:
        if self._master < 0:
            return
        with suppress(OSError):
            size = fcntl.ioctl(self._stdin, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _pump(self) -> None:
        while True:
            ready, _, _ = select.select([self._stdin, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            try:
                data = os.read(self._stdin, _CHUNK)
                if not data:
                    os.write(self._master, b"\x04")  # the end of a pipe is the end of typing
                    return
                while data:
                    data = data[os.write(self._master, data) :]
            except OSError as error:
                if error.errno not in {errno.EIO, errno.EAGAIN}:
                    raise
                return
