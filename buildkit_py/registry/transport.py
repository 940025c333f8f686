"""HTTP requests: pooling, TLS, proxies, redirects, retries. On urllib3.

A response body is a stream that ends in an error when the connection breaks, when the declared
length is not reached, or when the sender is so slow that it never would be.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from buildkit_py.errors import RegistryError
from buildkit_py.registry.config import HostConfig, RegistryConfig, is_loopback
from buildkit_py.registry.proxies import proxy_for
from buildkit_py.registry.tls import explain_tls

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import urllib3

log = logging.getLogger(__name__)

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10
_LONGEST_WAIT = 60.0
_CHUNK = 256 << 10
_SLOW_AFTER = 120.0  # seconds before a body's average speed is judged
_SLOWEST = 512  # bytes a second
USER_AGENT = "pybuild/0.1 (buildkit_py)"

Body = bytes | Callable[[], Iterable[bytes]] | None


class ConnectionFailed(RegistryError):
    """A host that cannot be reached, or a connection that broke."""


class Unreachable(ConnectionFailed):
    """No connection at all: the name is unknown, or nothing listens."""


class TimedOut(RegistryError):
    """A request that did not end before its deadline."""


class TlsFailed(ConnectionFailed):
    """A TLS handshake or a certificate that was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. A streamed body is a callable, so that it can be sent again."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body = None
    length: int | None = None  # of a streamed body
    retries: int | None = None  # None: the configured number
    follow: bool = True
    deadline: float | None = None  # of `time.monotonic`: no wait and no retry goes past it


