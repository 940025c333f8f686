"""ADD URL: one downloaded file.

What was downloaded is kept as a blob with its validators, and asked for again by `If-None-Match`
or `If-Modified-Since`, so that an unchanged file is transferred once. A URL with `--checksum` is
not asked for at all while its blob is here.
"""

from __future__ import annotations

import base64
import email.utils
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from buildkit_py.digest import Digest, digest_of, parse_digest
from buildkit_py.errors import ContentError, DigestMismatch, RegistryError, SourceError
from buildkit_py.graph import HttpOp
from buildkit_py.sources.base import Report, Resolved, Secrets, no_report, no_secrets

if TYPE_CHECKING:
    from buildkit_py.registry.transport import Response, Transport
    from buildkit_py.store.content import BlobWriter, ContentStore
    from buildkit_py.store.database import Database

MEDIA_TYPE = "application/vnd.pybuild.http"
_LIMIT = 64 << 30  # bytes; more is no file that belongs into an image
_TRIES = 5
_COPY = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What an earlier download of the same URL gave."""

    digest: Digest
    etag: str
    last_modified: str


class HttpSource:
    """Downloads files for ADD. Thread-safe."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        content: ContentStore,
        db: Database,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._content = content
        self._db = db
        self._clock = clock

    def resolve(
        self, op: HttpOp, secrets: Secrets = no_secrets, report: Report = no_report
    ) -> Resolved:
        """Make sure that the file is here, and say which it is."""
        if op.checksum is not None:
            checksum = _checksum(op)
            # mtime is not known before the download, and need not be: the content is
            return Resolved(parts=_parts(op, checksum, None))
        record = self._download(op, secrets, report)
        modified = _seconds(record.last_modified)
        return Resolved(parts=_parts(op, record.digest, modified), modified=modified or None)

    def write(
        self,
        op: HttpOp,
        resolved: Resolved,
        directory: Path,
        secrets: Secrets = no_secrets,
        report: Report = no_report,
    ) -> int:
        """Put the file into a directory, with the mode, owner and time that ADD gives it."""
        digest = Digest(str(resolved.parts["digest"]))
        modified = resolved.modified
        if op.checksum is not None:
            record = self._verified(op, digest, secrets, report)
            modified = _seconds(record.last_modified) or None
        elif not self._content.has(digest):
            digest = self._download(op, secrets, report).digest
        target = directory / op.filename
        if os.sep in op.filename or op.filename in {"", ".", ".."}:
            raise SourceError(f"invalid file name {op.filename!r} in {_shown(op.url)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with self._content.open(digest) as source, ExitStack() as stack:
            file = stack.enter_context(os.fdopen(os.open(target, flags, 0o600), "wb"))
            while data := source.read(_COPY):
                file.write(data)
            file.flush()
            os.fchmod(file.fileno(), op.mode)
            if (op.uid, op.gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), op.uid, op.gid)
        stamp = modified or 0
        os.utime(target, (stamp, stamp))
        os.utime(directory, (stamp, stamp))
        return stamp

    def open(self, resolved: Resolved) -> BinaryIO:
        """The bytes of what `resolve` downloaded."""
        return self._content.open(Digest(str(resolved.parts["digest"])))

    # -------------------------------------------------------------- downloads
    def _verified(self, op: HttpOp, checksum: Digest, secrets: Secrets, report: Report) -> _Record:
        known = self._known(_key(op.url, secrets))
        if known is not None and known.digest == checksum and self._content.has(checksum):
            return known
        # the blob alone would do, but every machine must agree on the file's time
        return self._download(op, secrets, report, checksum)

    def _download(
        self, op: HttpOp, secrets: Secrets, report: Report, checksum: Digest | None = None
    ) -> _Record:
        key = _key(op.url, secrets)
        known = self._known(key)
        if known is not None and (checksum or not self._content.has(known.digest)):
            known = None
        headers = dict(_authorization(op.url, secrets))
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        elif known is not None and known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
        try:
            record = self._get(op, headers, known, report, checksum)
        except (RegistryError, ContentError) as error:
            if isinstance(error, DigestMismatch):
                message = f"digest mismatch for {_shown(op.url)}: {error.message}"
            else:
                message = f"cannot download {_shown(op.url)}: {error.message}"
            raise SourceError(message, hint=error.hint) from error
        self._remember(key, record)
        return record

    def _get(
        self,
        op: HttpOp,
        headers: dict[str, str],
        known: _Record | None,
        report: Report,
        checksum: Digest | None,
    ) -> _Record:
        from buildkit_py.registry.transport import ConnectionFailed  # noqa: PLC0415

        transport = self._transport()
        download = _Download(self._content, transport, _plain(op.url), headers, report)
        with download:
            for attempt in range(_TRIES):
                try:
                    if download.get() == "unchanged" and known is not None:
                        return known
                except ConnectionFailed:
                    if attempt == _TRIES - 1:
                        raise
                    transport.pause(attempt)
                else:
                    return download.commit(checksum)
        raise AssertionError("the last try returns or raises")

    # -------------------------------------------------------------- records
    def _known(self, key: str) -> _Record | None:
        with self._db.explained():
            row = (
                self._db.connection()
                .execute("SELECT * FROM http_records WHERE key = ?", (key,))
                .fetchone()
            )
        if row is None:
            return None
        return _Record(
            digest=Digest(row["digest"]), etag=row["etag"], last_modified=row["last_modified"]
        )

    def _remember(self, key: str, record: _Record) -> None:
        with self._db.transaction() as connection:
            connection.execute(
                "REPLACE INTO http_records (key, digest, etag, last_modified, checked)"
                " VALUES (?, ?, ?, ?, ?)",
                (key, record.digest, record.etag, record.last_modified, self._clock()),
            )


