"""`--resource disk=…`: a step that writes more is ended, however it goes about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.errors import ExecError
from buildkit_py.worker import diskguard
from buildkit_py.worker.diskguard import DiskGuard, tree_bytes
from tests.conftest import Pybuild
from tests.sandbox.harness import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]
LIMIT = ("disk=20m",)
WRITERS = {
    "one big file": "dd if=/dev/zero of=/big bs=1M count=3000",
    "a file without a name": "exec 5>/x; rm /x; dd if=/dev/zero bs=1M count=3000 >&5",
    "many small files": "mkdir /d; i=0; while echo $i >/d/$i; do i=$((i+1)); done",
    "in a moment": "dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null",
}


@pytest.mark.parametrize("writer", list(WRITERS))
@pytest.mark.parametrize("native", [False, True])
def test_a_step_that_writes_past_its_limit_is_ended(rig: Rig, writer: str, native: bool) -> None:
    rig.native = native
    done = rig.run(WRITERS[writer], resources=LIMIT)
    assert isinstance(done.error, ExecError)
    assert done.error.message.endswith("it wrote too much, limit 20m")
    assert done.error.hint is not None
    assert "disk=" in done.error.hint


def test_below_the_limit_nothing_happens(rig: Rig) -> None:
    big = rig.run("dd if=/dev/zero of=/big bs=1M count=30 2>/dev/null").ok().snapshot
    script = "dd if=/dev/zero of=/some bs=1M count=10; dd if=/dev/zero of=/some bs=1M count=10"
    rig.run(f"{script}; rm /big; sleep 1.2", parent=big, resources=LIMIT).ok()


def test_what_is_counted_are_files_once_and_not_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert 1 << 20 <= tree_bytes(str(tmp_path)) < 3 << 19
    guard = DiskGuard(tmp_path, 1 << 20)
    guard.begin(tmp_path)
    assert not guard.exceeded_in_all()
    (tmp_path / "c").write_bytes(bytes(3 << 20))
    assert guard.exceeded_in_all()


def test_the_last_of_a_disk_is_not_for_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rig: Rig
) -> None:
    """Without a limit too: a build leaves the host some space."""
    gigabyte = 1 << 30
    free = [100 * gigabyte]
    monkeypatch.setattr(diskguard, "_space", lambda _folder: (free[-1], 100 * gigabyte))
    guard = DiskGuard(tmp_path, None)
    for left, ended in ((50 * gigabyte, False), (300 << 20, False), (200 << 20, True)):
        free.append(left)
        assert guard.exceeded() is ended
    full_already = DiskGuard(tmp_path, None)
    assert not full_already.exceeded()

    def shrinking(_folder: Path) -> tuple[int, int]:
        free.append(free[-1] - gigabyte)
        return max(0, free[-1]), 100 * gigabyte

    free.append(3 * gigabyte)
    monkeypatch.setattr(diskguard, "_space", shrinking)
    done = rig.run("sleep 60")
    assert isinstance(done.error, ExecError)
    assert done.error.message.endswith("it filled the disk of the state root")


def test_a_wrong_limit_is_refused_before_anything_runs(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    directory = context("FROM busybox\nRUN echo ran\n")
    for option in ("--resource=disk=much", "--resource=disc=1g", "--ulimit=files=1"):
        done = busybox("build", "--progress=plain", option, directory, status=2)
        assert "ran" not in done.stderr
        assert "hint:" in done.stderr
