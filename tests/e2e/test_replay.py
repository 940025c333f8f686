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


def replayed(pybuild: Pybuild, command: str, **environment: str) -> tuple[int, str]:
    own = shlex.join([sys.executable, "-m", "buildkit_py"])
    done = subprocess.run(
        ["sh", "-c", command.replace("pybuild", own, 1).replace(" -it ", " ")],
        env={**pybuild.variables(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_its_mounts_are_there_again(busybox: Pybuild, context: Callable[..., Path]) -> None:
    text = """\
FROM busybox AS other
RUN mkdir -p /o/p && echo other > /o/p/f
FROM busybox
RUN --mount=type=cache,id=c,target=/c echo kept >> /c/f
RUN --mount=type=cache,id=c,target=/c --mount=target=/b --mount=target=/w,rw \\
    --mount=from=other,source=/o/p,target=/s --mount=from=other,source=/o/p/f,target=/t,rw \\
    --mount=source=Dockerfile,target=/d,rw \\
    cat /c/f /s/f /t; head -n 1 /b/Dockerfile; echo x > /t; echo x > /w/new; echo x > /d; \\
    echo x > /b/y; echo x > /s/y; exit 3
"""
    folder = context(text)
    command = failure(busybox, folder)
    assert "# without" not in command
    for _ in range(2):
        status, output = replayed(busybox, command)
        assert (status, output.splitlines()[:4]) == (
            3,
            ["kept", "other", "other", "FROM busybox AS other"],
        )
        assert output.count("Read-only file system") == 2
    assert [path.name for path in folder.iterdir()] == ["Dockerfile"]
    assert (folder / "Dockerfile").read_text() == text


def test_secrets_come_from_where_they_came_from(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "a, b").write_text("from-a-file\n")
    step = "RUN --mount=type=secret,id=f,env=F,target=/f --mount=type=secret,id=e,env=E \\\n"
    folder = context(
        f'FROM busybox\n{step} --mount=type=secret,id=no cat /f; echo "$F-$E"; exit 3\n'
    )
    busybox.environment["TOKEN"] = "from-variable"
    secrets = ("--secret", f'"id=f","src={tmp_path}/a, b"', "--secret", "id=e,env=TOKEN")
    busybox("build", *secrets, folder, status=1)
    command = busybox("builds", "inspect", "--format", "{{.Replay}}").stdout.strip()
    assert "from-" not in command
    status, output = replayed(busybox, command, TOKEN="from-variable")
    assert (status, output) == (3, "from-a-file\nfrom-a-file-from-variable\n")


def test_what_it_lacks_is_named(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM busybox\nRUN --mount=target=/b exit 3\n")
    (folder / ".dockerignore").write_text("x\n")
    assert failure(busybox, folder).endswith("# without its mounts: bind")


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("type=bnd,target=/x", "(did you mean bind?)"),
        ("type=bind,src=/,target=x", 'invalid mount target "x"'),
        ("src=/nowhere,target=/x", "bind source path does not exist: /nowhere"),
        ("src=/,target=/x,readnly", "(did you mean readonly?)"),
        ("type=image,src=snapshot:99,target=/x", "its files are no longer in the store"),
        ("type=image,src=nothing,target=/x", "no such image: nothing"),
        ("target=/x", "it needs source="),
    ],
)
def test_a_wrong_mount_of_run_is_named(busybox: Pybuild, mount: str, message: str) -> None:
    done = busybox("run", "--rm", "--mount", mount, "busybox", "true", status=125)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
