"""Pools of connections: with TLS, through proxies, to Unix sockets. All of it is urllib3's.

urllib3's time limits are for each read. A head that comes byte by byte would keep within them for
ever, so it has a limit of its own.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from buildkit_py.registry.tls import tls_context

if TYPE_CHECKING:
    import urllib3

    from buildkit_py.registry.config import HostConfig


def make_manager(
    scheme: str, settings: HostConfig, proxy: str | None, longest: float
) -> urllib3.PoolManager:
    """Connections to hosts of equal settings, directly or through a proxy."""
    import urllib3

    pool: dict[str, Any] = {"num_pools": 32, "maxsize": 16}
    if scheme == "https":  # reading the host's certificates takes a while
        pool["ssl_context"] = tls_context(settings)
        if settings.insecure:  # it was asked for: not said again with each request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    if proxy is None:
        return _bounded(urllib3.PoolManager(**pool), longest)
    user = urlsplit(proxy)
    headers = None
    if user.username:
        secret = f"{unquote(user.username)}:{unquote(user.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=secret)
        proxy = proxy.replace(user.netloc, user.netloc.rpartition("@")[2], 1)
    return _bounded(urllib3.ProxyManager(proxy, proxy_headers=headers, **pool), longest)


def _bounded(manager: urllib3.PoolManager, seconds: float) -> urllib3.PoolManager:
    """End connections whose answer's head takes longer than that, however steadily it trickles."""
    from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    def end(connection: HTTPConnection, late: threading.Event) -> None:
        late.set()
        if isinstance(connection.sock, socket.socket):
            with suppress(OSError):  # below TLS, whose state belongs to the other thread
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    class Plain(HTTPConnection):
        def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
            late = threading.Event()
            timer = threading.Timer(seconds, end, (self, late))
            timer.daemon = True
            timer.start()
            try:
                answer = super().getresponse()
            finally:
                timer.cancel()
            if late.is_set():  # a head that was cut may look complete
                answer.close()
                raise TimeoutError("the answer does not come to its content")
            return answer

    class Secure(Plain, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    manager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return manager


def socket_manager(path: str) -> urllib3.PoolManager:
    """Connections to a Unix socket, whatever host a URL names."""
    from urllib3 import HTTPConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection

    class SocketConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
            except BaseException:
                connection.close()
                raise
            return connection

    class SocketPool(HTTPConnectionPool):
        ConnectionCls = SocketConnection

    manager = PoolManager()
    manager.pool_classes_by_scheme = {"http": SocketPool}
    return manager
