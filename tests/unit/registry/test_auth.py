"""Challenges, tokens, credential files and helpers."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from buildkit_py.errors import AuthenticationRequired, PybuildError, RegistryError, UsageError
from buildkit_py.oci.reference import parse_reference
from buildkit_py.registry.auth import parse_challenges
from buildkit_py.registry.client import RegistryClient
from buildkit_py.registry.config import RegistryConfig, parse_config, read_config
from buildkit_py.registry.credentials import Credential, CredentialStore
from buildkit_py.registry.proxies import proxy_for
from buildkit_py.registry.transport import Request
from tests.registries import Answer, Asked, ScriptedServer, fake_image, new_client, serve_image

BASIC = "Basic " + base64.b64encode(b"tester:secret").decode()


def client_for(environment: dict[str, str]) -> RegistryClient:
    return new_client(environment, RegistryConfig(retries=0))


def docker_config(tmp_path: Path, content: dict[str, object]) -> dict[str, str]:
    (tmp_path / "config.json").write_text(json.dumps(content))
    return {"DOCKER_CONFIG": os.fspath(tmp_path), "HOME": os.fspath(tmp_path), "PATH": "/bin"}


class TokenRegistry:
    """A registry that wants a bearer token, and the server that gives it."""

    def __init__(self, *, anonymous: bool = True) -> None:
        self.anonymous = anonymous
        self.asked: list[Asked] = []
        self.inner = serve_image(fake_image())

    def __call__(self, asked: Asked) -> Answer:
        host = asked.headers["host"]
        if asked.path.startswith("/token"):
            self.asked.append(asked)
            allowed = self.anonymous or asked.headers.get("authorization") == BASIC
            allowed = allowed or b"refresh_token=idtoken" in asked.body
            if not allowed:
                return Answer(401)
            return Answer(200, json.dumps({"token": "tok", "expires_in": 300}).encode())
        if asked.headers.get("authorization") != "Bearer tok":
            challenge = (
                f'Bearer realm="http://{host}/token",service="here",scope="repository:x:pull"'
            )
            return Answer(401, headers={"WWW-Authenticate": challenge})
        return self.inner(asked)


def test_anonymous_token_is_asked_for_and_kept() -> None:
    registry = TokenRegistry()
    with ScriptedServer(registry) as server:
        client = client_for({})
        for _ in range(3):
            client.manifest(parse_reference(f"{server.host}/team/app:1"))
    assert len(registry.asked) == 1
    query = parse_qs(urlsplit(registry.asked[0].path).query)
    assert query == {"service": ["here"], "scope": ["repository:team/app:pull"]}
    assert "authorization" not in registry.asked[0].headers


def test_token_is_asked_for_with_the_credentials_of_dockers_config(tmp_path: Path) -> None:
    registry = TokenRegistry(anonymous=False)
    with ScriptedServer(registry) as server:
        auth = {"auth": base64.b64encode(b"tester:secret").decode()}
        environment = docker_config(tmp_path, {"auths": {server.host: auth}})
        client_for(environment).manifest(parse_reference(f"{server.host}/team/app:1"))


def test_identity_token_is_exchanged(tmp_path: Path) -> None:
    registry = TokenRegistry(anonymous=False)
    with ScriptedServer(registry) as server:
        entry = {"auth": "", "identitytoken": "idtoken"}
        environment = docker_config(tmp_path, {"auths": {server.host: entry}})
        client_for(environment).manifest(parse_reference(f"{server.host}/team/app:1"))
    assert registry.asked[0].method == "POST"


def test_refused_credentials_are_one_clear_error() -> None:
    with (
        ScriptedServer(TokenRegistry(anonymous=False)) as server,
        pytest.raises(AuthenticationRequired, match="wants a login") as caught,
    ):
        client_for({}).manifest(parse_reference(f"{server.host}/team/app:1"))
    assert caught.value.hint == f"pybuild login {server.host}"


def test_basic_authentication_is_answered(tmp_path: Path) -> None:
    inner = serve_image(fake_image())

    def guarded(asked: Asked) -> Answer:
        if asked.headers.get("authorization") == BASIC:
            return inner(asked)
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    with ScriptedServer(guarded) as server:
        entry = {"username": "tester", "password": "secret"}
        environment = docker_config(tmp_path, {"auths": {f"https://{server.host}/v2/": entry}})
        client_for(environment).manifest(parse_reference(f"{server.host}/team/app:1"))


def test_authorization_is_not_shown_to_another_host() -> None:
    with ScriptedServer(lambda asked: Answer(200, b"x")) as other:

        def redirect(asked: Asked) -> Answer:
            return Answer(307, headers={"Location": f"{other.url}/blob"})

        with ScriptedServer(redirect) as server:
            request = Request(method="GET", url=server.url, headers={"Authorization": "secret"})
            new_client().transport.request(request).close()
        assert "authorization" not in other.asked[0].headers


@pytest.mark.parametrize(
    "answer",
    [b"no json", b"[]", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}'],
)
def test_malformed_token_answer_is_refused(answer: bytes) -> None:
    def script(asked: Asked) -> Answer:
        if asked.path.startswith("/token"):
            return Answer(200, answer)
        realm = f'Bearer realm="http://{asked.headers["host"]}/token"'
        return Answer(401, headers={"WWW-Authenticate": realm})

    with ScriptedServer(script) as server, pytest.raises(RegistryError, match="token server"):
        client_for({}).manifest(parse_reference(f"{server.host}/team/app:1"))


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "", "//x", "ftp://x/"])
def test_realm_off_the_web_is_refused(realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    with (
        ScriptedServer(lambda asked: Answer(401, headers=challenge)) as server,
        pytest.raises(PybuildError),
    ):
        client_for({}).manifest(parse_reference(f"{server.host}/team/app:1"))


def test_challenge_with_quotes_and_commas_is_decoded() -> None:
    header = (
        'Bearer realm="https://a/t",service="s",scope="repository:a:pull,push", Basic realm="b"'
    )
    bearer, basic = parse_challenges(header)
    assert (bearer.realm, bearer.scope) == ("https://a/t", "repository:a:pull,push")
    assert (basic.scheme, basic.realm) == ("basic", "b")


# ------------------------------------------------------------------ credentials
def helper(tmp_path: Path, script: str) -> dict[str, str]:
    program = tmp_path / "bin" / "docker-credential-fake"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:/usr/bin:/bin"}


def test_credential_helper_is_asked_for_its_registry(tmp_path: Path) -> None:
    found = helper(
        tmp_path, 'read server; echo "{\\"Username\\":\\"u-$server\\",\\"Secret\\":\\"s\\"}"'
    )
    environment = docker_config(tmp_path, {"credHelpers": {"reg.example": "fake"}}) | found
    store = CredentialStore(environment)
    assert store.find("reg.example") == Credential(username="u-reg.example", password="s")
    assert store.find("other.example") is None


def test_a_helper_keeps_what_a_login_gives_and_a_logout_takes(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    script = f"""case $1 in
store) cat >{kept} ;;
get) cat {kept} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;
erase) rm -f {kept} ;;
esac"""
    environment = docker_config(tmp_path, {"credsStore": "fake"}) | helper(tmp_path, script)
    store = CredentialStore(environment)
    credential = Credential(username="me", password="secret")
    store.save("reg.example", credential)
    assert store.find("reg.example") == credential
    assert "secret" not in Path(store.docker_config).read_text()
    assert store.forget("reg.example")
    assert not kept.exists()
    assert not store.forget("reg.example")


def test_unknown_helper_is_one_clear_error(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, {"credsStore": "missing"})
    with pytest.raises(RegistryError, match="docker-credential-missing"):
        CredentialStore(environment).find("reg.example")


def test_helper_name_cannot_be_a_path(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, {"credsStore": "../../evil"})
    with pytest.raises(UsageError, match="invalid credential helper"):
        CredentialStore(environment).find("reg.example")


def test_podmans_file_knows_repositories(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    auths = {
        "reg.example": {"auth": base64.b64encode(b"all:x").decode()},
        "reg.example/team": {"auth": base64.b64encode(b"team:x").decode()},
    }
    path.write_text(json.dumps({"auths": auths}))
    environment = {"REGISTRY_AUTH_FILE": os.fspath(path), "HOME": os.fspath(tmp_path)}
    store = CredentialStore(environment)
    assert store.find("reg.example", "team/app") == Credential(username="team", password="x")
    assert store.find("reg.example", "other/app") == Credential(username="all", password="x")


def test_hub_is_found_under_its_old_name(tmp_path: Path) -> None:
    entry = {"auth": base64.b64encode(b"me:x").decode()}
    environment = docker_config(tmp_path, {"auths": {"https://index.docker.io/v1/": entry}})
    assert CredentialStore(environment).find("docker.io") == Credential(
        username="me", password="x"
    )


def test_login_keeps_everything_else_in_the_file(tmp_path: Path) -> None:
    environment = docker_config(tmp_path, {"psFormat": "x", "auths": {"a.example": {}}})
    store = CredentialStore(environment)
    store.save("b.example", Credential(username="u", password="p:q"))
    assert store.find("b.example") == Credential(username="u", password="p:q")
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["psFormat"] == "x"
    assert set(raw["auths"]) == {"a.example", "b.example"}
    assert store.forget("b.example")
    assert not store.forget("b.example")


def test_credential_is_never_shown() -> None:
    assert "hunter2" not in repr(Credential(username="u", password="hunter2", identity_token="x"))


# ------------------------------------------------------------------ configuration
def test_configuration_is_read_from_the_users_file(tmp_path: Path) -> None:
    path = tmp_path / "pybuild.toml"
    path.write_text('[registry."docker.io"]\nmirrors = ["m.example"]\n[transfer]\nparallel = 9\n')
    config = read_config({"PYBUILD_CONFIG": os.fspath(path)})
    assert (config.host("docker.io").mirrors, config.parallel) == (("m.example",), 9)


@pytest.mark.parametrize(
    "text",
    [
        "registry = 3",
        '[registry."x"]\nmirrors = "m"',
        '[registry."x"]\nunknown = 1',
        '[registry."x"]\nhttp = "yes"',
        '[registry."x"]\nkeypair = [{ cert = "c" }]',
        "[transfer]\nparallel = 0",
        "not toml",
    ],
)
def test_malformed_configuration_names_its_file(text: str) -> None:
    with pytest.raises(UsageError, match=r"^pybuild\.toml: "):
        parse_config(text, "pybuild.toml")


def test_certificates_are_found_as_docker_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "reg.example:5000"
    folder.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "lonely.cert"):
        (folder / name).touch()
    config = replace(RegistryConfig(), certificate_directories=(os.fspath(tmp_path),))
    host = config.host("reg.example:5000")
    assert [os.path.basename(path) for path in host.ca] == ["ca.crt"]
    assert [os.path.basename(pair.key) for pair in host.keypairs] == ["client.key"]


@pytest.mark.parametrize(
    "name", ["localhost", "localhost:5000", "127.0.0.1:5", "[::1]:5", "a.localhost"]
)
def test_loopback_may_speak_plain_http(name: str) -> None:
    assert RegistryConfig().host(name).insecure


@pytest.mark.parametrize("name", ["docker.io", "10.0.0.1:5000", "localhost.example"])
def test_other_hosts_may_not(name: str) -> None:
    assert not RegistryConfig().host(name).insecure


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://reg.example/v2/", "http://proxy:3128"),
        ("http://reg.example/v2/", None),
        ("https://internal.corp/", None),
        ("https://a.internal.corp/", None),
        ("https://notinternal.corp/", "http://proxy:3128"),
        ("https://10.1.2.3/", None),
        ("https://localhost:5000/", None),
        ("https://special.example:8443/", None),
        ("https://special.example/", "http://proxy:3128"),
    ],
)
def test_proxies_follow_the_environment(url: str, expected: str | None) -> None:
    environment = {
        "HTTPS_PROXY": "proxy:3128",
        "no_proxy": "internal.corp, 10.0.0.0/8,special.example:8443",
    }
    assert proxy_for(url, environment) == expected
