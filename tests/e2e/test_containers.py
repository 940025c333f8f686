"""`pybuild run`, `ps`, `rm` and `commit`."""

from __future__ import annotations

import json
import tarfile

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


def test_a_container_is_kept_listed_committed_and_removed(busybox: Pybuild) -> None:
    command = "echo made >/made; rm -r /home; exit 3"
    busybox("run", "--name", "work", "-e", "COLOUR=red", "busybox", "sh", "-c", command, status=3)
    assert busybox("ps", "-q").stdout == ""
    listed = json.loads(busybox("ps", "-a", "--format", "json").stdout)
    assert (listed["Names"], listed["Image"], listed["State"]) == ("work", "busybox", "exited")
    assert listed["Status"].startswith("Exited (3) ")
    made = busybox(
        "commit", "-a", "Somebody", "-m", "by hand", "-c", 'CMD ["cat", "/made"]', "work", "new:1"
    ).stdout.strip()
    assert busybox("run", "--rm", "new:1").stdout == "made\n"
    busybox("run", "--rm", "new:1", "ls", "/home", status=1)
    [shown] = json.loads(busybox("inspect", "new:1").stdout)
    assert shown["Id"] == made
    assert (shown["Author"], shown["Comment"]) == ("Somebody", "by hand")
    assert "COLOUR=red" in shown["Config"]["Env"]
    history = busybox("history", "--format", "{{.CreatedBy}}|{{.Comment}}", "--no-trunc", "new:1")
    assert history.stdout.splitlines()[0] == f"sh -c {command}|by hand"
    busybox("rm", "work")
    assert busybox("ps", "-aq").stdout == ""
    assert busybox("run", "--rm", "new:1").stdout == "made\n"


def test_a_layer_of_a_commit_has_the_changes_alone(busybox: Pybuild) -> None:
    busybox("run", "--name", "work", "busybox", "touch", "/only")
    busybox("commit", "work", "new")
    names = busybox("diff", "busybox", "new", status=1).stdout
    assert "only" in names
    assert "hosts" not in names
    assert "resolv.conf" not in names


def test_rm_keeps_nothing(busybox: Pybuild) -> None:
    busybox("run", "--rm", "busybox", "true")
    assert busybox("ps", "-aq").stdout == ""


def test_a_name_that_is_taken_is_refused(busybox: Pybuild) -> None:
    busybox("run", "--name", "work", "busybox", "true")
    error = busybox("run", "--name", "work", "busybox", "true", status=125).stderr
    assert 'the container name "work" is already in use' in error


def test_a_container_that_cannot_start_is_not_kept(busybox: Pybuild) -> None:
    busybox("run", "-w", "/dev/null/no", "busybox", "true", status=125)
    assert busybox("ps", "-aq").stdout == ""


def test_a_missing_image_is_looked_for_and_the_failure_said(busybox: Pybuild) -> None:
    error = busybox("run", "--rm", "127.0.0.1:1/none", "true", status=125).stderr
    assert "Unable to find image '127.0.0.1:1/none:latest' locally" in error
    error = busybox("run", "--rm", "--pull=never", "127.0.0.1:1/none", "true", status=125).stderr
    assert "no such image: 127.0.0.1:1/none" in error


def test_containers_of_an_image_keep_their_files_when_the_image_goes(busybox: Pybuild) -> None:
    busybox("run", "--name", "work", "busybox", "sh", "-c", "echo still >/here")
    busybox("rmi", "-f", "busybox")
    busybox("prune", "-f", "-a")
    busybox("commit", "-c", 'CMD ["cat", "/here"]', "work", "rescued")
    assert busybox("run", "--rm", "rescued").stdout == "still\n"


@pytest.mark.root
def test_run_works_in_a_chroot(busybox: Pybuild) -> None:
    done = busybox("run", "--name", "work", "--executor", "chroot", "busybox", "sh", "-c", "id -u")
    assert done.stdout == "0\n"
    busybox("commit", "work", "same")
    assert "hosts" not in busybox("diff", "busybox", "same", status=1).stdout


@pytest.mark.root
@pytest.mark.requires("iptables")
def test_run_has_a_bridge(busybox: Pybuild) -> None:
    out = busybox("run", "--rm", "--network=bridge", "busybox", "cat", "/proc/net/route").stdout
    assert "eth0" in out


def test_other_platforms_are_asked_for_by_name(busybox: Pybuild) -> None:
    error = busybox(
        "run", "--rm", "--pull=never", "--platform=linux/s390x", "busybox", "true", status=125
    ).stderr
    assert "no such image: busybox" in error


def test_export_writes_the_files_of_a_container(busybox: Pybuild) -> None:
    busybox("run", "--name", "work", "busybox", "sh", "-c", "echo made >/made; rm -r /home")
    busybox("export", "-o", "files.tar", "work")
    with tarfile.open(busybox.directory / "files.tar") as tar:
        names = {name.rstrip("/") for name in tar.getnames()}
    assert "made" in names
    assert "bin/busybox" in names
    assert "home" not in names
    assert "no such image" in busybox("export", "absent", status=1).stderr
