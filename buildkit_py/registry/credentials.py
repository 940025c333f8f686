"""Credentials: docker's `config.json`, podman's `auth.json`, `docker-credential-*` helpers.

Files are looked through in this order: `$REGISTRY_AUTH_FILE`, `$DOCKER_AUTH_CONFIG` (JSON text),
docker's config, podman's files. `login` writes to docker's config, or hands over to its helper.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildkit_py.errors import RegistryError, UsageError

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_HELPER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_HELPER_TIMEOUT = 30.0
_MAX_FILE = 4 << 20
_TOKEN_USER = "<token>"  # noqa: S105  (helpers mark an identity token by this user name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A user and password, or an identity token (OAuth2 refresh token). Never shown."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class CredentialStore:
    """The credentials of one user, as `environment` points to them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    @property
    def docker_config(self) -> str:
        """The file that `login` changes."""
        folder = self._environment.get("DOCKER_CONFIG") or os.path.join(self._home, ".docker")
        return os.path.join(folder, "config.json")

    def find(self, domain: str, path: str = "") -> Credential | None:
        """The credential for a registry, or for one of its repositories (podman's form)."""
        for raw in self._documents():
            helper = _helper_of(raw, domain)
            if helper:
                found = self._from_helper(helper, domain)
                if found is not None:
                    return found
            found = _from_auths(raw.get("auths"), domain, path)
            if found is not None:
                return found
        return None

    def save(self, domain: str, credential: Credential) -> str:
        """Remember a credential. Says where: a file's path or a helper's name."""
        raw = _read_json(self.docker_config) or {}
        key, helper = _auth_key(domain), _helper_of(raw, domain)
        if helper:
            user, secret = credential.username, credential.password
            if credential.identity_token:
                user, secret = _TOKEN_USER, credential.identity_token
            entry = {"ServerURL": key, "Username": user, "Secret": secret}
            self._run_helper(helper, "store", json.dumps(entry))
            raw.setdefault("auths", {})[key] = {}
            self._write(raw)
            return helper
        text = f"{credential.username}:{credential.password}"
        stored = {"auth": base64.b64encode(text.encode()).decode()}
        if credential.identity_token:
            stored["identitytoken"] = credential.identity_token
        auths = raw.setdefault("auths", {})
        if not isinstance(auths, dict):
            raise UsageError(f"{self.docker_config}: auths is not an object")
        auths[key] = stored
        self._write(raw)
        return self.docker_config

    def forget(self, domain: str) -> bool:
        """Remove what `save` wrote. False when there was nothing."""
        raw = _read_json(self.docker_config) or {}
        helper, found = _helper_of(raw, domain), False
        if helper:  # many erase what they do not have without a word
            found = self._from_helper(helper, domain) is not None
            self._run_helper(helper, "erase", _auth_key(domain))
        auths = raw.get("auths")
        for key in list(auths) if isinstance(auths, dict) else []:
            if _names(key, domain):
                del raw["auths"][key]
                found = True
        if found:
            self._write(raw)
        return found

    @property
    def _home(self) -> str:
        return self._environment.get("HOME") or "/root"

    def _documents(self) -> Iterator[dict[str, Any]]:
        env = self._environment
        paths = [env["REGISTRY_AUTH_FILE"]] if env.get("REGISTRY_AUTH_FILE") else []
        if env.get("DOCKER_AUTH_CONFIG"):
            yield _decode(env["DOCKER_AUTH_CONFIG"], "DOCKER_AUTH_CONFIG")
        paths.append(self.docker_config)
        if env.get("XDG_RUNTIME_DIR"):
            paths.append(os.path.join(env["XDG_RUNTIME_DIR"], "containers", "auth.json"))
        config = env.get("XDG_CONFIG_HOME") or os.path.join(self._home, ".config")
        paths.append(os.path.join(config, "containers", "auth.json"))
        for path in paths:
            raw = _read_json(path)
            if raw is not None:
                yield raw

    def _from_helper(self, helper: str, domain: str) -> Credential | None:
        answer = self._run_helper(helper, "get", _auth_key(domain))
        if not answer:
            return None
        raw = _decode(answer, f"docker-credential-{helper}")
        user, secret = str(raw.get("Username") or ""), str(raw.get("Secret") or "")
        if user == _TOKEN_USER:
            return Credential(identity_token=secret)
        return Credential(username=user, password=secret) if user else None

    def _run_helper(self, helper: str, verb: str, text: str) -> str | None:
        """The helper's answer, or None when it knows nothing of the registry."""
        program = f"docker-credential-{helper}"
        try:
            done = subprocess.run(
                [program, verb],
                input=text,
                capture_output=True,
                text=True,
                timeout=_HELPER_TIMEOUT,
                check=False,
                env=self._environment,
            )
        except subprocess.TimeoutExpired as error:
            raise RegistryError(f"{program} {verb} does not answer") from error
        except OSError as error:
            raise RegistryError(
                f"cannot run the credential helper {program}: {error.strerror}",
                hint=f"install it, or remove it from {self.docker_config}",
            ) from error
        if done.returncode == 0:
            return done.stdout
        said = (done.stdout + done.stderr).strip()
        if verb != "store" and "not found" in said:
            return None
        raise RegistryError(f"{program} {verb} failed: {said.splitlines()[-1] if said else '?'}")

    def _write(self, raw: Mapping[str, Any]) -> None:
        path = self.docker_config
        folder = os.path.dirname(path)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".config-", dir=folder)  # mode 0600
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(raw, stream, indent="\t")
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(os.path.realpath(path))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _read_json(path: str) -> dict[str, Any] | None:
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_MAX_FILE)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    return _decode(text, path) if text.strip() else {}


