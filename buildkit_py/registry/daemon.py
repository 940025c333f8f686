"""Container daemons of this machine: where docker and podman listen, and loading images there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from buildkit_py.errors import RegistryError, UsageError
from buildkit_py.registry.config import HostConfig, KeyPair, RegistryConfig
from buildkit_py.registry.transport import ConnectionFailed, Request, Response, Transport

_ANSWER_LIMIT = 4 << 20
_LINE_LIMIT = 1 << 20
_PATIENCE = 600.0  # seconds that a daemon may unpack without saying a word
_CONTAINERD = "io.containerd.snapshotter.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a daemon listens: `unix:///path` or `tcp://host:port`, perhaps with TLS files."""

    address: str
    certificates: str | None = None
    verify: bool = True


def find_daemon(environment: Mapping[str, str], context: str = "") -> Endpoint | None:
    """The daemon that docker's client would use, else one whose socket is there, else None.

    `context` names one of docker's contexts. DOCKER_HOST=none hides all. Raises UsageError.
    """
    host = environment.get("DOCKER_HOST", "")
    if not context and host:
        if host == "none":
            return None
        verify = bool(environment.get("DOCKER_TLS_VERIFY"))
        folder = environment.get("DOCKER_CERT_PATH") or os.fspath(_docker_folder(environment))
        return Endpoint(address=host, certificates=folder if verify else None)
    name = context or environment.get("DOCKER_CONTEXT", "") or _current_context(environment)
    if name and name != "default":
        return _context(environment, name)
    for path in _sockets(environment):
        if _is_socket(path):
            return Endpoint(address=f"unix://{path}")
    return None


def _sockets(environment: Mapping[str, str]) -> Iterator[str]:
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        yield f"{runtime}/docker.sock"
    yield "/var/run/docker.sock"
    if environment.get("CONTAINER_HOST", "").startswith("unix://"):
        yield environment["CONTAINER_HOST"].removeprefix("unix://")
    if runtime:
        yield f"{runtime}/podman/podman.sock"
    yield "/run/podman/podman.sock"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode) and os.access(path, os.W_OK)
    except OSError:
        return False


def _docker_folder(environment: Mapping[str, str]) -> Path:
    home = environment.get("HOME")
    folder = environment.get("DOCKER_CONFIG")
    return Path(folder) if folder else Path(home or Path.home(), ".docker")


def _current_context(environment: Mapping[str, str]) -> str:
    raw = _read_json(_docker_folder(environment) / "config.json")
    return str(raw.get("currentContext") or "") if raw else ""


def _context(environment: Mapping[str, str], name: str) -> Endpoint:
    digits = hashlib.sha256(name.encode()).hexdigest()
    folder = _docker_folder(environment) / "contexts"
    raw = _read_json(folder / "meta" / digits / "meta.json")
    try:
        docker = raw["Endpoints"]["docker"] if raw else {}
        address = str(docker["Host"])
    except (KeyError, TypeError) as error:
        raise UsageError(f'docker context "{name}" does not exist') from error
    tls = folder / "tls" / digits / "docker"
    return Endpoint(
        address=address,
        certificates=os.fspath(tls) if tls.is_dir() else None,
        verify=not docker.get("SkipTLSVerify"),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return raw if isinstance(raw, dict) else None


class Daemon:
    """The API of a daemon. Raises RegistryError when it cannot be reached or refuses."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        parts = urlsplit(endpoint.address)
        socket_path: str | None = None
        host = HostConfig()
        match parts.scheme:
            case "unix":
                self._base, socket_path = "http://daemon", parts.path
            case "tcp" | "http" | "https" if parts.hostname:
                secure = endpoint.certificates is not None or parts.scheme == "https"
                self._base = f"{'https' if secure else 'http'}://{parts.netloc}"
                host = _tls_files(endpoint)
            case _:
                raise UsageError(
                    f"cannot talk to a daemon at {endpoint.address}",
                    hint="unix:///path and tcp://host:port are known;"
                    " for ssh, pipe an archive: -o type=docker,dest=- | ssh HOST docker load",
                )
        hosts = {} if socket_path else {parts.netloc: host}
        config = RegistryConfig(hosts=hosts, retries=0, read_timeout=_PATIENCE)
        self._transport = Transport(config, socket_path=socket_path)

    def close(self) -> None:
        """Drop the connection."""
        self._transport.close()

    def describe(self) -> tuple[str, bool]:
        """`docker` or `podman`, and whether it keeps images of several platforms."""
        version = self._get("/version")
        parts = version.get("Components")
        names = [str(item.get("Name")) for item in parts or [] if isinstance(item, dict)]
        if any("podman" in name.lower() for name in names):
            return "podman", False
        status = self._get("/info").get("DriverStatus")
        several = any(_CONTAINERD in item for item in status or [] if isinstance(item, list))
        return "docker", several

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with self._transport.request(Request(method="GET", url=self._base + path)) as response:
                data = response.read(_ANSWER_LIMIT)
        except ConnectionFailed as error:
            raise RegistryError(
                f"cannot reach a container daemon at {self.address}",
                hint="start it, or set DOCKER_HOST=none to use the local store",
            ) from error
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError):
            raw = None
        if response.status != 200 or not isinstance(raw, dict):
            raise RegistryError(f"no container daemon answers at {self.address}")
        return raw

    def load(self, archive: Callable[[], Iterable[bytes]]) -> tuple[str, ...]:
        """Send an archive as `docker load` does; returns what the daemon says of it."""
        request = Request(
            method="POST",
            url=f"{self._base}/images/load?quiet=1",
            headers={"Content-Type": "application/x-tar"},
            body=archive,
        )
        with self._transport.request(request) as response:
            said = tuple(_messages(response, self.address))
            if response.status != 200:
                reason = said[-1] if said else f"status {response.status}"
                raise RegistryError(f"{self.address} does not load the image: {reason}")
        return said


def _tls_files(endpoint: Endpoint) -> HostConfig:
    if endpoint.certificates is None:
        return HostConfig()
    folder = Path(endpoint.certificates)
    pair = KeyPair(cert=os.fspath(folder / "cert.pem"), key=os.fspath(folder / "key.pem"))
    authority = folder / "ca.pem"
    return HostConfig(
        ca=(os.fspath(authority),) if authority.exists() else (),
        keypairs=(pair,) if Path(pair.cert).exists() else (),
        insecure=not endpoint.verify,
    )


def _messages(response: Response, address: str) -> Iterator[str]:
    """The texts of a stream of JSON objects. Raises RegistryError for one that tells an error."""
    for line in response.read(_LINE_LIMIT).splitlines():
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            raw = {"stream": line.decode("utf-8", "replace")}
        if not isinstance(raw, dict):
            continue
        problem = raw.get("error") or (raw.get("message") if response.status != 200 else None)
        if problem:
            text = "".join(c for c in str(problem) if c.isprintable())[:500]
            raise RegistryError(f"{address} does not load the image: {text}")
        text = "".join(c for c in str(raw.get("stream") or "") if c.isprintable())
        if text:
            yield text
