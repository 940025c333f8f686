"""The cache service of GitHub Actions, by its two documented protocols.

Version 1 is REST below `_apis/artifactcache/`: look up, reserve, send ranges, commit. Version 2 is
Twirp (JSON over POST): an entry is created, its bytes go to a signed address as an Azure block
blob, and the upload is finalised. Entries never change; keys are looked up by prefix, the newest
entry first. The token goes to the service alone, never to a signed address.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

from buildkit_py.digest import sha256
from buildkit_py.errors import RegistryError

if TYPE_CHECKING:
    from buildkit_py.registry.transport import Body, Response, Transport

# Which entries may be taken for one's own; upstream clients derive it from the paths they pack.
_ENTRY_VERSION = sha256(b"|go-actionscache-1.0").partition(":")[2]
_SERVICE = "twirp/github.actions.results.api.v1.CacheService/"
_ACCEPT_V1 = "application/json;api-version=6.0-preview.1"
_AZURE_VERSION = "2021-12-02"
_PART = 32 << 20
_AT_A_TIME = 4
_PIECE = 1 << 20
_ANSWER_LIMIT = 1 << 16
_PAGE_LIMIT = 8 << 20
_MOST_PAGES = 100
_WAIT_FOR_OTHERS = 2.0
_LONGEST_WAIT = 15.0

OpenBlob = Callable[[], BinaryIO]


class AlreadyThere(RegistryError):
    """A key that has been reserved before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry that was found: its whole key, and where its bytes are."""

    key: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsCache:
    """One cache service. Every request ends before `deadline` (of `time.monotonic`)."""

    url: str
    version: int
    token: str = field(repr=False)
    transport: Transport = field(repr=False)
    deadline: float
    pause: Callable[[float], None] = time.sleep

    # -------------------------------------------------------------- look-up
    def load(self, prefix: str) -> Entry | None:
        """The newest entry whose key begins so. Raises RegistryError."""
        if self.version == 1:
            query = urlencode({"keys": f"{prefix},{prefix}", "version": _ENTRY_VERSION})
            with self._v1("GET", f"cache?{query}") as response:
                self._check(response, "look up")
                data = response.read(_ANSWER_LIMIT)
            found = _object(data) if data else {}
            key, url = found.get("cacheKey"), found.get("archiveLocation")
        else:
            asked = {"key": prefix, "restore_keys": [prefix], "version": _ENTRY_VERSION}
            found = self._v2("GetCacheEntryDownloadURL", asked)
            key, url = found.get("matched_key"), found.get("signed_download_url")
            if not found.get("ok"):
                return None
        if not key or not url:
            return None
        if not str(key).startswith(prefix):
            raise RegistryError(f"the cache service answers {key!r} for {prefix!r}")
        return Entry(key=str(key), url=str(url))

    def open(self, entry: Entry) -> Response:
        """The bytes of an entry. Raises RegistryError."""
        response = self._send("GET", entry.url)
        self._check(response, "download")
        return response

    # -------------------------------------------------------------- upload
    def save(self, key: str, open_blob: OpenBlob, size: int) -> None:
        """Write an entry. Raises AlreadyThere, RegistryError."""
        place = self._reserve(key)
        starts = range(0, size, _PART)
        parts = [(start, min(_PART, size - start)) for start in starts]

        def send(part: tuple[int, int]) -> None:
            start, length = part
            self._send_part(place, _body(open_blob, start, length), start, length, size)

        with ThreadPoolExecutor(max_workers=min(_AT_A_TIME, max(1, len(parts)))) as pool:
            for _ in pool.map(send, parts):
                pass
        if self.version == 2 and size > _PART:
            self._join_parts(place, len(parts))
        self._commit(key, place, size)

    def save_next(self, name: str, data: bytes) -> None:
        """Write `name#N`, one after the highest. Raises RegistryError.

        Who finds its number taken waits for the other to end; after a while (it may have been
        killed) the number is passed over.
        """
        from io import BytesIO  # noqa: PLC0415

        waited, after = 0.0, 0
        while True:
            number = max(after, self._number(name)) + 1
            try:
                self.save(f"{name}#{number}", lambda: BytesIO(data), len(data))
            except AlreadyThere:
                if waited >= _LONGEST_WAIT:
                    after = number
                    continue
                self.pause(_WAIT_FOR_OTHERS)
                waited += _WAIT_FOR_OTHERS
            else:
                return

    def _number(self, name: str) -> int:
        found = self.load(f"{name}#")
        digits = "0" if found is None else found.key.removeprefix(f"{name}#")
        if not digits.isdecimal() or len(digits) > 9:
            raise RegistryError(f"the cache service has an entry of no number: {name}#{digits}")
        return int(digits)

    def _reserve(self, key: str) -> str:
        """Where to send the bytes: an entry's number, or a signed address."""
        asked = {"key": key, "version": _ENTRY_VERSION}
        if self.version == 2:
            answer = self._v2("CreateCacheEntry", asked)
            url = answer.get("signed_upload_url")
            if not answer.get("ok") or not isinstance(url, str):
                raise AlreadyThere(f"the cache service refuses {key}")
            return url
        with self._v1("POST", "caches", asked) as response:
            self._check(response, "reserve")
            number = _object(response.read(_ANSWER_LIMIT)).get("cacheId")
        if not isinstance(number, int) or not number:
            raise RegistryError(f"the cache service reserves no number for {key}")
        return str(number)

    def _send_part(self, place: str, body: Body, start: int, length: int, size: int) -> None:
        if self.version == 1:
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"bytes {start}-{start + length - 1}/*",
            }
            response = self._v1("PATCH", f"caches/{place}", body, headers, length)
        else:
            url, headers = place, {"x-ms-version": _AZURE_VERSION}
            if size <= _PART:
                headers["x-ms-blob-type"] = "BlockBlob"
            else:
                url = f"{place}&comp=block&blockid={quote(_block(start // _PART), safe='')}"
            response = self._send("PUT", url, headers, body, length)
        with response:
            self._check(response, "upload")

    def _join_parts(self, place: str, count: int) -> None:
        blocks = "".join(f"<Latest>{_block(number)}</Latest>" for number in range(count))
        text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{blocks}</BlockList>'
        headers = {"x-ms-version": _AZURE_VERSION, "Content-Type": "application/xml"}
        url = f"{place}&comp=blocklist"
        with self._send("PUT", url, headers, text.encode()) as response:
            self._check(response, "upload")

    def _commit(self, key: str, place: str, size: int) -> None:
        if self.version == 2:
            asked = {"key": key, "size_bytes": size, "version": _ENTRY_VERSION}
            if not self._v2("FinalizeCacheEntryUpload", asked).get("ok"):
                raise RegistryError(f"the cache service does not finalise {key}")
            return
        with self._v1("POST", f"caches/{place}", {"size": size}) as response:
            self._check(response, "commit")

    # -------------------------------------------------------------- requests
    def _v1(
        self,
        method: str,
        path: str,
        body: Body | dict[str, Any] = None,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> Response:
        sent = {"Authorization": f"Bearer {self.token}", "Accept": _ACCEPT_V1, **(headers or {})}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        url = f"{self.url.rstrip('/')}/_apis/artifactcache/{path}"
        return self._send(method, url, sent, body, length)

    def _v2(self, method: str, asked: dict[str, Any]) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        url = f"{self.url.rstrip('/')}/{_SERVICE}{method}"
        with self._send("POST", url, headers, json.dumps(asked).encode()) as response:
            if response.status == 404:
                return {}
            self._check(response, method)
            return _object(response.read(_ANSWER_LIMIT))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        length: int | None = None,
    ) -> Response:
        from buildkit_py.registry.transport import Request  # noqa: PLC0415

        return self.transport.request(
            Request(
                method=method,
                url=url,
                headers=dict(headers or {}),
                body=body,
                length=length,
                deadline=self.deadline,
            )
        )

    def _check(self, response: Response, what: str) -> None:
        """Raise what an answer says went wrong."""
        if 200 <= response.status < 300:
            return
        data = response.read(_ANSWER_LIMIT)
        said = _said(data)
        message = f"the cache service answers {response.status} ({what})"
        if said.get("text"):
            message += f": {said['text']}"
        if "alreadyexists" in said.get("kind", "").replace("_", "").lower():
            raise AlreadyThere(message, status=response.status)
        raise RegistryError(message, status=response.status)

    # -------------------------------------------------------------- what is there
    def keys(self, api: str, repository: str, credential: str, prefix: str) -> frozenset[str]:
        """All keys of a repository that begin so, by GitHub's REST API. Raises RegistryError."""
        found: set[str] = set()
        headers = {
            "Authorization": f"Bearer {credential}",
            "Accept": "application/vnd.github+json",
        }
        for page in range(1, _MOST_PAGES + 1):
            query = urlencode({"key": prefix, "per_page": 100, "page": page})
            url = f"{api.rstrip('/')}/repos/{quote(repository)}/actions/caches?{query}"
            with self._send("GET", url, headers) as response:
                self._check(response, "list")
                entries = _object(response.read(_PAGE_LIMIT)).get("actions_caches") or []
            found.update(str(entry.get("key")) for entry in entries if isinstance(entry, dict))
            if len(entries) < 100:
                break
        return frozenset(found)


def _body(open_blob: OpenBlob, start: int, length: int) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        with open_blob() as file:
            file.seek(start)
            left = length
            while left and (data := file.read(min(_PIECE, left))):
                left -= len(data)
                yield data

    return pieces


def _block(number: int) -> str:
    """A block's name: of equal length for all blocks of a blob."""
    return b64encode(f"{number:08}".encode()).decode("ascii")


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RegistryError("the cache service's answer is not JSON") from error
    if not isinstance(found, dict):
        raise RegistryError("the cache service's answer is no JSON object")
    return found


def _said(data: bytes) -> dict[str, str]:
    """What an error's body says, by either protocol (or Azure's XML): its kind and its text."""
    try:
        raw = json.loads(data.decode("utf-8-sig"))
        kind = raw.get("typeKey") or raw.get("code") or ""
        text = raw.get("message") or raw.get("msg") or raw.get("code") or ""
    except (ValueError, RecursionError, AttributeError):
        kind = text = data.decode("utf-8", "replace").partition("<Code>")[2].partition("</")[0]
    shown = "".join(char for char in str(text) if char.isprintable())
    return {"kind": str(kind), "text": shown[:300]}
