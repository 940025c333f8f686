"""Groups of cgroup version 2 in one that was lent: on the kernel's own files."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.runtime.cgroups import find_hierarchies
from buildkit_py.runtime.delegation import enable, lent_root, own_group

pytestmark = pytest.mark.sandbox


def test_ones_own_group_is_the_one_above_the_leaf_that_we_moved_to() -> None:
    top = Path("/sys/fs/cgroup")
    assert own_group(top, "3:pids:/x\n0::/user.slice/a.scope\n") == top / "user.slice/a.scope"
    assert own_group(top, "0::/a.scope/pybuild.self\n") == top / "a.scope"
    assert own_group(top, "0::/\n") == top
    assert own_group(top, "0::/../other\n") is None
    assert own_group(top, "1:name=systemd:/x\n") is None


def test_a_top_that_may_be_written_is_taken_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    own = tmp_path / "lent"
    own.mkdir()
    assert lent_root(tmp_path, "0::/lent\n") == tmp_path
    (tmp_path / "cgroup.procs").unlink()
    assert lent_root(tmp_path, "0::/lent\n") is None  # no group of the kernel
    (own / "cgroup.procs").touch()
    assert lent_root(tmp_path, "0::/lent\n") == own


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A group of this host, and a controller that it may give on."""
    unified, _ = find_hierarchies(Path("/proc/self/mounts").read_text())
    if unified is None or not os.access(unified / "cgroup.procs", os.W_OK):
        pytest.skip("no cgroup version 2 to write to")
    folder = unified / f"pybuild-test-{os.getpid()}"
    folder.mkdir()
    try:
        for controller in (unified / "cgroup.controllers").read_text().split():
            enable(unified, controller)
        found = (folder / "cgroup.controllers").read_text().split()
        usable = [name for name in found if name not in {"cpu", "cpuset"}]  # those allow threads
        if not usable:
            pytest.skip("no controller of version 2 is free")
        yield folder, usable[0]
    finally:
        for place in (*folder.glob("*/"), folder):
            place.rmdir()


def test_a_group_with_processes_gives_its_controllers_on(group: tuple[Path, str]) -> None:
    folder, controller = group
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            (folder / "cgroup.procs").write_text(str(child.pid))
            with pytest.raises(OSError, match="busy"):
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            enable(folder, controller)
            assert (folder / "cgroup.subtree_control").read_text().split() == [controller]
            moved = (folder / "pybuild.self/cgroup.procs").read_text().split()
            assert moved == [str(child.pid)]
        finally:
            child.kill()
