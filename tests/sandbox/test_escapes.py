"""Tries to get out of a step, as root in the build; each is refused or contained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildkit_py.errors import ExecError
from buildkit_py.runtime.executor import ExitStatus
from buildkit_py.runtime.namespaces import NamespaceExecutor
from buildkit_py.runtime.seccomp import default_filter
from buildkit_py.runtime.spec import MASKED_PATHS, SandboxSpec
from tests.sandbox import escape_main, escape_probe
from tests.sandbox.harness import Rig, host_tools_spec
from tests.sandbox.test_rootless import run_as_user

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


def execute(executor: NamespaceExecutor, spec: SandboxSpec) -> tuple[ExitStatus, str, str]:
    streams: dict[int, bytes] = {1: b"", 2: b""}

    def collect(stream: int, data: bytes) -> None:
        streams[stream] += data

    status = executor.run(spec, on_output=collect, cancelled=threading.Event(), timeout=60)
    return status, streams[1].decode(), streams[2].decode()


@dataclass(frozen=True)
class Tries:
    """What the probe was answered, and what the host had after it."""

    answers: dict[str, str]
    ranged: bool | None
    null_mode: int
    secret: str
    beside: list[str]
    left: list[int]


@pytest.fixture(scope="module", params=["root", "no pivot_root", "a range of ids", "one id"])
def tries(request: pytest.FixtureRequest, busybox_program: Path) -> Iterator[Tries]:
    """The probe's answers, from a sandbox of root, and of a user with many ids and with one."""
    if not Path(escape_main.SYSTEM_PYTHON).exists():
        pytest.skip("needs python3 below /usr")
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    base = Path(tempfile.mkdtemp(prefix="pybuild-escape-", dir=place))
    base.chmod(0o777)
    secret = base / "secret"
    secret.write_text("host")
    secret.chmod(0o666)
    try:
        if request.param in {"root", "no pivot_root"}:
            command = [sys.executable, "-m", escape_main.__name__, base, busybox_program]
            command += ["no-pivot"] if request.param != "root" else []
            project = Path(__file__).resolve().parents[2]
            done = subprocess.run(
                command, cwd=project, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            answers = json.loads(done.stdout)
        else:
            answers = run_as_user(
                base, busybox_program, ranged=request.param != "one id", module="escape_main"
            )
        yield Tries(
            answers=answers["tries"],
            ranged=answers["ranged"],
            null_mode=stat.S_IMODE(Path("/dev/null").stat().st_mode),
            secret=secret.read_text(),
            beside=[path.name for path in base.rglob("written")],
            left=processes_with(escape_main.LEFT_BEHIND),
        )
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.mark.parametrize("attempt", list(escape_probe.TRIES))
def test_from_inside_one_cannot(tries: Tries, attempt: str) -> None:
    assert tries.answers[attempt].startswith("refused"), tries.answers[attempt]


def test_clone3_says_that_it_is_not_there(tries: Tries) -> None:
    assert tries.answers["clone3"] == "refused: ENOSYS"


def test_the_host_is_as_it_was(tries: Tries) -> None:
    assert tries.null_mode == 0o666
    assert (tries.secret, tries.beside, tries.left) == ("host", [], [])


def test_threads_and_32_bit_friendly_calls_still_work(tmp_path: Path) -> None:
    code = (
        "import threading, subprocess, socket; t = threading.Thread(target=print, args=('in',));"
        "t.start(); t.join(); subprocess.run(['true'], check=True); socket.socket().close()"
    )
    with NamespaceExecutor() as executor:
        spec = host_tools_spec(
            tmp_path, escape_main.SYSTEM_PYTHON, "-c", code, seccomp=default_filter()
        )
        status, out, err = execute(executor, spec)
    assert (status.code, out) == (0, "in\n"), err


def test_what_is_hidden_may_be_there_once_for_each_processor(tmp_path: Path) -> None:
    """As docker hides `thermal_throttle`; here something that every machine has."""
    hidden = ("/sys/devices/system/cpu/cpu*/topology",)
    words = ("sh", "-c", "ls -d /sys/devices/system/cpu/cpu0/topology; ls" + f" {hidden[0]}")
    with NamespaceExecutor() as executor:
        spec = host_tools_spec(tmp_path, *words, masked_paths=hidden)
        status, out, err = execute(executor, spec)
    assert (status.code, err) == (0, "")
    assert [line for line in out.splitlines() if not line.startswith("/") and line] == []
    assert "/sys/devices/system/cpu/cpu*/thermal_throttle" in MASKED_PATHS


def test_capabilities_are_dockers_in_all_five_sets(rig: Rig) -> None:
    out = rig.run("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status").ok().output
    found = dict(line.split(":\t") for line in out.splitlines())
    assert found["CapPrm"] == found["CapEff"] == found["CapBnd"] == "00000000a80425fb"
    assert found["CapInh"] == found["CapAmb"] == "0" * 16
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "2")