def _decode(text: str, name: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not valid JSON") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{name} is not a JSON object")
    return raw


def _auth_key(domain: str) -> str:
    return _HUB_KEY if domain in _HUB_NAMES else domain


def _names(key: str, domain: str) -> bool:
    """Whether a key of `auths` means this registry."""
    host = key.partition("://")[2] if "://" in key else key
    host = host.partition("/")[0]
    return host in _HUB_NAMES if domain in _HUB_NAMES else host == domain


def _helper_of(raw: Mapping[str, Any], domain: str) -> str:
    helpers = raw.get("credHelpers")
    name = ""
    if isinstance(helpers, dict):
        name = next((str(v) for k, v in helpers.items() if _names(str(k), domain)), "")
    name = name or str(raw.get("credsStore") or "")
    if name and not _HELPER_NAME.match(name):
        raise UsageError(f"invalid credential helper name {name!r}")
    return name


def _from_auths(auths: Any, domain: str, path: str) -> Credential | None:
    if not isinstance(auths, dict):
        return None
    scoped = f"{domain}/{path}"
    while "/" in scoped:  # the most specific of podman's `host/namespace/repository` keys
        found = _credential(auths.get(scoped))
        if found is not None:
            return found
        scoped = scoped.rpartition("/")[0]
    matching = (entry for key, entry in auths.items() if _names_registry(str(key), domain))
    return next((found for found in map(_credential, matching) if found is not None), None)


def _names_registry(key: str, domain: str) -> bool:
    rest = key.partition("://")[2] if "://" in key else key
    path = rest.partition("/")[2].strip("/")
    return path in {"", "v1", "v2"} and _names(key, domain)


def _credential(entry: Any) -> Credential | None:
    if not isinstance(entry, dict):
        return None
    token = str(entry.get("identitytoken") or "")
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            text = base64.b64decode(str(entry["auth"]), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return None
        user, _, password = text.partition(":")
        password = password.rstrip("\0")
    if token:
        return Credential(identity_token=token)
    return Credential(username=user, password=password) if user else None
