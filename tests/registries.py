"""Registries for tests: Debian's real one as a process, and a scripted server for bad answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from buildkit_py.registry.auth import Authenticator
from buildkit_py.registry.client import RegistryClient
from buildkit_py.registry.config import RegistryConfig
from buildkit_py.registry.credentials import CredentialStore
from buildkit_py.registry.transport import Transport

PASSWORD_FILE = "tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
"""bcrypt of `secret`."""


_OPEN: list[Transport] = []


def new_client(
    environment: dict[str, str] | None = None, config: RegistryConfig | None = None
) -> RegistryClient:
    """A client that never waits; `close_clients` ends its connections."""
    config = replace(config or RegistryConfig(), read_timeout=5.0, connect_timeout=5.0)
    transport = Transport(config, sleep=lambda seconds: None)
    _OPEN.append(transport)
    store = None if environment is None else CredentialStore(environment)
    return RegistryClient(transport, Authenticator(transport, store))


def close_clients() -> None:
    while _OPEN:
        _OPEN.pop().close()


# ------------------------------------------------------------------ the real one
@dataclass(slots=True)
class RealRegistry:
    """A `docker-registry` on loopback; it keeps its address and its data when restarted."""

    folder: Path
    port: int
    login: bool = False
    http: dict[str, Any] = field(default_factory=dict)  # more of its `http` section
    auth: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "config.yml"
        config.write_text(json.dumps(self._config()))  # YAML is a superset of JSON
        program = shutil.which("docker-registry")
        assert program is not None
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(
                [program, "serve", os.fspath(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
            )
        _wait_for(self.port, self.process)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=20)
            self.process = None

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": False}},
            "storage": {
                "filesystem": {"rootdirectory": os.fspath(self.folder / "data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.host, "secret": "the same after a restart", **self.http},
            **({"auth": self.auth} if self.auth else {}),
        }
        if self.login:
            passwords = self.folder / "htpasswd"
            passwords.write_text(PASSWORD_FILE)
            config["auth"] = {"htpasswd": {"realm": "test", "path": os.fspath(passwords)}}
        return config


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        threading.Event().wait(0.05)
    raise RuntimeError("docker-registry does not answer")


@contextlib.contextmanager
def real_registry(
    folder: Path,
    *,
    login: bool = False,
    http: dict[str, Any] | None = None,
    auth: dict[str, Any] | None = None,
) -> Iterator[RealRegistry]:
    """Run a registry for the time of a `with` block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    registry = RealRegistry(
        folder=folder, port=port, login=login, http=http or {}, auth=auth or {}
    )
    registry.start()
    try:
        yield registry
    finally:
        registry.stop(signal.SIGKILL)


