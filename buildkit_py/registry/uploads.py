"""Blobs to a registry: mounted from a neighbour, sent whole or in chunks, resumed when cut.

A blob that the repository has is never sent. Else the registry is asked to mount it from the
repositories where it is known to be; else it is sent, and after a broken connection continued
from where the registry says it got.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from buildkit_py.errors import ContentError, RegistryError
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.oci.reference import Reference
from buildkit_py.registry.answers import push_scope, require
from buildkit_py.registry.client import RegistryClient
from buildkit_py.registry.endpoints import Endpoint
from buildkit_py.registry.transport import RETRYABLE, ConnectionFailed, Request, Response

if TYPE_CHECKING:
    from buildkit_py.registry.early import EarlyUpload

_SMALL = 1 << 20  # sent in one request
_MAX_MOUNTS = 3
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})\Z")

OpenAt = Callable[[int], Iterable[bytes]]
"""Gives a blob's bytes from an offset on, as often as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadResult:
    """How a blob came to be there: `exists`, `mounted` (from `source`) or `pushed`."""

    kind: str
    source: str = ""


class SessionLost(Exception):
    """The registry has forgotten an upload."""


def upload_blob(
    client: RegistryClient,
    reference: Reference,
    descriptor: Descriptor,
    open_at: OpenAt,
    *,
    mount_from: tuple[str, ...] = (),
    on_progress: Callable[[int], None] | None = None,
    early: EarlyUpload | None = None,
) -> UploadResult:
    """Make sure that a repository has a blob. `mount_from` are paths in the same registry.

    `early` may have sent the bytes while they were made.
    """
    if client.has_blob(reference, descriptor.digest):
        if early is not None:
            early.cancel()
        return UploadResult(kind="exists")
    upload = Upload(client, reference, descriptor, open_at, on_progress)
    if early is not None and early.begun:
        early.hand_over(upload)
        upload.send()
        return UploadResult(kind="pushed")
    for source in mount_from[:_MAX_MOUNTS]:
        if source != reference.path and upload.mount(source):
            return UploadResult(kind="mounted", source=source)
    upload.send()
    return UploadResult(kind="pushed")


