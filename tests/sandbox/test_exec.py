"""Steps as a Dockerfile's RUN makes them: files, users, environment, failure."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import threading

import pytest

from buildkit_py.errors import BuildCancelled, ExecError, SolveError
from buildkit_py.layers.diff import write_layer
from buildkit_py.runtime import syscalls as sc
from buildkit_py.store.snapshot import EMPTY_LAYER
from tests.sandbox.harness import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


def names(rig: Rig, snapshot: int | None) -> list[str]:
    top = rig.directory(snapshot)
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_a_step_without_changes_leaves_an_empty_layer(rig: Rig) -> None:
    assert names(rig, rig.run("true").ok().snapshot) == []


def test_a_layer_holds_what_the_step_wrote_and_whiteouts_for_what_it_removed(rig: Rig) -> None:
    top = rig.run("echo hi >/x; rm /etc/group").ok().snapshot
    assert names(rig, top) == ["etc", "etc/group", "x"]
    whiteout = os.lstat(rig.directory(top) / "etc/group")
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0


def test_the_next_step_sees_the_files_of_the_one_before(rig: Rig) -> None:
    first = rig.run("echo one >/x; rm /etc/group").ok().snapshot
    second = rig.run("cat /x; ls /etc", parent=first).ok()
    assert second.output.split() == ["one", "hosts", "passwd", "resolv.conf"]


def test_a_step_on_scratch_can_run_a_mounted_program(rig: Rig) -> None:
    from buildkit_py.graph import BindMount
    from buildkit_py.solver.ports import Result

    tools = BindMount(target="/tools", input=1)
    done = rig.run(
        ("/tools/bin/busybox", "ls", "/"), Result(snapshot=rig.image), parent=None, mounts=(tools,)
    ).ok()
    assert done.output.split() == ["dev", "etc", "proc", "sys", "tools"]
    assert names(rig, done.snapshot) == []


def test_times_of_a_directory_survive_the_stubs_made_in_it(rig: Rig) -> None:
    def fill(root: object) -> None:
        folder = f"{root}/etc"
        os.makedirs(folder, exist_ok=True)
        os.utime(folder, (1_000_000, 1_000_000))

    old = rig.commit(fill, parent=rig.image)  # type: ignore[arg-type]
    top = rig.run("true", parent=old).ok().snapshot
    assert names(rig, top) == []
    touched = rig.run("echo x >/etc/passwd", parent=old).ok().snapshot
    assert os.stat(rig.directory(touched) / "etc").st_mtime == 1_000_000


def test_a_stub_that_the_step_fills_stays(rig: Rig) -> None:
    from buildkit_py.graph import TmpfsMount

    top = rig.run("echo x >/a/beside", mounts=(TmpfsMount(target="/a/b"),)).ok().snapshot
    assert names(rig, top) == ["a", "a/beside"]


def test_the_environment_is_what_was_given_and_home(rig: Rig) -> None:
    out = rig.run(("/bin/env",), env=("PATH=/bin", "A=b c")).ok().output
    assert sorted(out.splitlines()) == ["A=b c", "HOME=/root", "PATH=/bin"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "uid=0(root) gid=0(root) groups=0(root),10(wheel)"),
        ("bob", "uid=1000(bob) gid=1000(bob) groups=10(wheel),29(audio),1000(bob)"),
        ("bob:root", "uid=1000(bob) gid=0(root) groups=0(root)"),
        ("1000", "uid=1000(bob) gid=1000(bob) groups=10(wheel),29(audio),1000(bob)"),
        ("77", "uid=77 gid=0(root) groups=0(root)"),
        ("77:29", "uid=77 gid=29(audio) groups=29(audio)"),
    ],
)
def test_users_and_groups_are_looked_up_in_the_image(rig: Rig, user: str, expected: str) -> None:
    assert rig.run("id", user=user).ok().output.strip() == expected


def test_an_unknown_user_is_an_error(rig: Rig) -> None:
    error = rig.run("id", user="nobody").error
    assert isinstance(error, SolveError)
    assert "unable to find user nobody" in error.message


def test_a_failing_step_gives_code_log_and_a_way_to_run_it_again(rig: Rig) -> None:
    error = rig.run("echo almost; exit 3", cwd="/tmp").error
    assert isinstance(error, ExecError)
    assert error.exit_code == 3
    assert error.message.endswith("did not complete successfully: exit code: 3")
    assert error.log_tail == ("almost",)
    assert error.replay is not None
    assert f"snapshot:{rig.image}" in error.replay


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("nope",), 127, "executable file not found in $PATH"),
        (("/nope",), 127, "no such file or directory"),
        (("/etc",), 126, "permission denied"),
        (("/etc/passwd",), 126, "permission denied"),
    ],
)
def test_what_cannot_be_started_is_told_apart(
    rig: Rig, words: tuple[str, ...], code: int, reason: str
) -> None:
    error = rig.run(words).error
    assert isinstance(error, ExecError)
    assert error.exit_code == code
    assert reason in error.message


def test_a_file_that_is_no_program_is_an_exec_format_error(rig: Rig) -> None:
    made = rig.run("echo text >/prog; chmod +x /prog").ok().snapshot
    error = rig.run(("/prog",), parent=made).error
    assert isinstance(error, ExecError)
    assert "exec format error" in error.message


def test_a_cancelled_step_ends_with_its_whole_tree(rig: Rig) -> None:
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    outcome = rig.run("sleep 1000 & sleep 1000 & sleep 1000", cancelled=cancelled)
    assert isinstance(outcome.error, BuildCancelled)


def test_a_step_that_takes_too_long_is_killed(rig: Rig) -> None:
    error = rig.run("trap '' TERM INT; sleep 1000", timeout=0.2).error
    assert isinstance(error, ExecError)
    assert "timed out after 0.2 s" in error.message


def test_no_signal_is_ignored_or_blocked(rig: Rig) -> None:
    """Not even one of libc's own, which its functions do not touch: ours ignores one here."""
    ignore = ctypes.create_string_buffer(struct.pack("=QQQQ", 1, 0, 0, 0))
    number = sc._NUMBERS["rt_sigaction"]
    sc._syscall("rt_sigaction", number, 32, ctypes.byref(ignore), None, 8)
    try:
        out = rig.run(("/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status")).ok().output
    finally:
        sc.default_action(32)
    assert out.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_heredoc_scripts_can_be_executed(rig: Rig) -> None:
    script = ("EOF", "#!/bin/sh\necho from $0\n")
    done = rig.run(("/dev/pipes/EOF",), heredocs=(script,)).ok()
    assert done.output == "from /dev/pipes/EOF\n"
    assert names(rig, done.snapshot) == []


