"""Calls of the distribution API, each answer verified against the digest and size it must have.

Reading goes to the mirrors of a registry first and falls back to the registry itself. What is
large is never held in memory: downloads go to a sink and resume by `Range` after a broken
connection; uploads are in `registry/uploads.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from buildkit_py.digest import Digest, parse_digest
from buildkit_py.errors import ContentError, RegistryError, SizeMismatch
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import MANIFEST_LIMIT
from buildkit_py.oci.reference import Reference
from buildkit_py.registry.answers import pull_scope, push_scope, require, verify_digest
from buildkit_py.registry.auth import Authenticator
from buildkit_py.registry.endpoints import Endpoint, Endpoints
from buildkit_py.registry.transport import (
    USER_AGENT,
    ConnectionFailed,
    Request,
    Response,
    Transport,
)

ACCEPT_MANIFESTS = ", ".join(
    (
        MediaType.OCI_INDEX,
        MediaType.DOCKER_LIST,
        MediaType.OCI_MANIFEST,
        MediaType.DOCKER_MANIFEST,
    )
)
_LIST_LIMIT = 16 << 20
_MAX_PAGES = 1000
_ENOUGH_PROGRESS = 64 << 10  # a broken transfer that brought this much counts as a fresh try
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*\brel="?next"?')
Answer = TypeVar("Answer")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_NAME = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestAnswer:
    """A manifest or index as the registry has it, its digest verified."""

    data: bytes
    descriptor: Descriptor


class RegistryClient:
    """Talks to registries. Thread-safe."""

    def __init__(self, transport: Transport, authenticator: Authenticator) -> None:
        self.transport = transport
        self.authenticator = authenticator
        self.endpoints = Endpoints(transport)

    # -------------------------------------------------------------- manifests
    def manifest(self, reference: Reference, *, limit: int = MANIFEST_LIMIT) -> ManifestAnswer:
        """The manifest or index of a tag or digest. Raises ManifestUnknown and its kin."""
        return self._first(reference, lambda end: self._manifest_from(end, reference, limit))

    def head_manifest(self, reference: Reference) -> Descriptor | None:
        """Type, digest and size without the content; None when the registry has no such thing.

        Some registries say no digest in a HEAD: then the manifest itself is asked for.
        """
        name = quote(reference.digest or reference.tag or "latest", safe=":")
        end = self.endpoints.for_push(reference.domain)
        response = self.call(
            end,
            Request(
                method="HEAD",
                url=end.url(reference.path, f"manifests/{name}"),
                headers={"Accept": ACCEPT_MANIFESTS},
            ),
            pull_scope(end, reference.path),
        )
        with response:
            if response.status == 404:
                return None
            require(response, {200}, reference)
            digest = response.headers.get("docker-content-digest", "")
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            size = response.length
        if not digest or size is None:
            return self.manifest(reference).descriptor
        return Descriptor(media_type=kind, digest=parse_digest(digest), size=size)

    def leads_to(self, reference: Reference, digest: Digest) -> bool:
        """Whether the registry has that manifest under a tag."""
        said = self._plain_digest(reference)
        if said != digest:
            there = self.head_manifest(reference)
            return there is not None and there.digest == digest
        return True

    def _plain_digest(self, reference: Reference) -> str | None:
        """What an open registry says by plain HTTP, where that is allowed."""
        url = f"http://{reference.domain}/"
        settings = self.transport.config.host(reference.domain)
        if not (settings.http or settings.insecure) or self.transport.proxy(url) is not None:
            return None
        from buildkit_py.registry.light import plain_head  # noqa: PLC0415

        path = f"/v2/{reference.path}/manifests/{quote(reference.tag or 'latest')}"
        headers = {"Accept": ACCEPT_MANIFESTS, "User-Agent": USER_AGENT}
        longest = self.transport.config.connect_timeout
        found = plain_head(reference.domain, path, headers, longest)
        return None if found is None else found.get("docker-content-digest")

    def put_manifest(self, reference: Reference, data: bytes, media_type: str) -> bool:
        """Store a manifest under a tag or digest. Says whether its subject was recorded."""
        name = quote(reference.tag or reference.digest or "latest", safe=":")
        end = self.endpoints.for_push(reference.domain)
        response = self.call(
            end,
            Request(
                method="PUT",
                url=end.url(reference.path, f"manifests/{name}"),
                headers={"Content-Type": media_type},
                body=data,
            ),
            push_scope(end, reference.path),
        )
        with response:
            require(response, {200, 201, 202}, reference)
            said = response.headers.get("docker-content-digest", "")
            if said.startswith("sha256:"):
                verify_digest(data, parse_digest(said), f"manifest stored as {reference}")
            return "oci-subject" in response.headers

    def delete_manifest(self, reference: Reference) -> None:
        """Remove a manifest by digest (or a tag, where the registry can)."""
        name = quote(reference.digest or reference.tag or "latest", safe=":")
        end = self.endpoints.for_push(reference.domain)
        url = end.url(reference.path, f"manifests/{name}")
        scope = [f"repository:{end.repository(reference.path)}:delete"]
        with self.call(end, Request(method="DELETE", url=url), scope) as response:
            require(response, {200, 202, 204}, reference)

    def _manifest_from(self, end: Endpoint, reference: Reference, limit: int) -> ManifestAnswer:
        name = quote(reference.digest or reference.tag or "latest", safe=":")
        request = Request(
            method="GET",
            url=end.url(reference.path, f"manifests/{name}"),
            headers={"Accept": ACCEPT_MANIFESTS},
        )
        with self.call(end, request, pull_scope(end, reference.path)) as response:
            require(response, {200}, reference)
            data = response.read(limit)
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            said = response.headers.get("docker-content-digest", "")
        what = f"manifest of {reference.familiar}"
        if reference.digest is not None:
            verify_digest(data, reference.digest, what)
        if said:
            verify_digest(data, parse_digest(said), what)
        digest = reference.digest or Digest("sha256:" + hashlib.sha256(data).hexdigest())
        return ManifestAnswer(
            data=data, descriptor=Descriptor(media_type=kind, digest=digest, size=len(data))
        )

    # -------------------------------------------------------------- blobs
    def has_blob(self, reference: Reference, digest: Digest) -> bool:
        """Whether the registry itself (no mirror) has a blob in this repository."""
        end = self.endpoints.for_push(reference.domain)
        url = end.url(reference.path, f"blobs/{digest}")
        scopes = push_scope(end, reference.path)
        with self.call(end, Request(method="HEAD", url=url), scopes) as response:
            if response.status == 404:
                return False
            require(response, {200}, reference)
            return True

    def read_blob(self, reference: Reference, descriptor: Descriptor, *, limit: int) -> bytes:
        """A small blob (a config), verified."""
        if descriptor.size > limit:
            raise SizeMismatch(f"blob {descriptor.digest} of {descriptor.size} bytes is too large")
        return self._first(reference, lambda end: self._blob_from(end, reference, descriptor))

    def _blob_from(self, end: Endpoint, reference: Reference, descriptor: Descriptor) -> bytes:
        out = bytearray()
        self.download(end, reference, descriptor, out.extend)
        verify_digest(bytes(out), descriptor.digest, f"blob of {reference.familiar}")
        return bytes(out)

    def download(
        self,
        end: Endpoint,
        reference: Reference,
        descriptor: Descriptor,
        sink: Callable[[bytes], object],
        on_progress: Callable[[int], None] | None = None,
        *,
        start: int = 0,
    ) -> None:
        """Send the bytes from `start` to the sink; the digest is the sink's to verify.

        A broken connection is taken up again where it broke.
        """
        offset = mark = start
        tries = 0
        while offset != descriptor.size or not start:
            try:
                for data in self._blob_bytes(end, reference, descriptor, offset):
                    sink(data)
                    offset += len(data)
                    if on_progress is not None:
                        on_progress(offset)
                if offset == descriptor.size:
                    return
                problem: RegistryError = ConnectionFailed(
                    f"{descriptor.digest} of {reference.familiar} ends after {offset} of"
                    f" {descriptor.size} bytes"
                )
            except ConnectionFailed as error:
                problem = error
            tries = 0 if offset - mark >= _ENOUGH_PROGRESS else tries + 1
            mark = offset
            if tries > self.transport.config.retries:
                raise problem
            self.transport.pause(tries)

    def _blob_bytes(
        self, end: Endpoint, reference: Reference, descriptor: Descriptor, offset: int
    ) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        request = Request(
            method="GET",
            url=end.url(reference.path, f"blobs/{descriptor.digest}"),
            headers=headers,
        )
        with self.call(end, request, pull_scope(end, reference.path)) as response:
            require(response, {200, 206}, reference)
            skip = offset
            if response.status == 206:
                skip = offset - _range_start(response, descriptor.digest, offset)
            left = descriptor.size - offset
            for data in response.stream():
                piece = data[skip:] if skip else data
                skip = max(0, skip - len(data))
                left -= len(piece)
                if left < 0:
                    raise SizeMismatch(
                        f"blob {descriptor.digest} of {reference.familiar} is longer than its"
                        f" {descriptor.size} bytes"
                    )
                if piece:
                    yield piece

    # -------------------------------------------------------------- lists
    def tags(self, reference: Reference) -> list[str]:
        """All tags of a repository."""
        end = self.endpoints.for_push(reference.domain)
        url = end.url(reference.path, "tags/list?n=1000")
        pages = self._pages(end, url, pull_scope(end, reference.path), reference)
        return [tag for page in pages for tag in _strings(page, "tags") if _TAG.match(tag)]

    def catalog(self, domain: str) -> list[str]:
        """All repositories of a registry that lets one list them."""
        end = self.endpoints.for_push(domain)
        shown = Reference(domain=domain, path="_catalog")
        pages = self._pages(end, f"{end.base}/v2/_catalog?n=1000", ["registry:catalog:*"], shown)
        return [n for page in pages for n in _strings(page, "repositories") if _NAME.match(n)]

    def referrers_index(self, reference: Reference, digest: Digest) -> bytes | None:
        """The index of what refers to a manifest, None where the registry has no such call."""
        end = self.endpoints.for_push(reference.domain)
        url = end.url(reference.path, f"referrers/{digest}")
        headers = {"Accept": MediaType.OCI_INDEX}
        request = Request(method="GET", url=url, headers=headers)
        with self.call(end, request, pull_scope(end, reference.path)) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if response.status in {400, 404, 405} or kind != MediaType.OCI_INDEX:
                return None
            require(response, {200}, reference)
            return response.read(MANIFEST_LIMIT)

    def ping(self, domain: str) -> None:
        """Check that the registry answers and takes our credentials (`login`)."""
        end = self.endpoints.for_push(domain)
        request = Request(method="GET", url=f"{end.base}/v2/")
        with self.call(end, request, []) as response:
            require(response, {200}, Reference(domain=domain, path=""))

    def _pages(
        self, end: Endpoint, url: str, scopes: Sequence[str], reference: Reference
    ) -> Iterator[Mapping[str, Any]]:
        for _ in range(_MAX_PAGES):
            with self.call(end, Request(method="GET", url=url), scopes) as response:
                require(response, {200}, reference)
                data, link = response.read(_LIST_LIMIT), response.headers.get("link", "")
            try:
                page = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise RegistryError(f"{reference.domain} answers no JSON") from error
            yield page if isinstance(page, dict) else {}
            following = _NEXT.search(link)
            if following is None:
                return
            url = urljoin(url, following.group(1))
            if urlsplit(url).netloc != urlsplit(end.base).netloc:
                raise RegistryError(f"{reference.domain}: the next page is on another host")
        raise RegistryError(f"{reference.domain}: more than {_MAX_PAGES} pages")

    # -------------------------------------------------------------- requests
    def call(self, end: Endpoint, request: Request, scopes: Sequence[str]) -> Response:
        """Send with credentials; a challenge is answered once."""
        trusted = urlsplit(request.url)[:2] == urlsplit(end.base)[:2]
        if not trusted:  # an upload location on another host gets no token of ours
            return self.transport.request(request)
        header = self.authenticator.header(end.base, end.domain, scopes)
        response = self.transport.request(_with_header(request, header))
        if response.status != 401:
            return response
        try:
            fresh = self.authenticator.challenged(response, end.base, end.domain, scopes)
        except BaseException:
            response.close()
            raise
        if fresh is None or (fresh == header and fresh.startswith("Basic")):
            return response
        response.close()
        return self.transport.request(_with_header(request, fresh))

    def _first(self, reference: Reference, ask: Callable[[Endpoint], Answer]) -> Answer:
        """The answer of the first endpoint that has one; the registry's own error otherwise."""
        ends = self.endpoints.for_pull(reference.domain)
        for end in ends[:-1]:
            try:
                return ask(end)
            except (RegistryError, ContentError):
                continue
        return ask(ends[-1])


def _with_header(request: Request, header: str | None) -> Request:
    if header is None:
        return request
    headers = {**request.headers, "Authorization": header}
    return Request(
        method=request.method,
        url=request.url,
        headers=headers,
        body=request.body,
        length=request.length,
        retries=request.retries,
        follow=request.follow,
    )


def _range_start(response: Response, digest: Digest, offset: int) -> int:
    found = re.match(r"bytes (\d{1,19})-", response.headers.get("content-range", ""))
    if found is None or int(found.group(1)) > offset:
        raise RegistryError(f"partial answer for {digest} is not the part that was asked for")
    return int(found.group(1))


def _strings(page: Mapping[str, Any], key: str) -> list[str]:
    value = page.get(key)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
