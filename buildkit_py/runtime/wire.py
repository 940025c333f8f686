"""Messages between the server, its children and the parent: marshalled, with descriptors."""

from __future__ import annotations

import _socket
import marshal
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from buildkit_py.runtime.spec import WireSpec

_MESSAGE_LIMIT = 1 << 18
_IN_MEMFD = b"F"
TAKEN = b"T"
"""The child that stands by has taken a request. Its cgroups follow, and the reply socket."""


def receive(channel: _socket.socket) -> tuple[bytes, list[int]] | None:
    """A message with its descriptors; None at the end."""
    data, ancillary, _flags, _address = channel.recvmsg(
        _MESSAGE_LIMIT, 256, _socket.MSG_CMSG_CLOEXEC
    )
    if not data:
        return None
    fds: list[int] = []
    for _level, _type, payload in ancillary:
        fds += struct.unpack(f"{len(payload) // 4}i", payload)
    return data, fds


def decode(data: bytes, fds: list[int]) -> WireSpec:
    """The spec of a request; its descriptors are the reply socket and the standard streams."""
    if data == _IN_MEMFD:
        data = os.pread(fds[4], os.fstat(fds[4]).st_size, 0)
    spec: WireSpec = marshal.loads(data)
    return spec


def send_rights(channel: _socket.socket, data: bytes, fds: list[int]) -> None:
    """Send bytes and descriptors."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
    channel.sendmsg([data], [rights] if fds else [])


def send(reply: _socket.socket, message: tuple[Any, ...], fds: tuple[int, ...] = ()) -> None:
    """Send one message to the parent; it may be gone."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))]
    try:
        reply.sendmsg([marshal.dumps(message)], rights if fds else [])
    except OSError:
        os._exit(1)
