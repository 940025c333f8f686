"""However a build ends, no process, cgroup, mount or half-made folder of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.runtime.cgroups import find_hierarchies
from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]
STEPS = {
    "waits": "{sleep}",
    "leaves a daemon": "(setsid {sleep} >/dev/null 2>&1 &); {sleep}",
    "ignores signals": "trap '' INT TERM HUP QUIT; while true; do {sleep}; done",
    "floods": "({sleep} &); yes",
    "closes its output": "exec >&- 2>&-; {sleep}",
}
SIGNALS = {
    signal.SIGINT: 130,
    signal.SIGTERM: 130,
    signal.SIGHUP: 130,
    signal.SIGKILL: -signal.SIGKILL,
}
CASES = [
    *((step, signal.SIGTERM) for step in STEPS),
    *((step, signal.SIGKILL) for step in STEPS),
    ("leaves a daemon", signal.SIGINT),
    ("leaves a daemon", signal.SIGHUP),
]


def processes(mark: str) -> list[str]:
    """Commands that run with a mark among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(b" ".join(words).decode())
    return found


def cgroups(pattern: str) -> set[Path]:
    unified, controllers = find_hierarchies(Path("/proc/self/mounts").read_text())
    roots = [*controllers.values(), *([unified] if unified else [])]
    return {path for root in roots for path in root.glob(pattern)}


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("step", "number"), CASES)
def test_nothing_is_left(
    step: str, number: signal.Signals, busybox: Pybuild, context: Callable[..., Path]
) -> None:
    mark = f"1{os.getpid()}{CASES.index((step, number)):02}"
    command = STEPS[step].format(sleep=f"sleep {mark}")
    directory = context(f"FROM busybox\nRUN echo it-$((6*7)); {command}\n")
    parent = f"pybuild-test-{mark}"
    limits = ("--resource=pids=50", f"--cgroup-parent={parent}")
    words = busybox.command("build", "--progress=plain", *limits, directory)
    with subprocess.Popen(
        words, env=busybox.variables(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as build:
        assert build.stderr is not None
        while b"it-42" not in (line := build.stderr.readline()):
            assert line
        wait(lambda: bool(processes(mark)))
        assert os.geteuid() or cgroups(f"{parent}/*/")
        build.send_signal(number)
        while build.stderr.read(1 << 20):
            pass
    assert build.returncode == SIGNALS[number]
    wait(lambda: not processes(mark))
    if os.geteuid() == 0:
        wait(lambda: not cgroups(f"{parent}/*/"))
    for empty in cgroups(parent):  # a parent with a name of the user's stays after a kill
        empty.rmdir()
    busybox("build", "-q", "-", stdin=b"FROM busybox\nRUN echo next\n")
    assert list((busybox.root / "tmp").iterdir()) == []
    assert str(busybox.root) not in Path("/proc/self/mounts").read_text()
    busybox("system", "check")


@pytest.mark.root
def test_a_cgroup_parent_of_the_users_own_stays(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    """With the limits that it may have."""
    _unified, controllers = find_hierarchies(Path("/proc/self/mounts").read_text())
    if "pids" not in controllers:
        pytest.skip("the tests make no cgroup of version 2 of their own")
    parent = controllers["pids"] / f"pybuild-own-{os.getpid()}"
    parent.mkdir()
    try:
        (parent / "pids.max").write_text("77")
        directory = context("FROM busybox\nRUN grep -c pids /proc/self/cgroup\n")
        busybox("build", f"--cgroup-parent={parent.name}", "--resource=pids=50", directory)
        assert (parent / "pids.max").read_text().strip() == "77"
        assert not cgroups(f"{parent.name}/*/")
    finally:
        parent.rmdir()