# ------------------------------------------------------------------ the scripted one
@dataclass(slots=True)
class Answer:
    """What the scripted server says. `cut` ends the connection after so many bytes of body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    endless: bool = False
    length: int | None = None  # a Content-Length that may lie


@dataclass(slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Asked], Answer]


class ScriptedServer:
    """An HTTP server on loopback whose every answer a test decides."""

    def __init__(self, script: Script) -> None:
        self.asked: list[Asked] = []
        self.script = script
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.body()
                headers = {k.lower(): v for k, v in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                outer.asked.append(asked)
                self.reply(outer.script(asked))

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                out = b""
                while size := int(self.rfile.readline() or b"0", 16):
                    out += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return out

            do_GET = do_HEAD = do_POST = handle_any  # noqa: N815
            do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def reply(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(answer.body) if answer.length is None else answer.length
                if not answer.endless:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command == "HEAD":
                    return
                with contextlib.suppress(OSError):
                    self.wfile.write(answer.body[: answer.cut])
                    while answer.endless:
                        self.wfile.write(bytes(1 << 16))
                if answer.cut is not None or answer.endless:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(slots=True)
class FakeRegistry:
    """Uploads as the distribution API has them; `break_at` loses the rest of a PATCH once."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    elsewhere: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)
    break_at: int | None = None
    forget: bool = False
    lose_answer_to_put: bool = False
    minimum_chunk: int = 0

    def __call__(self, asked: Asked) -> Answer:
        path = urlsplit(asked.path).path
        query = {k: v[0] for k, v in parse_qs(urlsplit(asked.path).query).items()}
        if path == "/v2/":
            return Answer()
        if "/uploads/" in path:
            return self.upload(asked, path.rpartition("/")[2], query)
        found = path.rpartition("/")[2] in self.blobs
        return Answer(200 if found else 404)

    def upload(  # noqa: PLR0911  (one for each kind of request)
        self, asked: Asked, session: str, query: dict[str, str]
    ) -> Answer:
        if asked.method == "POST":
            wanted = query.get("mount", "")
            if wanted in self.elsewhere:
                self.blobs[wanted] = self.elsewhere[wanted]
                return Answer(201)
            name = str(len(self.sessions))
            self.sessions[name] = b""
            headers = {"Location": f"/v2/team/app/blobs/uploads/{name}"}
            if self.minimum_chunk:
                headers["OCI-Chunk-Min-Length"] = str(self.minimum_chunk)
            return Answer(202, headers=headers)
        if session not in self.sessions:
            return Answer(404)
        if asked.method == "PATCH":
            return self.patch(asked, session)
        if asked.method == "GET":
            last = max(0, len(self.sessions[session]) - 1)
            return Answer(204, headers={"Range": f"0-{last}"})
        if asked.method == "DELETE":
            del self.sessions[session]
            return Answer(204)
        data = self.sessions.pop(session) + asked.body
        if digest(data) != query["digest"]:
            return Answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"digest"}]}')
        self.blobs[query["digest"]] = data
        if self.lose_answer_to_put:
            self.lose_answer_to_put = False
            return Answer(503)
        return Answer(201)

    def patch(self, asked: Asked, session: str) -> Answer:
        if self.break_at is not None:
            self.sessions[session] += asked.body[: self.break_at]
            self.break_at = None
            if self.forget:
                del self.sessions[session]
            return Answer(503)
        self.sessions[session] += asked.body
        return Answer(202, headers={"Location": f"/v2/team/app/blobs/uploads/{session}"})


# ------------------------------------------------------------------ images
def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_tar(files: dict[str, bytes]) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return out.getvalue()


@dataclass(slots=True)
class FakeImage:
    """A small image as documents and blobs by digest."""

    manifest: bytes
    config: bytes
    layers: list[bytes]
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest(self.manifest)


_OCI = "application/vnd.oci.image"


def fake_image(*layers: bytes, architecture: str = "amd64") -> FakeImage:
    """An image of uncompressed layers."""
    tars = list(layers) or [layer_tar({"hello.txt": b"hello\n"})]
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _entry(f"{_OCI}.config.v1+json", config),
            "layers": [_entry(f"{_OCI}.layer.v1.tar", tar) for tar in tars],
        }
    ).encode()
    blobs = {digest(data): data for data in (config, *tars)}
    return FakeImage(manifest=manifest, config=config, layers=tars, blobs=blobs)


def fake_index(images: dict[str, FakeImage]) -> bytes:
    """An index over images by `os/architecture`."""
    entries = []
    for platform, image in images.items():
        system, architecture = platform.split("/")
        entry = _entry(f"{_OCI}.manifest.v1+json", image.manifest)
        entries.append(entry | {"platform": {"os": system, "architecture": architecture}})
    kind = f"{_OCI}.index.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()


def _entry(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def serve_image(image: FakeImage, *more: FakeImage, index: bytes | None = None) -> Script:
    """A read-only registry that holds images under any name and tag."""
    documents = {one.digest: one.manifest for one in (image, *more)}
    blobs = {key: data for one in (image, *more) for key, data in one.blobs.items()}
    top = index or image.manifest
    documents[digest(top)] = top

    def script(asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path == "/v2/":
            return Answer()
        name = path.rpartition("/")[2]
        if "/manifests/" in path:
            data = documents.get(name) if ":" in name else top
            if data is None:
                return Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}')
            kind = json.loads(data)["mediaType"]
            return Answer(200, data, {"Content-Type": kind})
        data = blobs.get(name)
        return Answer(404) if data is None else Answer(200, data)

    return script
