"""The child that stands by: steps that it cannot serve, its death, many steps at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.runtime.leftovers import children_of
from buildkit_py.runtime.namespaces import NamespaceExecutor
from tests.sandbox.harness import Outcome, Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


@pytest.fixture(params=["sharing memory", "forked"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the child that stands by is made. Where none can share memory both are forks."""
    kind = str(request.param)
    monkeypatch.setattr(NamespaceExecutor, "_parking", kind != "forked")
    return kind


@pytest.fixture
def server(rig: Rig) -> Iterator[int]:
    """The process id of the fork server, PID 1 of its own namespace."""
    rig.run("true").ok()
    assert isinstance(rig.executor, NamespaceExecutor)
    assert rig.executor._process is not None
    (pid,) = children_of(rig.executor._process.pid)
    yield pid
    rig.executor.close()
    wait(lambda: not Path(f"/proc/{pid}").exists())


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def standby(server: int) -> int:
    wait(lambda: len(children_of(server)) == 1)
    (pid,) = children_of(server)
    return pid


def test_a_step_is_run_by_the_child_that_stood_by(rig: Rig, server: int) -> None:
    pid = standby(server)
    threading.Thread(target=rig.run, args=("sleep 30",), daemon=True).start()
    command = Path(f"/proc/{pid}/cmdline")
    wait(lambda: command.read_bytes().startswith((b"/bin/sh\0-c\0sleep", b"sleep")))


def test_its_death_costs_nothing_but_a_moment(rig: Rig, server: int) -> None:
    for _round in range(8):
        os.kill(standby(server), signal.SIGKILL)
        assert rig.run("echo on").ok().output == "on\n"


def test_its_death_after_it_was_told_what_to_run_costs_no_more(
    rig: Rig, server: int, way: str
) -> None:
    """All is mounted and nothing has run: the step begins anew, as if for the first time."""
    pid = standby(server)
    os.kill(pid, signal.SIGSTOP)
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.append(rig.run("echo on; ls /etc")))
    thread.start()
    if way != "forked":  # a fork is told nothing, it reads the request itself
        wait(lambda: len(children_of(server)) == 2)  # the next one stands by
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert done[0].ok().output.splitlines()[0] == "on"
    assert list(rig.directory(done[0].snapshot).iterdir()) == []
    assert len(done[0].output.splitlines()) == 1 + len({"passwd", "group", "resolv.conf", "hosts"})


def test_steps_that_it_cannot_serve_come_between_others(rig: Rig, server: int) -> None:
    del server
    rig.settings["entitlements"] = None
    masked = "mount | grep -c ' on /proc/keys '; true"
    for _round in range(3):
        assert rig.run(masked).ok().output == "1\n"
        assert rig.run(masked, security="insecure").ok().output == "0\n"
        assert rig.run("ls /sys/class/net", network="none").ok().output == "lo\n"
        assert "lo" in rig.run("ls /sys/class/net").ok().output.split()


def test_a_network_of_its_own_has_the_masks_of_sys_too(rig: Rig) -> None:
    script = "mount | grep -E ' on /(proc|sys)[/ ]' | sort"
    rig.run("true").ok()
    host = rig.run(script).ok().output
    assert rig.run(script, network="none").ok().output == host


def test_many_steps_at_once_leave_no_descriptor_behind(rig: Rig, server: int) -> None:
    standby(server)
    folder = Path(f"/proc/{server}/fd")
    before = len(list(folder.iterdir()))
    failed: list[object] = []

    def steps() -> None:
        for number in range(8):
            done = rig.run(
                f"echo {number}; exit {number % 2}", network=("host", "none")[number % 2]
            )
            if done.output != f"{number}\n" or (done.error is None) is not (number % 2 == 0):
                failed.append(done)

    threads = [threading.Thread(target=steps) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    wait(lambda: len(list(folder.iterdir())) == before)


def test_what_stands_by_holds_no_pipe_of_a_step(rig: Rig, server: int) -> None:
    """Else the output of a step would not end while another child waits."""
    threads = [threading.Thread(target=rig.run, args=("sleep 3",), daemon=True) for _ in range(2)]

    def waiting() -> list[int]:
        """The children that run no step; one that has not executed its program counts, too."""
        pids = children_of(server)
        return [pid for pid in pids if b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()]

    for thread in threads:
        thread.start()
    wait(lambda: len(children_of(server)) == 3 and len(waiting()) == 1)
    links = [os.readlink(item) for pid in waiting() for item in Path(f"/proc/{pid}/fd").iterdir()]
    for thread in threads:
        thread.join()
    pipes = [link for link in links if link.startswith("pipe:")]
    assert len(pipes) <= 2, links  # the end of one that tells whether the server lives
