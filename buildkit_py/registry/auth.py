"""Authentication: challenges of `WWW-Authenticate`, and the tokens that answer them.

A registry is first asked without credentials, or with the token that its last challenge led to.
What it then demands is remembered for the host: `Basic`, or `Bearer` with a realm, a service and
scopes (distribution-spec, docker's token authentication).
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from buildkit_py.errors import AuthenticationRequired, RegistryError
from buildkit_py.registry.credentials import Credential, CredentialStore
from buildkit_py.registry.transport import Request, Response, Transport

_ANSWER_LIMIT = 1 << 20
_DEFAULT_LIFE = 60.0  # seconds, where a token does not say
_MARGIN = 10.0
_MAX_TOKENS = 256
_PARAMETER = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?=\s+[A-Za-z0-9_-]+\s*=|\s*(?:,|$))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One scheme of a `WWW-Authenticate` header."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Decode a header, schemes in lower case, in the server's order."""
    starts = [(match.start(1), match.group(1)) for match in _SCHEME.finditer(header)]
    out = []
    for number, (start, scheme) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(header)
        found = {
            match.group(1).lower(): re.sub(r"\\(.)", r"\1", match.group(2) or "")
            or match.group(3)
            or ""
            for match in _PARAMETER.finditer(header[start + len(scheme) : end])
        }
        out.append(
            Challenge(
                scheme=scheme.lower(),
                **{k: v for k, v in found.items() if k in {"realm", "service", "scope", "error"}},
            )
        )
    return tuple(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    value: str
    until: float


class Authenticator:
    """Gives the `Authorization` header for requests to registries. Thread-safe."""

    def __init__(
        self,
        transport: Transport,
        credentials: CredentialStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from cachetools import TTLCache  # noqa: PLC0415  (kept off the start-up path)

        self._transport = transport
        self._credentials = credentials
        self._clock = clock
        self._given: dict[str, Credential] = {}
        self._known: dict[str, Credential | None] = {}
        self._challenges: dict[str, Challenge] = {}
        # a token's own life is shorter than the cache's; the cache bounds the number
        self._tokens: TTLCache[tuple[str, str, str], _Token] = TTLCache(
            maxsize=_MAX_TOKENS, ttl=3600, timer=clock
        )
        # parallel blob requests share tokens; one asks for it, the others wait
        self._lock = threading.Lock()

    def use(self, domain: str, credential: Credential) -> None:
        """Take this credential for a registry, whatever the files say (`login`)."""
        self._given[domain] = credential

    def header(self, base: str, domain: str, scopes: Sequence[str]) -> str | None:
        """The header for a request to the host `base`, when its challenge is known already."""
        challenge = self._challenges.get(base)
        if challenge is None:
            return None
        return self._answer(challenge, base, domain, scopes)

    def challenged(
        self, response: Response, base: str, domain: str, scopes: Sequence[str]
    ) -> str | None:
        """The header that answers a 401, None when there is nothing (new) to answer."""
        offered = parse_challenges(response.headers.get("www-authenticate", ""))
        chosen = next((c for c in offered if c.scheme == "bearer" and c.realm), None)
        chosen = chosen or next((c for c in offered if c.scheme == "basic"), None)
        if chosen is None:
            return None
        self._challenges[base] = chosen
        wanted = list(scopes)
        wanted += [scope for scope in chosen.scope.split() if scope not in wanted]
        with self._lock:
            self._tokens.pop((base, chosen.service, " ".join(sorted(scopes))), None)
        return self._answer(chosen, base, domain, scopes or wanted)

    def credential(self, domain: str, path: str = "") -> Credential | None:
        """What is known for a registry (looked up once)."""
        if domain in self._given:
            return self._given[domain]
        key = f"{domain}/{path}"
        if key not in self._known:
            found = self._credentials.find(domain, path) if self._credentials else None
            self._known[key] = found
        return self._known[key]

    def _answer(
        self, challenge: Challenge, base: str, domain: str, scopes: Sequence[str]
    ) -> str | None:
        credential = self.credential(domain, _path_of(scopes))
        if challenge.scheme == "basic":
            return _basic(credential) if credential and credential.username else None
        key = (base, challenge.service, " ".join(sorted(scopes)))
        with self._lock:
            token = self._tokens.get(key)
            if token is None or token.until <= self._clock():
                token = self._fetch(challenge, base, domain, scopes, credential)
                self._tokens[key] = token
        return f"Bearer {token.value}"

    def _fetch(
        self,
        challenge: Challenge,
        base: str,
        domain: str,
        scopes: Sequence[str],
        credential: Credential | None,
    ) -> _Token:
        realm = urlsplit(challenge.realm)
        if realm.scheme not in {"http", "https"} or not realm.hostname:
            raise RegistryError(f"{domain} names no usable token server: {challenge.realm!r}")
        if base.startswith("https://") and realm.scheme == "http":
            raise RegistryError(f"{domain} wants credentials sent unencrypted to {realm.netloc}")
        with self._transport.request(_token_request(challenge, scopes, credential)) as response:
            body = response.read(_ANSWER_LIMIT)
        if response.status in {400, 401, 403}:
            raise AuthenticationRequired(
                f"{domain} refuses the credentials" if credential else f"{domain} wants a login",
                status=response.status,
                hint=f"pybuild login {domain}",
            )
        if response.status != 200:
            raise RegistryError(
                f"token server {realm.netloc} of {domain} answers {response.status}",
                status=response.status,
            )
        return self._decode(body, realm.netloc)

    def _decode(self, body: bytes, host: str) -> _Token:
        try:
            raw = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"token server {host} answers no JSON") from error
        value = (raw.get("token") or raw.get("access_token")) if isinstance(raw, dict) else None
        if not isinstance(value, str) or not value.isprintable():
            raise RegistryError(f"token server {host} gives no token")
        life = raw.get("expires_in")
        seconds = float(life) if isinstance(life, (int, float)) and life > 0 else _DEFAULT_LIFE
        # never less than a moment: a server whose clock is wrong must not make us ask for ever
        return _Token(value=value, until=self._clock() + max(seconds - _MARGIN, 5.0))


def _token_request(
    challenge: Challenge, scopes: Sequence[str], credential: Credential | None
) -> Request:
    fields: list[tuple[str, str]] = []
    if challenge.service:
        fields.append(("service", challenge.service))
    if credential is not None and credential.identity_token:
        fields += [
            ("scope", " ".join(scopes)),
            ("grant_type", "refresh_token"),
            ("refresh_token", credential.identity_token),
            ("client_id", "pybuild"),
        ]
        return Request(
            method="POST",
            url=challenge.realm,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=urlencode(fields).encode(),
        )
    fields += [("scope", scope) for scope in scopes]
    headers = {}
    if credential is not None:
        fields.append(("account", credential.username))
        headers["Authorization"] = _basic(credential)
    joint = "&" if "?" in challenge.realm else "?"
    url = challenge.realm + (joint + urlencode(fields) if fields else "")
    return Request(method="GET", url=url, headers=headers)


def _basic(credential: Credential) -> str:
    text = f"{credential.username}:{credential.password}"
    return "Basic " + base64.b64encode(text.encode()).decode()


def _path_of(scopes: Sequence[str]) -> str:
    first = scopes[0] if scopes else ""
    parts = first.split(":")
    return parts[1] if len(parts) == 3 and parts[0] == "repository" else ""
