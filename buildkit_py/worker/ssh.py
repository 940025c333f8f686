"""Forwards an SSH agent into a step: a socket of our own, with the mount's owner and mode."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from buildkit_py.errors import UsageError
from buildkit_py.worker.secrets import SshAgent

_CHUNK = 64 << 10


@contextmanager
def agent_socket(agent: SshAgent, auth_sock: str | None) -> Iterator[str]:
    """The path of a socket where the agent's keys are. Raises UsageError."""
    paths = agent.paths
    if not paths:
        if not auth_sock:
            raise UsageError(
                f'no SSH agent for id "{agent.id}"', hint="start ssh-agent, or give key files"
            )
        paths = (auth_sock,)
    if len(paths) == 1 and Path(paths[0]).is_socket():
        yield paths[0]
        return
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise UsageError(f"SSH key or agent socket not found: {missing[0]}")
    with _own_agent(paths) as path:
        yield path


@contextmanager
def _own_agent(keys: tuple[str, ...]) -> Iterator[str]:
    if shutil.which("ssh-agent") is None:
        raise UsageError("SSH key files need the program ssh-agent", hint="install openssh-client")
    with tempfile.TemporaryDirectory(prefix="pybuild-ssh-") as folder:
        path = f"{folder}/agent.sock"
        agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert agent.stdout is not None
            agent.stdout.readline()  # printed when it listens
            environment = {"SSH_AUTH_SOCK": path, "PATH": os.environ.get("PATH", os.defpath)}
            for key in keys:
                added = subprocess.run(
                    ["ssh-add", key],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                    start_new_session=True,
                )
                if added.returncode:
                    said = added.stderr.decode(errors="replace").strip()
                    reason = said.splitlines()[-1:]
                    if "passphrase" in said:
                        reason = ["it has a passphrase"]
                    raise UsageError(
                        f"cannot use SSH key {key}: {' '.join(reason)}",
                        hint="keys with a passphrase must be in an agent already",
                    )
            yield path
        finally:
            agent.terminate()
            agent.wait()
            if agent.stdout is not None:
                agent.stdout.close()


class AgentProxy:
    """Listens on a socket with the wanted owner and mode, and passes bytes to the agent."""

    def __init__(self, agent: str, *, mode: int, uid: int, gid: int) -> None:
        self._agent = agent
        self._folder = tempfile.mkdtemp(prefix="pybuild-agent-")
        self.path = f"{self._folder}/agent"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        Path(self.path).chmod(mode)
        with suppress(OSError):  # a namespace of one id has no other owner to give
            os.chown(self.path, uid, gid)
        self._listener.listen(16)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="ssh-agent", daemon=True)

    def __enter__(self) -> AgentProxy:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        peers: dict[socket.socket, socket.socket] = {}
        try:
            while True:
                waiting: list[int | socket.socket] = [self._stop_read, self._listener, *peers]
                ready = select.select(waiting, [], [])[0]
                if self._stop_read in ready:
                    return
                if self._listener in ready:
                    self._accept(peers)
                for side in ready:
                    if isinstance(side, socket.socket) and side in peers:
                        _pass_on(side, peers)
        finally:
            for side in peers:
                side.close()

    def _accept(self, peers: dict[socket.socket, socket.socket]) -> None:
        client, _ = self._listener.accept()
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            agent.connect(self._agent)
        except OSError:
            client.close()
            agent.close()
            return
        peers[client], peers[agent] = agent, client


def _pass_on(side: socket.socket, peers: dict[socket.socket, socket.socket]) -> None:
    other = peers[side]
    try:
        data = side.recv(_CHUNK)
        if data:
            other.sendall(data)
            return
    except OSError:
        pass
    for end in (side, other):
        del peers[end]
        end.close()
