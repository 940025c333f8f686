"""The command that a failure's record holds runs the step again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]
STEPS = {
    "a plain step": ("RUN echo it-$((6*7)); exit 3", "it-42\n"),
    "several lines": ('RUN <<EOF\necho one\necho "it\'s $HOME"\nexit 3\nEOF', "one\nit's /root\n"),
    "a heredoc for a program": ("RUN <<EOF sh\necho two\nexit 3\nEOF", "two\n"),
    "a script of its own": ("RUN <<EOF\n#!/bin/sh\necho '3 $x'\nexit 3\nEOF", "3 $x\n"),
    "the exec form": ('RUN ["sh", "-c", "echo four; exit 3"]', "four\n"),
    "its surroundings": (
        (
            'WORKDIR /a b\nENV Q="it\'s"\nUSER 7:8\n'
            "RUN --network=none --mount=type=tmpfs,target=/t,size=1m "
            "echo true > /t/x; chmod +x /t/x; /t/x || exit 1; "
            'echo "$Q $PWD $(id -u) $(ls /sys/class/net)"; grep -c " /t " /proc/mounts; exit 3'
        ),
        "it's /a b 7 lo\n1\n",
    ),
}


def failure(pybuild: Pybuild, directory: Path) -> str:
    """The command in the record of a build that fails."""
    pybuild("build", directory, status=1)
    command = pybuild("builds", "inspect", "--format", "{{.Replay}}").stdout.strip()
    assert f"Replay:         {command}" in pybuild("builds", "inspect").stdout
    return command


@pytest.mark.parametrize("name", list(STEPS))
def test_it_does_the_same_again(name: str, busybox: Pybuild, context: Callable[..., Path]) -> None:
    step, output = STEPS[name]
    command = failure(busybox, context(f"FROM busybox\n{step}\n"))
    assert command.startswith("pybuild run ")
    own = shlex.join([sys.executable, "-m", "buildkit_py"])
    words = command.replace("pybuild", own, 1).replace(" -it ", " ")
    done = subprocess.run(
        ["sh", "-c", words], env=busybox.variables(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, output), done.stderr


def test_what_it_lacks_is_named(busybox: Pybuild, context: Callable[..., Path]) -> None:
    step = "RUN --mount=type=cache,target=/c --mount=type=bind,target=/b exit 3"
    command = failure(busybox, context(f"FROM busybox\n{step}\n"))
    assert command.endswith("# without its mounts: bind, cache")
