"""Steps of an ordinary user: with a range of ids, with one id, and without overlay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox import rootless_main

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("userns", "overlay")]
PROJECT = Path(rootless_main.__file__).resolve().parents[2]
UID = "61500"
SETUP = """\
set -e
printf 'tester:x:{uid}:{uid}::/tmp:/bin/sh\\n' | cat /etc/passwd - >"$1/passwd"
echo tester:200000:65536 >"$1/sub"
touch /etc/subuid /etc/subgid
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/sub" /etc/subuid
mount --bind "$1/sub" /etc/subgid
shift
exec "$@"
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that another user may enter, unlike pytest's own."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="pybuild-rootless-", dir=place))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_as_user(
    base: Path,
    busybox: Path,
    *,
    ranged: bool,
    native: bool = False,
    module: str = "rootless_main",
    helpers_work: bool = True,
) -> dict[str, Any]:
    python, project = sys.executable, PROJECT
    words: list[str] = []
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"]
        words += [] if helpers_work else ["--no-new-privs"]
        again = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
        if subprocess.run(
            [*words, python, "-c", again], capture_output=True, check=False
        ).returncode:
            python = "/usr/bin/python3"  # ours lies where only root may go
        if subprocess.run([*words, "test", "-r", __file__], check=False).returncode:
            project = base / "project"  # so does the project
            for name in ("buildkit_py", "tests"):
                shutil.copytree(PROJECT / name, project / name)
    elif ranged:
        pytest.skip("only root can lend a user a range of ids")
    command = [*words, python, "-m", f"tests.sandbox.{module}", os.fspath(base)]
    command += [os.fspath(busybox), *(["native"] if native else [])]
    if ranged:
        if shutil.which("newuidmap") is None:
            pytest.skip("needs newuidmap (package uidmap)")
        script = SETUP.format(uid=UID)
        command = ["unshare", "-m", "sh", "-c", script, "sh", os.fspath(base), *command]
    environment = {
        "PATH": "/usr/bin:/usr/sbin:/bin",
        "HOME": os.fspath(base),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.fspath(project),
    }
    done = subprocess.run(
        command, env=environment, cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def check_common(answers: dict[str, Any]) -> None:
    assert answers["write"]["error"] is None
    assert answers["write"]["output"].startswith("0\n")
    assert answers["read"]["output"].split() == ["hi", "hosts", "passwd", "resolv.conf"]
    assert answers["layer"] == ["etc", "etc/group", "tmp", "x"]
    assert answers["network"]["output"] == "lo\n"
    assert "can't fork" in answers["bomb"]["output"]
    assert answers["disk"]["error"].endswith("it wrote too much, limit 20m")
    assert answers["caps"]["output"].split() == ["CapEff:", "00000000a80425fb", "Seccomp:", "2"]


def test_a_range_of_ids_serves_like_root(base: Path, busybox_program: Path) -> None:
    answers = run_as_user(base, busybox_program, ranged=True)
    assert answers["ranged"] is True
    check_common(answers)
    assert answers["opaque"] == ["user.overlay.opaque"]
    assert answers["chown"]["output"] == "1000 10\n"
    assert answers["user"]["output"].startswith("uid=1000(bob) gid=1000(bob) groups=")


def test_one_id_builds_but_other_users_are_refused_in_one_line(
    base: Path, busybox_program: Path
) -> None:
    answers = run_as_user(base, busybox_program, ranged=False)
    assert answers["ranged"] is False
    check_common(answers)
    assert answers["user"]["error"] == (
        "cannot become user 1000:1000: only one id is mapped in this user namespace"
    )


def test_helpers_that_may_not_map_leave_one_id(base: Path, busybox_program: Path) -> None:
    """Their set-user-id bit is without effect: newuidmap refuses, and the build goes on."""
    answers = run_as_user(base, busybox_program, ranged=True, helpers_work=False)
    assert answers["ranged"] is False
    check_common(answers)


def test_without_overlay_a_copy_gives_the_same_layer(base: Path, busybox_program: Path) -> None:
    answers = run_as_user(base, busybox_program, ranged=True, native=True)
    check_common(answers)
    assert answers["user"]["output"].startswith("uid=1000(bob) gid=1000(bob) groups=")


@pytest.mark.parametrize("ranged", [True, False])
def test_the_library_builds_for_a_user_from_a_process_with_threads(
    base: Path, busybox_program: Path, ranged: bool
) -> None:
    answers = run_as_user(base, busybox_program, ranged=ranged, module="library_main")
    assert answers["uid"] != 0
    assert answers["listed"] == [answers["image"]]
    assert answers["log"] == "0\n"
    assert (answers["error"], answers["code"], answers["line"]) == ("ExecError", 3, [4])
    assert answers["tail"] == ["last words"]
    assert answers["parse"] == "DockerfileErrors: 2"
    assert answers["tar"] is True
    assert answers["cancelled"] == "BuildCancelled"
