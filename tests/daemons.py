"""Daemons that tests start for themselves: podman's service, and Debian's dockerd."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


class CannotStart(Exception):
    """Why a daemon does not run on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDaemon:
    """A daemon on a Unix socket, and the client that talks to it."""

    address: str
    client: tuple[str, ...]

    def __call__(self, *words: str | Path) -> str:
        """Run the client; its standard output."""
        done = subprocess.run(
            [*self.client, *map(os.fspath, words)],
            env={k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def podman_service(folder: Path) -> Iterator[RunningDaemon]:
    """Podman's API on a socket, with a store of its own."""
    folder.mkdir()
    client = ("podman", f"--root={folder}/root", f"--runroot={folder}/run", "--storage-driver=vfs")
    address = f"unix://{folder}/api"
    command = [*client, "system", "service", "--time=0", address]
    with _running(command, folder / "api", folder / "log"):
        yield RunningDaemon(address=address, client=client)


@contextlib.contextmanager
def dockerd(folder: Path) -> Iterator[RunningDaemon]:
    """Debian's dockerd without networks, with a state of its own. Raises CannotStart."""
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    client = shutil.which("docker", path="/usr/bin:/usr/local/bin")
    if program is None or client is None:
        raise CannotStart("docker.io is not installed")
    folder.mkdir()
    address = f"unix://{folder}/api"
    command = [
        program,
        f"--host={address}",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        "--storage-driver=vfs",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    with _running(command, folder / "api", folder / "log"):
        yield RunningDaemon(address=address, client=(client, f"--host={address}"))


@contextlib.contextmanager
def _running(command: Sequence[str], place: Path, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        _wait(place, process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(place: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(os.fspath(place))
            return
        time.sleep(0.05)
    raise CannotStart(log.read_text(errors="replace")[-400:] or "it does not answer")
