"""One HEAD request by plain HTTP, without a pool: for a command that ends with its answer.

Registries in a private network often speak plain HTTP and want no credentials. One question to
such a one needs nothing of urllib3, which takes longer to load than all the rest of a push that
has nothing to send. Whatever else the answer is, it is asked again in the ordinary way.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def plain_head(
    host: str, path: str, headers: Mapping[str, str], seconds: float
) -> Mapping[str, str] | None:
    """The headers of the answer 200, None for anything else or nothing within the time."""
    connection = http.client.HTTPConnection(host, timeout=seconds)
    timer = threading.Timer(seconds, _end, (connection,))  # a head may come byte by byte
    timer.daemon = True
    timer.start()
    try:
        connection.request("HEAD", path, headers=dict(headers))
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            return None
        return {name.lower(): value for name, value in answer.getheaders()}
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        timer.cancel()
        connection.close()


def _end(connection: http.client.HTTPConnection) -> None:
    if isinstance(connection.sock, socket.socket):
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