class Response:
    """Status, headers (names in lower case), and a body to read once. Use as `with` block."""

    def __init__(self, raw: urllib3.BaseHTTPResponse, url: str) -> None:
        self._raw = raw
        self.url = url
        self.status = raw.status
        self.headers: Mapping[str, str] = {k.lower(): v for k, v in raw.headers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back when the body was read, else drop it.

        An unread body is not read away: its sender decides how long that would take.
        """
        if getattr(self._raw, "length_remaining", None) == 0:
            self._raw.drain_conn()  # nothing is left to come, but only a read notes the end
            self._raw.release_conn()
        else:
            self._raw.close()

    @property
    def length(self) -> int | None:
        """The declared length of the body."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdigit() and len(text) < 20 else None

    def stream(self) -> Iterator[bytes]:
        """The body in pieces. Raises ConnectionFailed when it ends early."""
        from urllib3.exceptions import HTTPError

        start, received = time.monotonic(), 0
        while True:
            try:
                data = self._raw.read1(_CHUNK, decode_content=False)
            except (HTTPError, OSError) as error:
                raise ConnectionFailed(f"connection broke: {_reason(error)}") from error
            if not data:
                return
            received += len(data)
            elapsed = time.monotonic() - start
            if elapsed > _SLOW_AFTER and received < elapsed * _SLOWEST:
                raise ConnectionFailed(f"transfer is too slow: {received} bytes in {elapsed:.0f}s")
            yield data

    def read(self, limit: int) -> bytes:
        """The whole body. Raises RegistryError when it has more than `limit` bytes."""
        out = bytearray()
        for data in self.stream():
            out += data
            if len(out) > limit:
                raise RegistryError(
                    f"answer of {urlsplit(self.url).hostname} is larger than {limit} bytes",
                    status=self.status,
                )
        return bytes(out)


class Transport:
    """Sends requests. Thread-safe; one for a process is enough."""

    def __init__(
        self,
        config: RegistryConfig | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        socket_path: str | None = None,
    ) -> None:
        self.config = config or RegistryConfig()
        self._socket_path = socket_path  # of a server that all requests go to
        self._environment = dict(environment or {})
        self._sleep = sleep
        self._managers: dict[tuple[str, HostConfig, str | None], urllib3.PoolManager] = {}
        self._by_host: dict[tuple[str, str], urllib3.PoolManager] = {}

    def request(self, request: Request) -> Response:
        """Send, follow redirects, retry what may pass. A status above 399 is an answer too.

        Raises ConnectionFailed after the last try.
        """
        retries = self.config.retries if request.retries is None else request.retries
        attempt = 0
        while True:
            wait = _back_off(attempt)
            try:
                response = self._follow(request)
            except TlsFailed:
                raise
            except ConnectionFailed as error:
                # a host that is not there seldom comes back while one waits
                if attempt >= (min(retries, 1) if isinstance(error, Unreachable) else retries):
                    raise
                log.debug("%s %s: %s; again in %.1fs", request.method, request.url, error, wait)
            else:
                if response.status not in RETRYABLE or attempt >= retries:
                    return response
                wait = _retry_after(response) or wait
                log.debug("%s %s: status %d", request.method, request.url, response.status)
                response.close()
            attempt += 1
            if request.deadline is not None and time.monotonic() + wait > request.deadline:
                raise TimedOut(f"{_host(request.url)}: no answer in time")
            self._sleep(wait)

    def pause(self, attempt: int) -> None:
        """Wait before try number `attempt` of something that a caller repeats."""
        self._sleep(_back_off(attempt))

    def close(self) -> None:
        """Drop all pooled connections."""
        for manager in self._managers.values():
            manager.clear()

    def _follow(self, request: Request) -> Response:
        seen = {request.url}
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(request)
            target = response.headers.get("location")
            if not request.follow or response.status not in _REDIRECTS or not target:
                return response
            response.close()
            request = self._redirected(request, response.status, target)
            if request.url in seen:
                raise RegistryError(f"redirect loop at {_shown(request.url)}")
            seen.add(request.url)
        raise RegistryError(f"more than {_MAX_REDIRECTS} redirects, last to {_shown(request.url)}")

    def _redirected(self, request: Request, status: int, target: str) -> Request:
        url = urljoin(request.url, target)
        old, new = urlsplit(request.url), urlsplit(url)
        if new.scheme not in {"http", "https"} or not new.hostname:
            raise RegistryError(f"redirect to {_shown(url)} is refused: not an HTTP address")
        if (old.scheme, new.scheme) == ("https", "http") and not self._may_be_plain(new.netloc):
            raise RegistryError(f"redirect from HTTPS to {_shown(url)} is refused")
        if request.method not in {"GET", "HEAD"} and status not in {307, 308}:
            raise RegistryError(f"redirect of a {request.method} by status {status} is refused")
        headers = dict(request.headers)
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            # what proves us to one host is nothing for another to see
            for name in [n for n in headers if n.lower() in {"authorization", "cookie"}]:
                del headers[name]
        return replace(request, url=url, headers=headers)

    def _may_be_plain(self, host: str) -> bool:
        settings = self.config.host(host)
        return settings.insecure or settings.http or is_loopback(host)

    def _send(self, request: Request) -> Response:
        from urllib3 import exceptions

        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        body: Any = request.body
        if callable(body):
            body = body()
            if request.length is not None:
                headers["Content-Length"] = str(request.length)
        try:
            raw = self._manager(request.url).request(
                request.method,
                request.url,
                body=body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=self._timeout(request),
            )
        except exceptions.SSLError as error:
            raise _tls_failed(_host(request.url), _reason(error)) from error
        except exceptions.NewConnectionError as error:  # of NameResolutionError too
            raise Unreachable(f"{self._way(request.url)}: {_reason(error)}") from error
        except (exceptions.HTTPError, OSError) as error:
            raise ConnectionFailed(f"{self._way(request.url)}: {_reason(error)}") from error
        except (ValueError, UnicodeError) as error:
            raise RegistryError(f"cannot request {_shown(request.url)}: {error}") from error
        return Response(raw, request.url)

    def _timeout(self, request: Request) -> urllib3.Timeout:
        from urllib3 import Timeout

        config, total = self.config, None
        if request.deadline is not None:
            total = request.deadline - time.monotonic()
            if total <= 0:
                raise TimedOut(f"{_host(request.url)}: no time is left")
        return Timeout(connect=config.connect_timeout, read=config.read_timeout, total=total)

    def proxy(self, url: str) -> str | None:
        """The proxy that requests for a URL go through."""
        return proxy_for(url, self._environment)

    def _way(self, url: str) -> str:
        """The host, and the proxy in between, as messages name them."""
        proxy = proxy_for(url, self._environment)
        return _host(url) + (f" through the proxy {_host(proxy)}" if proxy else "")

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        key = (parts.scheme, _host(url))
        manager = self._by_host.get(key)
        if manager is None:
            # two threads may both make one: the later is kept, the other still works
            settings = replace(self.config.host(key[1]), mirrors=())
            shared = (parts.scheme, settings, proxy_for(url, self._environment))
            manager = self._managers.get(shared)
            if manager is None:
                from buildkit_py.registry.connections import (  # noqa: PLC0415
                    make_manager,
                    socket_manager,
                )

                path = self._socket_path
                longest = 2 * self.config.read_timeout
                manager = make_manager(*shared, longest) if path is None else socket_manager(path)
            self._managers[shared] = self._by_host[key] = manager
        return manager


def _tls_failed(host: str, reason: str) -> TlsFailed:
    text, hint = explain_tls(host, reason)
    return TlsFailed(f"{host}: {text}", hint=hint)


def _back_off(attempt: int) -> float:
    return float(min(0.25 * 2**attempt, 10.0))


def _retry_after(response: Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return min(float(text), _LONGEST_WAIT) if text.isdigit() and len(text) < 9 else None


def _host(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2]


def _shown(url: str) -> str:
    """A URL for messages: no password, no query (which may hold a signature)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{_host(url)}{parts.path}"


def _reason(error: BaseException) -> str:
    """The innermost cause of urllib3's nested errors, on one line."""
    reason: object = getattr(error, "reason", None) or error
    while isinstance(reason, BaseException):
        inner = getattr(reason, "reason", None) or reason.__cause__
        if inner is None or isinstance(inner, str):
            break
        reason = inner
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    text = str(reason)
    return text.rpartition(": ")[2].strip("'\" ") if text.startswith(("<", "HTTP")) else text
