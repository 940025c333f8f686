"""A cache service of GitHub Actions for tests: both protocols, Azure's block blobs, the REST list.

It is strict: what the documented interfaces refuse is refused, and every refusal is kept in
`refused`, so that a test can say that none came.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.registries import Answer, Asked, ScriptedServer

_V1 = "/account/_apis/artifactcache/"
_V2 = "/twirp/github.actions.results.api.v1.CacheService/"
_REST = "/api/repos/someone/project/actions/caches"
_VERSION = re.compile(r"[0-9a-f]{64}")
GITHUB_TOKEN = "ghs_list"


def workflow_token(*branches: tuple[str, int], expires: float = 4e9) -> str:
    """What a runner gives to its steps: branches with 1 for reading, 2 for writing."""
    scopes = [{"Scope": name, "Permission": permission} for name, permission in branches]
    claims = {"ac": json.dumps(scopes), "nbf": 1, "exp": expires}
    parts = [{"alg": "RS256", "typ": "JWT"}, claims]
    coded = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in parts]
    return b".".join([*coded, b"c2lnbmF0dXJl"]).decode()


class Refusal(Exception):
    """What the service does not take."""

    def __init__(self, status: int, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.kind = status, text, kind


@dataclass(slots=True)
class Stored:
    """An entry: reserved, then filled, then committed."""

    key: str
    version: str
    branch: str
    number: int
    parts: dict[str, bytes] = field(default_factory=dict)
    data: bytes | None = None
    uploaded: bytes | None = None


class ActionsService:
    """The script of a `ScriptedServer`."""

    def __init__(self) -> None:
        self.entries: list[Stored] = []
        self.refused: list[str] = []
        self.uploads: list[str] = []
        self.busy = 0
        self._lock = threading.Lock()
        self.server = ScriptedServer(self.answer)

    # ---------------------------------------------------------------- what tests ask
    @property
    def v1(self) -> str:
        return f"{self.server.url}/account/"

    @property
    def v2(self) -> str:
        return f"{self.server.url}/"

    @property
    def api(self) -> str:
        return f"{self.server.url}/api"

    def committed(self) -> set[str]:
        return {entry.key for entry in self.entries if entry.data is not None}

    def drop(self, prefix: str) -> None:
        """Evict entries, as the service does when there are too many."""
        self.entries = [entry for entry in self.entries if not entry.key.startswith(prefix)]

    # ---------------------------------------------------------------- serving
    def answer(self, asked: Asked) -> Answer:
        with self._lock:
            try:
                if self.busy:
                    self.busy -= 1
                    return Answer(429, b"{}", {"Retry-After": "0"})
                return self._route(asked)
            except Refusal as error:
                self.refused.append(f"{asked.method} {asked.path}: {error.text}")
                body = {"message": error.text, "typeKey": error.kind, "code": error.kind}
                if asked.path.startswith(_V2):
                    body = {"code": error.kind, "msg": error.text}
                return Answer(error.status, json.dumps(body).encode())

    def _route(self, asked: Asked) -> Answer:
        path = urlsplit(asked.path).path
        query = {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}
        if path.startswith("/signed/"):
            return self._blob(asked, int(path.rpartition("/")[2]), query)
        if path == _REST:
            return self._list(asked, query)
        branches = _branches(asked)
        if path.startswith(_V2):
            _insist(asked.method == "POST", "POST is wanted")
            _insist(asked.headers.get("content-type") == "application/json", "JSON is wanted")
            call: dict[str, Callable[..., Answer]] = {
                "CreateCacheEntry": self._create,
                "FinalizeCacheEntryUpload": self._finalize,
                "GetCacheEntryDownloadURL": self._get,
            }
            return call[path.removeprefix(_V2)](json.loads(asked.body), branches)
        _insist(path.startswith(_V1), "no such place")
        _insist("api-version=6.0-preview.1" in asked.headers.get("accept", ""), "which version?")
        return self._first(asked, path.removeprefix(_V1), query, branches)

    # ---------------------------------------------------------------- version 1
    def _first(
        self, asked: Asked, name: str, query: dict[str, str], branches: dict[str, int]
    ) -> Answer:
        if (asked.method, name) == ("GET", "cache"):
            keys = query["keys"].split(",")
            found = self._find(keys[0], keys[1:], query["version"], branches)
            if found is None:
                return Answer(204)
            where = f"{self.server.url}/signed/{found.number}?sig=read"
            return _json({"cacheKey": found.key, "scope": found.branch, "archiveLocation": where})
        _insist(asked.method in {"POST", "PATCH"}, "no such method")
        if name == "caches":
            body = json.loads(asked.body)
            return _json({"cacheId": self._reserve(body, branches).number}, 201)
        entry = self._entry(int(name.removeprefix("caches/")))
        if asked.method == "PATCH":
            _insist(asked.headers["content-type"] == "application/octet-stream", "bytes wanted")
            form = re.fullmatch(r"bytes (\d+)-(\d+)/\*", asked.headers["content-range"])
            _insist(form is not None, "no range")
            assert form is not None
            _insist(int(form[2]) - int(form[1]) + 1 == len(asked.body), "range unlike body")
            entry.parts[f"{int(form[1]):020}"] = asked.body
            return Answer(204)
        whole = b"".join(entry.parts[start] for start in sorted(entry.parts))
        self._commit(entry, whole, json.loads(asked.body)["size"])
        return Answer(204)

    # ---------------------------------------------------------------- version 2
    def _create(self, body: dict[str, Any], branches: dict[str, int]) -> Answer:
        entry = self._reserve(body, branches)
        url = f"{self.server.url}/signed/{entry.number}?sig=write&se=2030"
        return _json({"ok": True, "signed_upload_url": url})

    def _finalize(self, body: dict[str, Any], branches: dict[str, int]) -> Answer:
        _insist(set(body) == {"key", "version", "size_bytes"}, "unknown fields")
        branch = next(name for name, permission in branches.items() if permission & 2)
        found = [
            entry
            for entry in self.entries
            if (entry.key, entry.version, entry.branch) == (body["key"], body["version"], branch)
        ]
        _insist(bool(found) and found[0].uploaded is not None, "nothing was uploaded")
        self._commit(found[0], found[0].uploaded or b"", body["size_bytes"])
        return _json({"ok": True, "entry_id": str(found[0].number)})

    def _get(self, body: dict[str, Any], branches: dict[str, int]) -> Answer:
        _insist(set(body) == {"key", "version", "restore_keys"}, "unknown fields")
        found = self._find(body["key"], body["restore_keys"], body["version"], branches)
        if found is None:
            return _json({"ok": False, "signed_download_url": "", "matched_key": ""})
        url = f"{self.server.url}/signed/{found.number}?sig=read"
        return _json({"ok": True, "signed_download_url": url, "matched_key": found.key})

    # ---------------------------------------------------------------- entries
    def _find(
        self, key: str, prefixes: list[str], version: str, branches: dict[str, int]
    ) -> Stored | None:
        known = [e for e in self.entries if e.data is not None and e.version == version]
        for branch in branches:
            own = [entry for entry in reversed(known) if entry.branch == branch]
            exact = [entry for entry in own if entry.key == key]
            near = [entry for entry in own if entry.key.startswith(tuple(prefixes))]
            if exact or near:
                return (exact or near)[0]
        return None

    def _reserve(self, body: dict[str, Any], branches: dict[str, int]) -> Stored:
        _insist(set(body) <= {"key", "version", "cacheSize", "metadata"}, "unknown fields")
        key, version = body["key"], body["version"]
        _insist(len(key) <= 512 and "," not in key, "malformed key")
        _insist(_VERSION.fullmatch(version) is not None, "malformed version")
        branch = next((name for name, permission in branches.items() if permission & 2), None)
        if branch is None:
            raise Refusal(403, "this token may not write", "permission_denied")
        if any((e.key, e.version, e.branch) == (key, version, branch) for e in self.entries):
            raise Refusal(409, "Cache already exists", "already_exists")
        entry = Stored(key=key, version=version, branch=branch, number=len(self.entries) + 100)
        self.entries.append(entry)
        return entry

    def _entry(self, number: int) -> Stored:
        return next(entry for entry in self.entries if entry.number == number)

    def _commit(self, entry: Stored, data: bytes, size: object) -> None:
        _insist(size == len(data), "committed size is not what was uploaded")
        _insist(entry.data is None, "committed twice")
        entry.data = data
        self.uploads.append(entry.key)

    # ---------------------------------------------------------------- signed addresses
    def _blob(self, asked: Asked, number: int, query: dict[str, str]) -> Answer:
        _insist("authorization" not in asked.headers, "a token was shown to the storage")
        entry = self._entry(number)
        if asked.method == "GET":
            _insist(query.get("sig") == "read", "signature does not match")
            _insist(entry.data is not None, "no such blob")
            return Answer(200, entry.data or b"")
        _insist(asked.method == "PUT" and query.get("sig") == "write", "signature does not match")
        _insist("x-ms-version" in asked.headers, "no x-ms-version")
        if query.get("comp") == "block":
            entry.parts[query["blockid"]] = asked.body
            _insist(len({len(name) for name in entry.parts}) == 1, "block ids differ in length")
        elif query.get("comp") == "blocklist":
            names = re.findall(r"<Latest>([^<]*)</Latest>", asked.body.decode())
            entry.uploaded = b"".join(entry.parts[name] for name in names)
        else:
            _insist(asked.headers.get("x-ms-blob-type") == "BlockBlob", "which type of blob?")
            entry.uploaded = asked.body
        return Answer(201)

    def _list(self, asked: Asked, query: dict[str, str]) -> Answer:
        _insist(asked.headers.get("authorization") == f"Bearer {GITHUB_TOKEN}", "who are you?")
        found = [e for e in self.entries if e.data and e.key.startswith(query["key"])]
        size, page = int(query["per_page"]), int(query["page"])
        part = found[(page - 1) * size : page * size]
        caches = [{"id": e.number, "ref": e.branch, "key": e.key} for e in part]
        return _json({"total_count": len(found), "actions_caches": caches})


def _branches(asked: Asked) -> dict[str, int]:
    kind, _, token = asked.headers.get("authorization", "").partition(" ")
    if kind != "Bearer" or token.count(".") != 2:
        raise Refusal(401, "who are you?", "unauthenticated")
    claims = token.split(".")[1]
    data = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    return {item["Scope"]: item["Permission"] for item in json.loads(data["ac"])}


def _json(value: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _insist(right: bool, text: str) -> None:
    if not right:
        raise Refusal(400, text, "invalid_argument")
