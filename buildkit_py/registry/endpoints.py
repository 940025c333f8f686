"""Where a registry's name leads: its mirrors, then itself, by HTTPS or, where allowed, HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from buildkit_py.registry.transport import ConnectionFailed, Request, TlsFailed, Transport

_HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One server that answers for a registry."""

    base: str  # https://host[:port]
    domain: str  # by which credentials are known
    prefix: str = ""  # path that a mirror puts before repository names
    namespace: str = ""  # of a mirror: the registry it stands for

    def url(self, path: str, rest: str) -> str:
        """The address of something in repository `path`."""
        name = f"{self.prefix}/{path}" if self.prefix else path
        url = f"{self.base}/v2/{name}/{rest}"
        if self.namespace:
            url += ("&" if "?" in url else "?") + f"ns={self.namespace}"
        return url

    def repository(self, path: str) -> str:
        """The repository as this server calls it (for token scopes)."""
        return f"{self.prefix}/{path}" if self.prefix else path


class Endpoints:
    """Finds endpoints, and remembers which hosts speak HTTPS."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._bases: dict[str, str] = {}

    def for_push(self, domain: str) -> Endpoint:
        """The registry itself."""
        return Endpoint(base=self._base(domain), domain=domain)

    def for_pull(self, domain: str) -> tuple[Endpoint, ...]:
        """Mirrors in the order configured, then the registry itself."""
        mirrors = self._transport.config.host(domain).mirrors
        return (*(self._mirror(text, domain) for text in mirrors), self.for_push(domain))

    def _mirror(self, text: str, domain: str) -> Endpoint:
        scheme, separator, rest = text.rpartition("://")
        host, _, prefix = rest.strip("/").partition("/")
        base = f"{scheme}://{host}" if separator else self._base(host)
        return Endpoint(base=base, domain=host, prefix=prefix, namespace=domain)

    def _base(self, domain: str) -> str:
        if domain not in self._bases:
            host = _HUB_HOST if domain == _HUB else domain
            self._bases[domain] = f"{self._scheme(host)}://{host}"
        return self._bases[domain]

    def _scheme(self, host: str) -> str:
        settings = self._transport.config.host(host)
        if settings.http:
            return "http"
        if not settings.insecure:
            return "https"
        try:
            # any answer at all says that TLS is spoken
            url = f"https://{host}/v2/"
            self._transport.request(
                Request(method="GET", url=url, retries=0, follow=False)
            ).close()
        except TlsFailed as error:
            # an alert is TLS: the server wants a client's certificate, or another version
            return "https" if "alert" in error.message.lower() else "http"
        except ConnectionFailed:
            return "http"
        return "https"