def test_no_network_means_a_loopback_that_is_up(rig: Rig) -> None:
    out = rig.run("ls /sys/class/net; cat /sys/class/net/lo/flags", network="none").ok().output
    assert out.split() == ["lo", "0x9"]


def test_hosts_name_the_sandbox_and_extra_hosts(rig: Rig) -> None:
    out = rig.run("cat /etc/hosts; hostname", extra_hosts=(("db", "10.0.0.7"),)).ok().output
    assert "127.0.0.1\tlocalhost buildkitsandbox\n" in out
    assert "10.0.0.7\tdb\n" in out
    assert out.endswith("\nbuildkitsandbox\n")


def test_host_gateway_is_this_host(rig: Rig) -> None:
    hosts = (("gw", "host-gateway"),)
    assert "127.0.0.1\tgw\n" in rig.run("cat /etc/hosts", extra_hosts=hosts).ok().output


def test_the_replay_of_a_step_has_its_limits(rig: Rig) -> None:
    resources = ("pids=100", "cpu-quota=50000")
    error = rig.run("false", resources=resources, cgroup_parent="p").error
    assert isinstance(error, ExecError)
    assert "--pids-limit 100 --cpus 0.5 --cgroup-parent p" in (error.replay or "")


@pytest.mark.parametrize("limit", ["nofile=4", "nofile=12:20", "nofile=3:100"])
def test_few_files_are_enough_to_start(rig: Rig, limit: str) -> None:
    soft, _, hard = limit.partition("=")[2].partition(":")
    done = rig.run("ulimit -n; ulimit -Hn", ulimits=(limit,)).ok()
    assert done.output.split() == [soft, hard or soft]


@pytest.mark.parametrize("number", ["-1", "0"])
def test_no_limit_of_processes_is_no_warning(rig: Rig, number: str) -> None:
    assert rig.run("true", resources=(f"pids={number}",)).ok().output == ""


def test_ulimits_and_shm_size_reach_the_step(rig: Rig) -> None:
    out = rig.run(
        "ulimit -n; grep ^shm /proc/mounts | grep -o 'size=[0-9]*k'",
        ulimits=("nofile=99:100",),
        shm_size=8 << 20,
    ).ok()
    assert out.output.split() == ["99", "size=8192k"]


def test_many_layers_make_one_root(rig: Rig) -> None:
    top = rig.image
    for number in range(120):
        top = rig.commit(lambda root, n=number: (root / f"f{n}").touch(), parent=top)  # type: ignore[misc]
    out = rig.run("ls / | grep -c ^f", parent=top).ok().output
    assert out.strip() == "120"


def test_output_of_both_streams_arrives_whole(rig: Rig) -> None:
    out = rig.run("for i in 1 2 3; do echo o$i; done; echo e >&2; printf tail").ok()
    assert sorted(out.output.replace("tail", "").split()) == ["e", "o1", "o2", "o3"]
    assert "tail" in out.output


def test_a_layer_that_changes_nothing_is_not_mounted_again(rig: Rig) -> None:
    same = rig.run("true").ok().snapshot
    directories = rig.store.snapshots.directories
    assert directories(same) == directories(rig.image)
    written = write_layer(rig.directory(same), None)
    assert (written.diff_id, written.size) == EMPTY_LAYER
    assert rig.store.snapshots.diff_id(same or 0) == written.diff_id
    for change in ("chown 7 /", "touch -d @9 /", "chmod 700 /", "echo > /x"):
        changed = rig.run(change, parent=same).ok().snapshot
        assert len(directories(changed)) == 2, change