def test_an_ordinary_user_has_no_capability(rig: Rig) -> None:
    out = rig.run("grep -E '^Cap(Prm|Eff|Inh|Amb)' /proc/self/status", user="bob").ok().output
    assert {line.split()[1] for line in out.splitlines()} == {"0" * 16}


def test_links_in_an_image_cannot_lead_a_mount_point_out(rig: Rig, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def fill(root: Path) -> None:
        (root / "run").symlink_to(outside)
        (root / "up").symlink_to("../../../../../.." + os.fspath(outside))
        (root / "dangling").symlink_to("/made/inside")

    from buildkit_py.graph import TmpfsMount

    image = rig.commit(fill, parent=rig.image)
    targets = ("/run/secrets/x", "/up/y", "/dangling")
    mounts = tuple(TmpfsMount(target=target) for target in targets)
    done = rig.run(
        "grep -c ' tmpfs rw,nosuid,nodev,relatime' /proc/mounts", parent=image, mounts=mounts
    )
    assert int(done.ok().output) >= 3
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "link", "found"),
    [
        ("etc/resolv.conf", "/proc/1/root/tmp/x", "links that lead nowhere: /etc/resolv.conf"),
        ("etc/resolv.conf", "resolv.conf", "links that lead nowhere: /etc/resolv.conf"),
        ("etc/hosts", None, "a directory: /etc/hosts"),
        ("proc", "etc", "a link: /proc"),
        ("proc", "", "no directory: /proc"),
        ("sys", "/proc/1/root", "links that lead nowhere: /sys"),
        ("sys", "../../tmp", "a link: /sys"),
        ("dev", "", "no directory: /dev"),
    ],
)
def test_an_image_with_something_else_at_a_place_of_ours_is_told_so(
    rig: Rig, path: str, link: str | None, found: str
) -> None:
    def fill(root: Path) -> None:
        place = root / path
        place.parent.mkdir(exist_ok=True)
        if link is None:
            place.mkdir()
        elif link:
            place.symlink_to(link)
        else:
            place.touch()

    error = rig.run("true", parent=rig.commit(fill, parent=rig.image)).error
    assert error is not None
    assert error.message == f"cannot mount there, the image has {found}"


@pytest.mark.parametrize("link", ["/tmp/x", "../../../../../../tmp/x", "../run/a/b/resolv.conf"])
def test_a_link_to_the_name_servers_is_followed_inside(
    rig: Rig, tmp_path: Path, link: str
) -> None:
    before = sorted(os.listdir("/tmp"))
    image = rig.commit(
        lambda root: ((root / "etc").mkdir(), (root / "etc/resolv.conf").symlink_to(link))[-1],
        parent=rig.image,
    )
    done = rig.run("grep -c nameserver /etc/resolv.conf; readlink /etc/resolv.conf", parent=image)
    assert done.ok().output.split()[1:] == [link]
    assert not (set(os.listdir("/tmp")) - set(before)) & {"x"}
    assert list(rig.directory(done.snapshot).iterdir()) == []


def test_a_replaced_parent_directory_does_not_lead_the_clean_up_out(
    rig: Rig, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "stub").touch()
    from buildkit_py.graph import TmpfsMount

    command = f"mv /a /b && ln -s {outside} /a"
    rig.run(command, mounts=(TmpfsMount(target="/a/stub"),))
    assert (outside / "stub").exists()