class _Download:
    """One file on its way into the store; a cut transfer goes on where it broke."""

    def __init__(
        self,
        content: ContentStore,
        transport: Transport,
        url: str,
        headers: dict[str, str],
        report: Report,
    ) -> None:
        self._content = content
        self._transport = transport
        self._url = url
        self._headers = headers
        self._report = report
        self._stack = ExitStack()
        self._writer: BlobWriter | None = None
        self._etag = ""
        self._last_modified = ""

    def __enter__(self) -> _Download:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self) -> str:
        """One request: `unchanged`, or `complete`. Raises ConnectionFailed to be called again."""
        from buildkit_py.registry.transport import Request  # noqa: PLC0415

        headers = dict(self._headers)
        done = self._writer.size if self._writer is not None else 0
        if done and self._etag and not self._etag.startswith("W/"):
            headers |= {"Range": f"bytes={done}-", "If-Range": self._etag}
        with self._transport.request(
            Request(method="GET", url=self._url, headers=headers)
        ) as response:
            if response.status == 304 and not done:
                return "unchanged"
            self._begin(response, done)
            self._receive(response)
        return "complete"

    def _begin(self, response: Response, done: int) -> None:
        if response.status == 206 and done:
            if response.headers.get("content-range", "").startswith(f"bytes {done}-"):
                return
            raise RegistryError("the partial answer is not the part that was asked for")
        if response.status != 200:
            raise RegistryError(
                f"invalid response status {response.status}", status=response.status
            )
        self._stack.close()
        self._writer = self._stack.enter_context(self._content.writer(sync=True))
        self._etag = response.headers.get("etag", "")
        self._last_modified = response.headers.get("last-modified", "")

    def _receive(self, response: Response) -> None:
        assert self._writer is not None
        total = self._writer.size + (response.length or 0)
        if total > _LIMIT:
            raise RegistryError(f"the file has {total} bytes, the limit is {_LIMIT}")
        for data in response.stream():
            self._writer.write(data)
            self._report(self._url.rpartition("/")[2], self._writer.size, total)
            if self._writer.size > _LIMIT:
                raise RegistryError(f"the file is larger than {_LIMIT} bytes")

    def commit(self, checksum: Digest | None) -> _Record:
        """Keep what came, if it is what was promised."""
        assert self._writer is not None
        if checksum is not None and self._writer.digest != checksum:
            raise DigestMismatch(f"expected {checksum}, got {self._writer.digest}")
        found = self._writer.commit(media_type=MEDIA_TYPE)
        return _Record(
            digest=found.digest, etag=self._etag[:1024], last_modified=self._last_modified[:128]
        )


def _parts(op: HttpOp, digest: Digest, modified: int | None) -> dict[str, object]:
    return {
        "source": "http",
        "digest": digest,
        "filename": op.filename,
        "modified": modified,
        "mode": op.mode,
        "uid": op.uid,
        "gid": op.gid,
    }


def _checksum(op: HttpOp) -> Digest:
    try:
        digest = parse_digest(op.checksum or "")
    except ContentError as error:
        raise SourceError(error.message, hint=error.hint) from error
    if not digest.startswith("sha256:"):
        raise SourceError(f"unsupported checksum {digest}", hint="use sha256:<64 hex digits>")
    return digest


def _key(url: str, secrets: Secrets) -> str:
    """Names a record; what one credential may see is no answer for another."""
    credentials = [value for _, value in _authorization(url, secrets)]
    return digest_of({"url": url.partition("#")[0], "credentials": credentials})


def _authorization(url: str, secrets: Secrets) -> list[tuple[str, str]]:
    """The Authorization header, from build secrets or from the URL itself."""
    parts = urlsplit(url)
    for host in dict.fromkeys((parts.netloc.rpartition("@")[2], parts.hostname or "")):
        header = secrets(f"HTTP_AUTH_HEADER_{host}")
        token = secrets(f"HTTP_AUTH_TOKEN_{host}")
        if header is not None or token is not None:
            value = _text(header) if header is not None else f"Bearer {_text(token or b'')}"
            if not value.isprintable():
                raise SourceError(f"the secret for {host} is no header value")
            return [("Authorization", value)]
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return [("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())]
    return []


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip()


def _plain(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, "")
    )


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _seconds(last_modified: str) -> int:
    """Unix time of an HTTP date; 0 where there is none."""
    try:
        return max(0, int(email.utils.parsedate_to_datetime(last_modified).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0
