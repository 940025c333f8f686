"""RUN --mount: bind, cache, tmpfs, secret, ssh."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from buildkit_py.errors import SolveError
from buildkit_py.graph import BindMount, CacheMount, SecretMount, SshMount, TmpfsMount
from buildkit_py.solver.ports import Result
from buildkit_py.worker.secrets import BuildSecrets, Secret, SshAgent
from tests.sandbox.harness import Rig

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello\n")
    (folder / "sub/b.txt").write_text("deep\n")
    (folder / "ignored").write_text("no\n")
    return folder


class Ignore:
    def excluded(self, path: str) -> bool:
        return path == "ignored"

    def may_descend(self, path: str) -> bool:
        return False


def test_a_bind_of_the_context_cannot_be_written(rig: Rig, files: Path) -> None:
    bind = BindMount(target="/m", input=1)
    out = rig.run(
        "cat /m/a.txt; touch /m/new; rm /m/a.txt", rig.context("c", files), mounts=(bind,)
    )
    assert "hello" in out.output
    assert out.output.count("Read-only file system") == 2
    assert (files / "a.txt").read_text() == "hello\n"


def test_writes_to_a_writable_bind_are_thrown_away(rig: Rig, files: Path) -> None:
    bind = BindMount(target="/m", input=1, writable=True)
    command = "echo new >/m/a.txt; echo x >/m/b; cat /m/a.txt"
    done = rig.run(command, rig.context("c", files), mounts=(bind,)).ok()
    assert done.output == "new\n"
    assert (files / "a.txt").read_text() == "hello\n"
    assert not (files / "b").exists()
    assert list(rig.directory(done.snapshot).iterdir()) == []


def test_a_bind_shows_no_ignored_file(rig: Rig, files: Path) -> None:
    bind = BindMount(target="/m", input=1)
    done = rig.run("ls /m", rig.context("c", files, Ignore()), mounts=(bind,)).ok()
    assert done.output.split() == ["a.txt", "sub"]


def test_a_single_file_can_be_bound(rig: Rig, files: Path) -> None:
    bind = BindMount(target="/m/only", input=1, source="/sub/b.txt")
    done = rig.run("cat /m/only", rig.context("c", files, Ignore()), mounts=(bind,)).ok()
    assert done.output == "deep\n"


def test_a_bind_of_another_image_shows_its_merged_tree(rig: Rig) -> None:
    top = rig.run("echo x >/made; rm /etc/group").ok().snapshot
    bind = BindMount(target="/m", input=1)
    done = rig.run("ls /m/etc /m/made; touch /m/made", Result(snapshot=top), mounts=(bind,))
    assert done.output.split()[:3] == ["/m/made", "/m/etc:", "passwd"]
    assert "Read-only" in done.output


def test_a_missing_bind_source_is_an_error(rig: Rig, files: Path) -> None:
    bind = BindMount(target="/m", input=1, source="/none")
    error = rig.run("true", rig.context("c", files), mounts=(bind,)).error
    assert isinstance(error, SolveError)
    assert '"/none": not found' in error.message


def test_a_link_in_a_context_cannot_lead_a_bind_to_the_host(
    rig: Rig, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/secret").write_text("host")
    (files / "link").symlink_to(tmp_path / "host")
    bind = BindMount(target="/m", input=1, source="/link")
    outcome = rig.run("cat /m/secret", rig.context("c", files), mounts=(bind,))
    assert outcome.error is not None
    assert "host" not in outcome.output


def test_a_cache_keeps_its_files_between_steps_and_is_in_no_layer(rig: Rig) -> None:
    cache = CacheMount(target="/c", id="x")
    first = rig.run("echo kept >/c/f", mounts=(cache,)).ok()
    assert list(rig.directory(first.snapshot).iterdir()) == []
    assert rig.run("cat /c/f", mounts=(cache,)).ok().output == "kept\n"


def test_caches_with_other_owner_or_mode_are_others(rig: Rig) -> None:
    rig.run("echo kept >/c/f", mounts=(CacheMount(target="/c", id="x"),)).ok()
    other = CacheMount(target="/c", id="x", uid=1000, gid=10, mode=0o700)
    out = rig.run("ls /c; stat -c '%u %g %a' /c", mounts=(other,)).ok().output
    assert out == "1000 10 700\n"


def test_no_cache_starts_a_cache_afresh(rig: Rig) -> None:
    cache = CacheMount(target="/c", id="x")
    rig.run("echo kept >/c/f", mounts=(cache,)).ok()
    assert rig.run("ls /c", mounts=(cache,), no_cache=True).ok().output == ""
    assert rig.run("ls /c", mounts=(cache,)).ok().output == ""


def test_a_cache_can_start_from_an_image(rig: Rig) -> None:
    cache = CacheMount(target="/c", id="x", input=1, source="/etc")
    out = rig.run("ls /c; rm /c/group", Result(snapshot=rig.image), mounts=(cache,)).ok()
    assert out.output.split() == ["group", "passwd"]
    again = rig.run("ls /c", Result(snapshot=rig.image), mounts=(cache,)).ok()
    assert again.output.split() == ["passwd"]


def test_a_private_cache_in_use_gives_the_second_step_another(rig: Rig) -> None:
    cache = CacheMount(target="/c", id="p", sharing="private")
    fifo = "[ -e /c/busy ] && echo seen; touch /c/busy; "
    done: list[str] = []
    thread = threading.Thread(
        target=lambda: done.append(rig.run(fifo + "sleep 0.6", mounts=(cache,)).ok().output)
    )
    thread.start()
    while not list(rig.store.paths.cache_mounts.glob("*/busy")):
        thread.join(0.02)
    assert rig.run(fifo, mounts=(cache,)).ok().output == ""
    thread.join()


def test_a_locked_cache_is_used_by_one_step_at_a_time(rig: Rig) -> None:
    cache = CacheMount(target="/c", id="l", sharing="locked")
    command = "[ -e /c/busy ] && echo overlap; touch /c/busy; sleep 0.1; rm /c/busy"
    outputs: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: outputs.append(rig.run(command, mounts=(cache,)).ok().output)
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [item for item in outputs if "overlap" in item]


def test_a_tmpfs_has_the_size_asked_for(rig: Rig) -> None:
    mount = TmpfsMount(target="/t", size=1 << 20)
    out = rig.run("dd if=/dev/zero of=/t/x bs=1k count=2000 2>&1 | grep -c space", mounts=(mount,))
    assert out.ok().output == "1\n"


def test_programs_run_from_a_tmpfs(rig: Rig) -> None:
    rig.run("cp /bin/busybox /t/true && /t/true", mounts=(TmpfsMount(target="/t"),)).ok()


def test_a_place_to_mount_on_that_cannot_be_made_is_named(rig: Rig, files: Path) -> None:
    below = BindMount(target="/b", input=1, source="/")
    cache = CacheMount(target="/b/missing/one", id="c")
    error = rig.run("true", rig.context("c", files), mounts=(below, cache)).error
    assert error is not None
    assert error.message.endswith(
        "cannot mount there, it is missing in what is mounted read-only above it: /b/missing"
    )
    error = rig.run("true", mounts=(TmpfsMount(target="/bin/busybox/x/y"),)).error
    assert error is not None
    assert "cannot mount there, the image has a file above it: /bin/busybox/x" in error.message


def test_a_secret_is_a_read_only_file_and_a_variable_and_is_masked(rig: Rig) -> None:
    rig.secrets = BuildSecrets(secrets={"tok": Secret(id="tok", value=b"hunter22\n")})
    mount = SecretMount(id="tok", target="/run/secrets/tok", env="TOK")
    done = rig.run(
        'cat /run/secrets/tok; echo "$TOK"; stat -c "%a %u" /run/secrets/tok;'
        " wc -c </run/secrets/tok; echo x >/run/secrets/tok",
        mounts=(mount,),
    )
    assert "hunter22" not in done.output
    assert done.output.splitlines()[0] == "****"
    assert "400 0\n9\n" in done.output
    assert "Read-only file system" in done.output


def test_a_secret_leaves_no_trace_in_the_layer(rig: Rig) -> None:
    rig.secrets = BuildSecrets(secrets={"tok": Secret(id="tok", value=b"hunter22")})
    mount = SecretMount(id="tok", target="/run/secrets/tok")
    done = rig.run("cat /run/secrets/tok", mounts=(mount,)).ok()
    assert list(rig.directory(done.snapshot).iterdir()) == []


def test_a_missing_secret_is_an_error_only_if_required(rig: Rig) -> None:
    mount = SecretMount(id="tok", target="/run/secrets/tok")
    assert rig.run("ls /run", mounts=(mount,)).error is not None  # no mount, so no directory
    required = SecretMount(id="tok", target="/run/secrets/tok", required=True)
    error = rig.run("true", mounts=(required,)).error
    assert isinstance(error, SolveError)
    assert "secret tok: not found" in error.message


def test_an_ssh_agent_is_forwarded_by_a_socket_with_the_wanted_owner(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "agent.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    rig.secrets = BuildSecrets(agents={"default": SshAgent(paths=(str(path),))})
    mount = SshMount(id="default", target="/run/buildkit/ssh_agent.0", uid=1000)
    command = 'stat -c "%F %a %u" "$SSH_AUTH_SOCK"'
    done = rig.run(command, mounts=(mount,)).ok()
    listener.close()
    assert done.output == "socket 600 1000\n"
    assert list(rig.directory(done.snapshot).iterdir()) == []


@pytest.mark.requires("ssh-keygen")
def test_a_key_with_a_passphrase_is_called_that(rig: Rig, tmp_path: Path) -> None:
    key = tmp_path / "key"
    made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)]
    subprocess.run(made, check=True)
    rig.secrets = BuildSecrets(agents={"k": SshAgent(id="k", paths=(str(key),))})
    error = rig.run("true", mounts=(SshMount(id="k", target="/s"),)).error
    assert error is not None
    assert error.message == f"cannot use SSH key {key}: it has a passphrase"
