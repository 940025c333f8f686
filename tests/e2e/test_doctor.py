"""`system doctor` names the mode that builds take, and what is in the way of a better one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.requires("setpriv", "userns", "overlay")]
KEEP = {
    "none": "-all",
    "chroot": "-all,+sys_chroot,+chown,+fowner,+dac_override,+mknod,+setuid,+setgid,+kill",
    "rootless-single-id": "-all,+setfcap",
    "rootless": "-all,+setfcap,+setuid,+setgid",
}


def run(pybuild: Pybuild, mode: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """As root with the capabilities that lead to a mode."""
    limits = ["setpriv", f"--bounding-set={KEEP[mode]}", "--inh-caps=-all"]
    return subprocess.run(
        [*limits, *pybuild.command(*words)],
        env=pybuild.variables(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("mode", list(KEEP))
def test_roots_capabilities_decide_and_the_build_does_as_told(
    mode: str,
    tmp_path: Path,
    context: Callable[..., Path],
    busybox_program: Path,
) -> None:
    pybuild = Pybuild(root=tmp_path / "state", directory=tmp_path)
    done = run(pybuild, mode, "system", "doctor", "--format=json")
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["mode"] == mode
    assert (done.returncode == 0) is (mode != "none")
    for item in answer["findings"]:
        assert item["present"] or item["remedy"], item
    directory = context("FROM scratch\nCOPY busybox /bin/sh\nRUN echo it-$((6*7))\n")
    (directory / "busybox").write_bytes(busybox_program.read_bytes())
    (directory / "busybox").chmod(0o755)
    built = run(pybuild, mode, "build", "--progress=plain", directory)
    assert (built.returncode == 0) is (mode != "none"), built.stderr
    if mode == "none":
        assert "chroot" in built.stderr
        assert "system doctor" in built.stderr
    else:
        assert "it-42" in built.stderr


@pytest.mark.parametrize("mode", ["rootless", "rootless-single-id"])
def test_a_replaced_directory_hides_the_one_below(
    mode: str, tmp_path: Path, context: Callable[..., Path], busybox_program: Path
) -> None:
    """Root of a user namespace may map all ids to themselves, but has no trusted attributes."""
    pybuild = Pybuild(root=tmp_path / "state", directory=tmp_path)
    directory = context(
        "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n"
        'RUN ["/bin/busybox", "mkdir", "-p", "/d/below"]\n'
        "RUN busybox rm -rf /d && busybox mkdir /d && echo x > /d/above\n"
        "RUN busybox ls /d && busybox rm -r /d\n"
    )
    shutil.copy(busybox_program, directory / "busybox")
    done = run(pybuild, mode, "build", "--progress=plain", directory)
    assert done.returncode == 0, done.stderr
    assert "below" not in done.stderr.partition("RUN busybox ls")[2].partition("DONE")[0]


def test_a_state_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    pybuild = Pybuild(root=closed / "state", directory=tmp_path)
    done = run(pybuild, "rootless", "system", "doctor")
    assert f"{closed} cannot be written" in done.stdout
    assert not (closed / "state").exists()
