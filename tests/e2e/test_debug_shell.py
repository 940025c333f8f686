"""`--on-failure=shell`, typed to through a terminal as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

Context = Callable[..., Path]
STEP = "RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c touch /tmp/left; exit 3"


class Terminal:
    """A process on a terminal of 90 columns; `expect` waits for text, `text` is all that came."""

    def __init__(self, words: list[str], environment: dict[str, str], directory: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, cwd=directory, env=environment
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.text = ""

    def expect(self, wanted: str, seconds: float = 30) -> str:
        """The text until then, which is taken away."""
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, f"no {wanted!r} in {self.text!r}"
            self._read()
        before, _, self.text = self.text.partition(wanted)
        return before

    def stays_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        end = time.monotonic() + seconds
        self.text = ""
        while time.monotonic() < end:
            self._read()
        return self.text == ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Its exit status; after half a minute it is killed."""
        end = time.monotonic() + 30
        while self.process.poll() is None:
            self._read()
            if time.monotonic() > end:
                self.process.kill()
        os.close(self.master)
        return self.process.returncode

    def _read(self) -> None:
        try:
            self.text += os.read(self.master, 1 << 16).decode("utf-8", "replace")
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # nobody has the terminal any more
            time.sleep(0.02)


def test_a_shell_in_the_failed_step(busybox: Pybuild, context: Context) -> None:
    app = context(f"FROM busybox\nENV COLOUR=blue\nWORKDIR /tmp\nUSER 7:8\n{STEP}\n")
    words = busybox.command("build", "--on-failure=shell", "--progress=tty", app)
    variables = busybox.variables({"TERM": "xterm"})
    terminal = Terminal(words, variables, busybox.directory)
    try:
        terminal.expect("leave: exit")
        terminal.expect("/tmp $ ")
        assert terminal.stays_silent(1.0), terminal.text  # the progress is not drawn over it
        terminal.type("echo $(id -u):$(id -g) $COLOUR $(ls) in=$PWD\n")
        terminal.expect("7:8 blue left in=/tmp")
        terminal.type("grep -cE ' /(t|c) ' /proc/mounts | sed s/^/mounts=/\n")
        terminal.expect("mounts=2")
        terminal.type("stty size | sed 's/^/size=/'\n")
        terminal.expect("size=30 90")
        terminal.type("sleep 1000\n")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.type("echo ended=$?\n")
        terminal.expect("ended=130")
        terminal.type("\x04")
        terminal.expect("did not complete successfully: exit code: 3")
    finally:
        terminal.type("\x03")
        status = terminal.end()
    assert status == 1


def test_without_a_terminal_that_is_said(busybox: Pybuild, context: Context) -> None:
    app = context("FROM busybox\nRUN exit 3\n")
    done = busybox("build", "--on-failure=shell", app, status=1, stdin=b"")
    assert "no shell in the failed step: standard input is not a terminal" in done.stderr
