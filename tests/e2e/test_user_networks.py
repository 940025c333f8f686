"""`--network=bridge` without the right to make a bridge: a user-mode stack for each step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.requires("setpriv", "userns", "overlay")]
# Root of a user namespace, who owns /dev/net/tun, but may make no bridge on the host.
ROOTLESS = ["setpriv", "--bounding-set=-all,+setfcap,+setuid,+setgid", "--inh-caps=-all"]
NEEDED = ("newuidmap", "newgidmap", "sh", "ssh-agent", "git")
PROGRAMS = [
    pytest.param("pasta", marks=pytest.mark.requires("pasta")),
    pytest.param("slirp4netns", marks=pytest.mark.requires("slirp4netns")),
]


@pytest.fixture
def only(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """An environment in which there is but one of the programs."""

    def make(program: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in (program, *NEEDED):
            found = shutil.which(name)
            if found:
                (folder / name).symlink_to(found)
        return {"PATH": os.fspath(folder)}

    return make


def start(pybuild: Pybuild, environment: dict[str, str], directory: Path) -> subprocess.Popen[str]:
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    return subprocess.Popen(
        [setpriv, *ROOTLESS[1:], *pybuild.command("build", "--network=bridge"), directory],
        env=pybuild.variables(environment),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def programs(name: str) -> set[str]:
    """Process ids of a program's processes that are alive."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"/" + name.encode()) for word in words[:5]):
            found.add(folder.name)
    return found


def copy_of(busybox: Pybuild, tmp_path: Path) -> Pybuild:
    """The image in a root that the namespace's root may use."""
    busybox("save", "-o", tmp_path / "busybox.tar", "busybox")
    pybuild = Pybuild(root=tmp_path / "rootless", directory=tmp_path)
    subprocess.run(
        [*ROOTLESS, *pybuild.command("load", "-i", tmp_path / "busybox.tar")],
        env=pybuild.variables(),
        check=True,
        capture_output=True,
    )
    return pybuild


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_step_has_an_address_and_nothing_stays(
    program: str,
    only: Callable[[str], dict[str, str]],
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
) -> None:
    before = programs(program)
    directory = context(
        "FROM busybox AS a\nRUN ip route; touch /a\n"
        "FROM busybox AS b\nRUN ip route; touch /b\n"
        "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN ip addr | grep UP,\n"
    )
    with start(copy_of(busybox, tmp_path), only(program), directory) as build:
        assert build.stderr is not None
        log = build.stderr.read()
    assert build.returncode == 0, log
    assert log.count("default via") == 2
    assert ("tap0" if program == "slirp4netns" else "eth0") in log or program == "pasta"
    assert programs(program) <= before


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_killed_build_takes_its_stack_along(
    program: str,
    only: Callable[[str], dict[str, str]],
    busybox: Pybuild,
    context: Callable[..., Path],
    tmp_path: Path,
) -> None:
    before = programs(program)
    directory = context("FROM busybox\nRUN echo it-$((6*7)); sleep 300\n")
    with start(copy_of(busybox, tmp_path), only(program), directory) as build:
        assert build.stderr is not None
        while "it-42" not in (line := build.stderr.readline()):
            assert line
        assert programs(program) - before
        build.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while programs(program) - before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
