"""Runs the `git` program so that neither a repository nor its URL can make it do anything else.

No configuration of user or system, no hooks, no prompts, no credential helpers, only the network
protocols, a time limit, and credentials by environment (arguments can be read by every user).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO

from buildkit_py.errors import BuildCancelled, SourceError

_POLL = 0.2
_MAX_OUTPUT = 32 << 20
_PASSED_ON = frozenset(
    "PATH HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy"
    " SSL_CERT_FILE SSL_CERT_DIR GIT_SSL_CAINFO GIT_SSL_CAPATH TMPDIR".split()
)
_PROTOCOLS = ("http", "https", "git", "ssh")
_SETTINGS = (
    ("protocol.allow", "never"),
    *((f"protocol.{name}.allow", "always") for name in _PROTOCOLS),
    ("protocol.ext.allow", "never"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("credential.helper", ""),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.fsckObjects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("submodule.recurse", "false"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAccess:
    """How a remote may be reached. `header` is secret; `header_scope` the URLs that get it."""

    header: str = field(default="", repr=False)
    header_scope: str = ""
    ssh_socket: str | None = None
    known_hosts: tuple[str, ...] = ()
    allow_local: bool = False  # file:// and plain paths, as remotes and as submodules


class GitCommand:
    """The `git` program under fixed conditions."""

    def __init__(
        self,
        environment: Mapping[str, str],
        access: GitAccess,
        *,
        cancelled: threading.Event | None = None,
        log: Callable[[bytes], None] | None = None,
    ) -> None:
        self._access = access
        self._cancelled = cancelled
        self._log = log
        self._environment = _environment(environment, access)

    def run(
        self,
        *arguments: str,
        directory: str | os.PathLike[str],
        timeout: float = 60.0,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run one command and give its output. Raises SourceError with git's last words."""
        code, output, said = self._start(arguments, directory, timeout, variables or {})
        if code != 0:
            raise SourceError(f"git {arguments[0]} failed: {_last_line(said)}")
        return output.decode("utf-8", "replace")

    def succeeds(self, *arguments: str, directory: str | os.PathLike[str]) -> bool:
        """Whether a local question has the answer yes."""
        return self._start(arguments, directory, 60.0, {})[0] == 0

    def _start(
        self,
        arguments: tuple[str, ...],
        directory: str | os.PathLike[str],
        timeout: float,
        variables: Mapping[str, str],
    ) -> tuple[int, bytes, bytes]:
        try:
            process = subprocess.Popen(
                ["git", *arguments],
                cwd=directory,
                env={**self._environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=0o022,
            )
        except FileNotFoundError as error:
            raise SourceError(
                "git repositories need the git program", hint="install the package git"
            ) from error
        except OSError as error:
            raise SourceError(f"cannot run git: {error.strerror}") from error
        with process:
            try:
                output, said = self._collect(process, arguments[0], timeout)
                process.wait(timeout=10)
            except BaseException:
                _end(process)
                raise
        return process.returncode, output, said

    def _collect(
        self, process: subprocess.Popen[bytes], verb: str, timeout: float
    ) -> tuple[bytes, bytes]:
        assert process.stdout is not None
        assert process.stderr is not None
        collected: dict[IO[bytes], bytearray] = {
            process.stdout: bytearray(),
            process.stderr: bytearray(),
        }
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for stream in collected:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                self._check(verb, deadline, timeout)
                for key, _ in selector.select(_POLL):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                        continue
                    stream = process.stdout if key.fileobj is process.stdout else process.stderr
                    collected[stream] += data
                    if stream is process.stderr and self._log is not None:
                        self._log(data)
                    if len(collected[stream]) > _MAX_OUTPUT:
                        raise SourceError(f"git {verb} says too much")
        return bytes(collected[process.stdout]), bytes(collected[process.stderr])

    def _check(self, verb: str, deadline: float, timeout: float) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise BuildCancelled("the build was interrupted")
        if time.monotonic() > deadline:
            raise SourceError(f"git {verb} did not end within {timeout:.0f} seconds")


def _environment(environment: Mapping[str, str], access: GitAccess) -> dict[str, str]:
    out = {name: value for name, value in environment.items() if name in _PASSED_ON}
    out.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    out |= {
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_SSH_COMMAND": _ssh_command(access),
    }
    if access.ssh_socket is not None:
        out["SSH_AUTH_SOCK"] = access.ssh_socket
    settings = list(_SETTINGS)
    if access.allow_local:
        settings.append(("protocol.file.allow", "always"))
    if access.header:
        settings.append((f"http.{access.header_scope}.extraHeader", access.header))
    out["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        out[f"GIT_CONFIG_KEY_{number}"] = key
        out[f"GIT_CONFIG_VALUE_{number}"] = value
    return out


def _ssh_command(access: GitAccess) -> str:
    files = " ".join(access.known_hosts) or "/dev/null"
    return (
        "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ForwardAgent=no"
        f" -o StrictHostKeyChecking=accept-new -o 'UserKnownHostsFile={files}'"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git and its transport helpers; they share a session of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.wait()


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line] or ["no message"]
    chosen = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])
    chosen = chosen.removeprefix("fatal: ").removeprefix("error: ")
    return "".join(c for c in chosen if c.isprintable())[:300]