def test_a_process_left_behind_dies_with_the_step(rig: Rig) -> None:
    mark = "31536111"
    rig.run(f"(trap '' HUP TERM INT; setsid sleep {mark} &) ; setsid nohup sleep {mark} &").ok()
    assert not processes_with(mark)


def test_a_killed_parent_takes_its_step_along(tmp_path: Path, busybox_program: Path) -> None:
    mark = "31536222"
    code = (
        "import sys; from pathlib import Path; from tests.sandbox.harness import Rig\n"
        f"state, busybox = Path({os.fspath(tmp_path)!r}), Path({os.fspath(busybox_program)!r})\n"
        "with Rig(state / 's', busybox) as rig:\n"
        f"    rig.run('trap \"\" TERM; sleep {mark} & sleep {mark}')\n"
    )
    project = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=project)
    try:
        wait_until(lambda: len(processes_with(mark)) >= 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not processes_with(mark))
    assert not [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line
    ]


def test_a_fork_bomb_stops_at_the_limit_on_processes(rig: Rig) -> None:
    if not can_limit(rig, "pids=30"):
        pytest.skip("no cgroup for pids here")
    out = rig.run(
        "n=0; while [ $n -lt 60 ]; do sleep 1000 & n=$((n+1)); done 2>&1; exit 0",
        resources=("pids=30",),
    )
    assert "can't fork" in out.output
    error = rig.run("for i in $(seq 60); do sleep 1000 & done", resources=("pids=30",)).error
    assert isinstance(error, ExecError)
    assert error.message.endswith("(too many processes, limit 30)")


def test_a_step_that_outgrows_its_memory_is_told_so(rig: Rig) -> None:
    if not can_limit(rig, "memory=32m"):
        pytest.skip("no cgroup for memory here")
    parent = f"pybuild-test-{os.getpid()}"
    error = rig.run(
        "head -c 100000000 /dev/zero >/dev/shm/x",
        resources=("memory=32m",),
        shm_size=200 << 20,
        cgroup_parent=parent,
    ).error
    assert isinstance(error, ExecError)
    assert "out of memory, limit 32m" in error.message
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{parent}"))


def test_a_step_that_goes_on_without_a_killed_process_is_warned_of(rig: Rig) -> None:
    if not can_limit(rig, "memory=32m"):
        pytest.skip("no cgroup for memory here")
    script = "dd if=/dev/zero of=/dev/null bs=100M count=1 || echo on"
    done = rig.run(script, resources=("memory=32m",)).ok()
    assert "warning: a process was killed: the step's memory limit was hit" in done.output


def test_a_file_size_limit_holds(rig: Rig) -> None:
    outcome = rig.run("dd if=/dev/zero of=/big bs=1k count=100", ulimits=("fsize=10240",))
    assert isinstance(outcome.error, ExecError)


def test_insecure_steps_have_everything(rig: Rig) -> None:
    out = rig.run(
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mount -t tmpfs none /tmp && echo mounted",
        security="insecure",
    ).ok()
    assert "Seccomp:\t0" in out.output
    assert out.output.endswith("mounted\n")


def test_insecure_steps_need_an_entitlement(rig: Rig) -> None:
    rig.settings["entitlements"] = frozenset()
    error = rig.run("true", security="insecure").error
    assert error is not None
    assert error.hint == "build with --allow security.insecure"


# ------------------------------------------------------------------ helpers
def processes_with(mark: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word == mark.encode() or word.endswith(mark.encode()) for word in words):
                found.append(int(name))
    return found


def wait_until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    event = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        event.wait(0.05)
    pytest.fail("it did not happen in time")


def can_limit(rig: Rig, resource: str) -> bool:
    outcome = rig.run("true", resources=(resource,))
    return outcome.error is None and "warning" not in outcome.output


@pytest.fixture(autouse=True)
def _no_scratch_left(rig: Rig) -> Iterator[None]:
    """Whatever a test did: no temporary directory stays in the store."""
    yield
    rig.executor.close()
    lease = rig.store.db.lease.name
    assert [p.name for p in rig.store.paths.tmp.iterdir() if p.name != lease] == []
