"""Debian's docker-registry behind TLS with client certificates, and behind a token server."""

from __future__ import annotations

import base64
import json
import os
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from tarfile import TarFile, TarInfo
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import Pybuild
from tests.registries import (
    Answer,
    Asked,
    RealRegistry,
    ScriptedServer,
    fake_image,
    real_registry,
    serve_image,
)

pytestmark = pytest.mark.requires("docker-registry", "openssl")


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it has signed for a server and a client."""

    folder: Path

    def path(self, name: str) -> str:
        return os.fspath(self.folder / name)

    @property
    def pair(self) -> str:
        """The client's, as `pybuild.toml` has it."""
        return f'{{cert = "{self.path("client.pem")}", key = "{self.path("client.key")}"}}'

    def make(self) -> None:
        self._run("req", "-x509", "-subj", "/CN=authority", "-days", "2", *self._key("ca"))
        names = self.folder / "names"
        names.write_text("subjectAltName=DNS:127.1,IP:127.0.0.1")
        for name in ("server", "client"):
            self._run("req", "-subj", f"/CN={name}", *self._key(name, "csr"))
            signing = ["-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key")]
            files = ["-in", self.path(f"{name}.csr"), "-out", self.path(f"{name}.pem")]
            more = ["-CAcreateserial", "-days", "2", "-extfile", os.fspath(names)]
            self._run("x509", "-req", *signing, *files, *more)

    def _key(self, name: str, kind: str = "pem") -> list[str]:
        where = ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.{kind}")]
        return ["-newkey", "rsa:2048", "-nodes", *where]

    def _run(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    def sign(self, data: bytes) -> bytes:
        words = ["openssl", "dgst", "-sha256", "-sign", self.path("server.key")]
        return subprocess.run(words, input=data, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.make()
    return made


def imported(pybuild: Pybuild, name: str) -> None:
    out = BytesIO()
    with TarFile(fileobj=out, mode="w") as tar:
        tar.addfile(TarInfo("empty"))
    pybuild("import", "-", name, stdin=out.getvalue())


# ------------------------------------------------------------------ TLS
@pytest.fixture
def guarded(certificates: Certificates, tmp_path: Path) -> Iterator[RealRegistry]:
    """A registry that only speaks TLS, and only with clients that the authority knows."""
    folder = tmp_path / "registry"
    folder.mkdir()
    tls = {
        "certificate": certificates.path("server.pem"),
        "key": certificates.path("server.key"),
        "clientcas": [certificates.path("ca.pem")],
    }
    with real_registry(folder, http={"tls": tls}) as registry:
        yield registry


def settings(pybuild: Pybuild, text: str) -> None:
    path = pybuild.directory / "pybuild.toml"
    path.write_text(text)
    pybuild.environment["PYBUILD_CONFIG"] = os.fspath(path)


def test_certificates_of_server_and_client(
    pybuild: Pybuild, guarded: RealRegistry, certificates: Certificates
) -> None:
    host = f"127.1:{guarded.port}"  # this machine by a name that is not known to be it
    name = f"{host}/app:1"
    imported(pybuild, name)
    failed = pybuild("push", name, status=1)
    assert "certificate verify failed: unable to get local issuer certificate" in failed.stderr
    assert f'`ca` of [registry."{host}"]' in failed.stderr

    authority = f'[registry."{host}"]\nca = ["{certificates.path("ca.pem")}"]\n'
    settings(pybuild, authority)
    failed = pybuild("push", name, status=1)
    assert "it wants a client's certificate" in failed.stderr

    settings(pybuild, f"{authority}keypair = [{certificates.pair}]\n")
    pybuild("push", name)
    pybuild("rmi", name)
    assert "Downloaded newer image" in pybuild("pull", name).stdout


def test_an_insecure_registry_is_spoken_to_in_tls_without_checks_and_without_noise(
    pybuild: Pybuild, guarded: RealRegistry, certificates: Certificates
) -> None:
    host = f"127.1:{guarded.port}"
    imported(pybuild, f"{host}/app:1")
    settings(pybuild, f'[registry."{host}"]\ninsecure = true\nkeypair = [{certificates.pair}]\n')
    assert pybuild("push", f"{host}/app:1").stderr == ""
    settings(pybuild, "")
    failed = pybuild("pull", "--insecure", f"{host}/app:1", status=1)
    assert "it wants a client's certificate" in failed.stderr


def test_a_missing_certificate_is_named(pybuild: Pybuild) -> None:
    settings(pybuild, '[registry."127.1:9"]\nca = ["/absent/ca.pem"]\n')
    failed = pybuild("pull", "127.1:9/app:1", status=1)
    assert "cannot use certificate /absent/ca.pem: no such file" in failed.stderr
    settings(pybuild, "[transfer]\nretires = 3\n")
    failed = pybuild("pull", "127.1:9/app:1", status=2)
    assert "unknown key transfer.retires" in failed.stderr


# ------------------------------------------------------------------ tokens
class Tokens:
    """Docker's token authentication: a token for what its user may do, and no more."""

    def __init__(self, certificates: Certificates) -> None:
        self._certificates = certificates
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(self, asked: Asked) -> Answer:
        query = parse_qs(urlsplit(asked.path).query)
        user = ""
        if "authorization" in asked.headers:
            text = base64.b64decode(asked.headers["authorization"].partition(" ")[2]).decode()
            user, _, password = text.partition(":")
            if password != "secret":
                return Answer(401, b'{"details": "no"}')
        self.asked.append((user, tuple(query.get("scope", ()))))
        access = [self._granted(user, scope) for scope in query.get("scope", ())]
        return Answer(200, json.dumps({"token": self._token(user, access)}).encode())

    def _granted(self, user: str, scope: str) -> dict[str, object]:
        kind, name, actions = scope.split(":")
        mine = user and name.startswith(f"{user}/")
        granted = [item for item in actions.split(",") if mine or item == "pull"]
        return {"type": kind, "name": name, "actions": granted}

    def _token(self, user: str, access: list[dict[str, object]]) -> str:
        pem = (self._certificates.folder / "server.pem").read_text()
        der = "".join(pem.partition("-----BEGIN CERTIFICATE-----")[2].splitlines()[:-1])
        now = int(time.time())
        claims = {"iss": "tester", "sub": user, "aud": "registry", "access": access}
        claims |= {"exp": now + 60, "nbf": now - 60, "iat": now, "jti": "1"}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = ".".join(_coded(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{_coded(self._certificates.sign(signed.encode()))}"


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_tokens_open_what_their_user_may_do(
    pybuild: Pybuild, certificates: Certificates, tmp_path: Path
) -> None:
    tokens = Tokens(certificates)
    folder = tmp_path / "registry"
    folder.mkdir()
    pybuild.environment["DOCKER_CONFIG"] = os.fspath(tmp_path / "docker")
    with ScriptedServer(tokens) as server:
        token = {"realm": f"{server.url}/token", "service": "registry", "issuer": "tester"}
        token["rootcertbundle"] = certificates.path("ca.pem")
        with real_registry(folder, auth={"token": token}) as registry:
            own, other = (f"{registry.host}/{name}:1" for name in ("anna/app", "bert/app"))
            imported(pybuild, own)
            pybuild("tag", own, other)
            denied = "requested access to the resource is denied"
            assert denied in pybuild("push", own, status=1).stderr

            login = ("login", "-u", "anna", "--password-stdin", registry.host)
            failed = pybuild(*login, stdin=b"wrong\n", status=1)
            assert "incorrect username or password" in failed.stderr
            pybuild(*login, stdin=b"secret\n")
            pybuild("push", own)
            assert denied in pybuild("push", other, status=1).stderr
            pybuild("tag", own, f"{registry.host}/anna/copy:1")
            pybuild("rmi", own)
            pybuild("logout", registry.host)
            assert "Digest: sha256:" in pybuild("pull", own).stdout
    users = {user for user, _ in tokens.asked}
    assert users == {"", "anna"}
    assert ("anna", ("repository:anna/app:pull,push",)) in tokens.asked


# ------------------------------------------------------------------ proxies
def test_a_proxy_stands_between_and_gets_its_own_credentials(pybuild: Pybuild) -> None:
    serve = serve_image(fake_image())
    words: list[str] = []

    def proxy(asked: Asked) -> Answer:
        assert asked.path.startswith("http://registry.example:5000/v2/")
        words.append(asked.headers.get("proxy-authorization", ""))
        return serve(replace(asked, path=asked.path.removeprefix("http://registry.example:5000")))

    settings(pybuild, '[registry."registry.example:5000"]\nhttp = true\n')
    name = "registry.example:5000/app:1"
    with ScriptedServer(proxy) as server:
        pybuild.environment["HTTP_PROXY"] = f"http://us%40er:p%3Aw@{server.host}"
        pybuild("pull", name)
        host = server.host
    assert {base64.b64decode(text.removeprefix("Basic ")) for text in words} == {b"us@er:p:w"}
    failed = pybuild("pull", "--platform", "linux/s390x", "registry.example:5000/b", status=1)
    assert f"registry.example:5000 through the proxy {host}: connection refused" in failed.stderr
    assert "p%3Aw" not in failed.stderr


class Tunnel(socketserver.StreamRequestHandler):
    """CONNECT, and then bytes in both directions."""

    def handle(self) -> None:
        asked = self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        assert isinstance(self.server, TunnelServer)
        self.server.asked.append(asked)
        place = ("127.0.0.1", int(asked.split()[1].rpartition(b":")[2]))
        with socket.create_connection(place) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(there, self.connection))
            back.start()
            _pump(self.connection, there)
            back.join()


class TunnelServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tunnel)
        self.asked: list[bytes] = []


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_https_goes_through_the_tunnel_of_a_proxy(
    pybuild: Pybuild, guarded: RealRegistry, certificates: Certificates
) -> None:
    name = f"127.1:{guarded.port}/app:1"
    imported(pybuild, name)
    authority = f'ca = ["{certificates.path("ca.pem")}"]\nkeypair = [{certificates.pair}]\n'
    settings(pybuild, f'[registry."127.1:{guarded.port}"]\n{authority}')
    with TunnelServer() as proxy:
        serving = threading.Thread(target=proxy.serve_forever, args=(0.02,))
        serving.start()
        pybuild.environment["HTTPS_PROXY"] = f"http://127.0.0.1:{proxy.server_address[1]}"
        pybuild("push", name)
        proxy.shutdown()
        serving.join()
    assert proxy.asked[0].startswith(f"CONNECT 127.1:{guarded.port} ".encode())