class Session:
    """An upload as the registry keeps it: `location` is where it takes the next bytes.

    `sent` is how many it has, None if it must be asked.
    """

    def __init__(self, client: RegistryClient, reference: Reference) -> None:
        self.client = client
        self.reference = reference
        self.end: Endpoint = client.endpoints.for_push(reference.domain)
        self.scopes = push_scope(self.end, reference.path)
        self.location: str | None = None
        self.least_chunk = 0
        self.sent: int | None = 0

    def _begin(self) -> None:
        url = self.end.url(self.reference.path, "blobs/uploads/")
        request = Request(method="POST", url=url, body=b"")
        with self.client.call(self.end, request, self.scopes) as response:
            require(response, {202}, self.reference)
            self._moved(response)
            least = response.headers.get("oci-chunk-min-length", "")
            self.least_chunk = int(least) if least.isdigit() and len(least) < 12 else 0

    def stream(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        """Send what has no known size yet in one request, if the registry takes it so."""
        self._begin()
        if self.least_chunk or self.client.transport.config.chunk_size:
            return
        self.sent = None
        request = Request(
            method="PATCH",
            url=self._place(),
            headers={"Content-Type": "application/octet-stream"},
            body=pieces,
            retries=0,
        )
        with self.client.call(self.end, request, self.scopes) as response:
            self._check(response, {201, 202, 204})
            self._moved(response)

    def _check(self, response: Response, good: set[int]) -> None:
        if response.status in {404, 416}:
            raise SessionLost
        if response.status in RETRYABLE:
            raise ConnectionFailed(
                f"{self.reference.domain} answers {response.status}", status=response.status
            )
        require(response, good, self.reference)

    def abandon(self) -> None:
        """Tell the registry to forget what it has."""
        if self.location is None:
            return
        location, self.location = self.location, None
        try:
            request = Request(method="DELETE", url=location, retries=0)
            self.client.call(self.end, request, self.scopes).close()
        except RegistryError:
            return  # it only saves the registry some cleaning

    def _moved(self, response: Response) -> None:
        target = response.headers.get("location")
        if target:
            self.location = urljoin(response.url, target)

    def _place(self) -> str:
        if self.location is None:
            raise RegistryError(f"{self.reference.domain} gives no place to upload to")
        return self.location


class Upload(Session):
    """One blob on its way."""

    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        descriptor: Descriptor,
        open_at: OpenAt,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        super().__init__(client, reference)
        self.descriptor = descriptor
        self.open_at = open_at
        self.on_progress = on_progress

    def mount(self, source: str) -> bool:
        """Ask for the blob of another repository. If refused, an upload may have begun."""
        query = f"blobs/uploads/?mount={self.descriptor.digest}&from={source}"
        # the token must cover both repositories, or the registry says 401 or quietly refuses
        scopes = [*self.scopes, f"repository:{self.end.repository(source)}:pull"]
        request = Request(method="POST", url=self.end.url(self.reference.path, query), body=b"")
        try:
            with self.client.call(self.end, request, scopes) as response:
                if response.status == 202:
                    self.abandon()
                    self._moved(response)
                return response.status == 201
        except RegistryError:
            return False

    def send(self) -> None:
        """Send everything, starting again or resuming as often as the settings allow."""
        tries = 0
        while True:
            try:
                if self.location is None:
                    self._begin()
                    offset = 0
                elif tries or self.sent is None:
                    offset = self._received()
                else:  # of a refused mount, or sent early
                    offset = self.sent
                self._send_from(offset)
            except SessionLost:
                self.location = None
                problem = RegistryError(
                    f"{self.reference.domain} lost an upload to {self.reference.familiar}"
                )
            except ConnectionFailed as error:
                problem = error
            else:
                return
            tries += 1
            if tries > self.client.transport.config.retries:
                raise problem
            self.client.transport.pause(tries)

    def _send_from(self, offset: int) -> None:
        size = self.descriptor.size
        if offset == 0 and size <= _SMALL:
            self._finish(b"".join(self.open_at(0)))
            return
        chunk = self.client.transport.config.chunk_size
        chunk = max(chunk, self.least_chunk) if chunk else size
        while offset < size:
            length = min(chunk, size - offset)
            self._patch(offset, length, whole=length == size)
            offset += length
        self._finish(b"")

    def _patch(self, offset: int, length: int, *, whole: bool) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        if not whole:
            headers["Content-Range"] = f"{offset}-{offset + length - 1}"
        request = Request(
            method="PATCH",
            url=self._place(),
            headers=headers,
            body=lambda: self._pieces(offset, length),
            length=length,
            retries=0,
        )
        with self.client.call(self.end, request, self.scopes) as response:
            self._check(response, {201, 202, 204})
            self._moved(response)

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """Exactly `length` bytes; a file that is shorter or longer than promised is an error."""
        sent = 0
        for data in self.open_at(offset):
            piece = data[: length - sent]
            sent += len(piece)
            if piece:
                yield piece
            if self.on_progress is not None:
                self.on_progress(offset + sent)
            if sent == length:
                return
        if sent != length:
            raise ContentError(f"blob {self.descriptor.digest} is shorter than its size")

    def _finish(self, data: bytes) -> None:
        place = self._place()
        place += ("&" if "?" in place else "?") + f"digest={self.descriptor.digest}"
        request = Request(
            method="PUT",
            url=place,
            headers={"Content-Type": "application/octet-stream"},
            body=data,
            retries=0,
        )
        try:
            with self.client.call(self.end, request, self.scopes) as response:
                self._check(response, {201, 204})
        except (ConnectionFailed, SessionLost):
            # the answer was lost, not the request
            if not self.client.has_blob(self.reference, self.descriptor.digest):
                raise
        if self.on_progress is not None:
            self.on_progress(self.descriptor.size)

    def _received(self) -> int:
        """How many bytes the registry has of a cut upload; 0 after beginning a new one."""
        request = Request(method="GET", url=self._place())
        with self.client.call(self.end, request, self.scopes) as response:
            found = _RANGE.match(response.headers.get("range", ""))
            if response.status == 204 and found and int(found.group(1)) > 0:
                have = int(found.group(1)) + 1
                if have <= self.descriptor.size:
                    self._moved(response)
                    return have
        self.abandon()
        self._begin()
        return 0
