"""Steps in a chroot: what is left for root in a container that may not make namespaces."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.graph import BindMount, CacheMount, SecretMount, TmpfsMount
from buildkit_py.runtime.chroot import ChrootExecutor
from buildkit_py.solver.ports import Result
from buildkit_py.worker.secrets import BuildSecrets, Secret
from tests.sandbox.harness import Rig
from tests.sandbox.test_escapes import can_limit

pytestmark = [pytest.mark.root]


@pytest.fixture
def chroot(rig: Rig) -> Iterator[Rig]:
    namespaces = rig.executor
    with ChrootExecutor(scratch=rig.store.paths.tmp) as executor:
        rig.executor = executor
        yield rig
    rig.executor = namespaces


def names(rig: Rig, snapshot: int | None) -> set[str]:
    top = rig.directory(snapshot)
    return {os.fspath(path.relative_to(top)) for path in top.rglob("*")}


def test_a_step_writes_a_layer_of_its_changes_alone(chroot: Rig) -> None:
    done = chroot.run("echo hi >/x; rm /etc/group; mkdir /d; id -u; pwd", cwd="/tmp").ok()
    assert done.output == "0\n/tmp\n"
    assert names(chroot, done.snapshot) == {"x", "d", "etc", "etc/group"}
    assert (chroot.directory(done.snapshot) / "etc/group").is_char_device()


def test_a_step_has_devices_hosts_and_name_servers_that_do_not_stay(chroot: Rig) -> None:
    done = chroot.run("echo gone >/dev/null; cat /etc/hosts; ls /dev; test -f /etc/resolv.conf")
    assert "localhost" in done.ok().output
    assert {"null", "zero", "urandom"} <= set(done.output.split())
    assert not names(chroot, done.snapshot)


def test_files_of_the_image_that_are_covered_come_back_unchanged(chroot: Rig) -> None:
    def fill(root: Path) -> None:
        (root / "etc").mkdir()
        (root / "etc/hosts").write_text("the image's own\n")

    image = chroot.commit(fill, parent=chroot.image)
    done = chroot.run("cat /etc/hosts", parent=image).ok()
    assert "localhost" in done.output
    assert not names(chroot, done.snapshot)
    again = chroot.run("echo mine >>/etc/motd", parent=image).ok()
    assert names(chroot, again.snapshot) == {"etc", "etc/motd"}


def test_a_failed_step_says_how_it_ended(chroot: Rig) -> None:
    error = chroot.run("echo before; exit 7").error
    assert error is not None
    assert error.message.endswith("exit code: 7")


def test_an_ordinary_user_runs_without_capabilities(chroot: Rig) -> None:
    out = chroot.run("id; touch /tmp/mine; touch /etc/not || echo refused", user="bob").ok().output
    assert out.startswith("uid=1000(bob) gid=1000(bob)")
    assert "refused" in out


def test_mounts_are_copied_in_and_taken_out(chroot: Rig, tmp_path: Path) -> None:
    chroot.secrets = BuildSecrets(secrets={"token": Secret(id="token", value=b"secret words")})
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("bound\n")
    given = chroot.context("ctx", source)
    mounts = (
        BindMount(target="/bound", input=1),
        CacheMount(target="/cache", id="c"),
        SecretMount(id="token", target="/run/secrets/token"),
        TmpfsMount(target="/scratch"),
    )
    command = "cat /bound/file /run/secrets/token; echo kept >>/cache/k; echo t >/scratch/t"
    first = chroot.run(command, given, mounts=mounts).ok()
    assert first.output == "bound\n****"
    assert not names(chroot, first.snapshot)
    second = chroot.run("cat /cache/k", mounts=(CacheMount(target="/cache", id="c"),)).ok()
    assert second.output == "kept\n"


def test_a_bind_of_a_stage_is_refused_with_a_way_out(chroot: Rig) -> None:
    mounts = (BindMount(target="/other", input=1),)
    error = chroot.run("true", Result(snapshot=chroot.image), mounts=mounts).error
    assert error is not None
    assert "binds of stages and images need namespaces" in error.message
    assert error.hint is not None
    assert "COPY --from" in error.hint


def test_a_network_of_its_own_is_refused(chroot: Rig) -> None:
    error = chroot.run("true", network="none").error
    assert error is not None
    assert "needs namespaces" in error.message


def test_links_in_the_root_do_not_lead_copies_out(chroot: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def fill(root: Path) -> None:
        (root / "etc").mkdir()
        (root / "etc/hosts").symlink_to(outside / "hosts")
        (root / "run").symlink_to(outside)

    image = chroot.commit(fill, parent=chroot.image)
    chroot.secrets = BuildSecrets(secrets={"token": Secret(id="token", value=b"x")})
    mounts = (SecretMount(id="token", target="/run/secrets/token"),)
    chroot.run("true", parent=image, mounts=mounts)
    assert list(outside.iterdir()) == []


def test_links_that_a_step_makes_do_not_lead_the_cleaning_out(chroot: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "cache").mkdir(parents=True)
    (outside / "cache/precious").write_text("host")
    mounts = (CacheMount(target="/var/cache", id="c"), TmpfsMount(target="/run/cache"))
    command = f"for d in /var /run; do mv $d /old$d; ln -s {outside} $d; done 2>/dev/null; true"
    chroot.run("mkdir -p /old; " + command, mounts=mounts)
    assert (outside / "cache/precious").read_text() == "host"
    out = chroot.run("ls /var/cache", mounts=(CacheMount(target="/var/cache", id="c"),)).output
    assert "precious" not in out


def test_what_a_step_leaves_running_ends_with_it(chroot: Rig) -> None:
    mark = "31536777"
    command = f"(setsid sleep {mark} &); setsid sleep {mark} & sleep 0; echo done"
    assert chroot.run(command).ok().output == "done\n"
    assert not processes_with(mark)


def test_limits_hold_here_too(chroot: Rig) -> None:
    if not can_limit(chroot, "pids=30"):
        pytest.skip("no cgroup for pids here")
    script = "n=0; while [ $n -lt 60 ]; do sleep 1000 & n=$((n+1)); done 2>&1; exit 0"
    assert "can't fork" in chroot.run(script, resources=("pids=30",)).output


def test_a_cancelled_step_leaves_nothing(chroot: Rig) -> None:
    mark = "31536888"
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    chroot.run(f"(setsid sleep {mark} &); sleep {mark}", cancelled=cancelled)
    assert not processes_with(mark)


def processes_with(mark: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in words:
            found.append(os.fspath(path))
    return found
