"""Links, addresses and routes of the network namespace that a socket was made in (rtnetlink)."""

from __future__ import annotations

import errno
import os
import socket
import struct

_NLM_REQUEST, _NLM_ACK, _NLM_EXCL, _NLM_CREATE = 1, 4, 0x200, 0x400
_NLMSG_ERROR = 2
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 10, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_OIF, _RTA_GATEWAY = 4, 5
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _UNICAST = 254, 3, 0, 1


class Netlink:
    """One rtnetlink socket. Its methods raise OSError as the kernel answers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._number = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def add_bridge(self, name: str) -> None:
        """A new bridge; EEXIST when the name is taken."""
        info = _attribute(_INFO_KIND, b"bridge")
        self._link(_text(_IFLA_IFNAME, name) + _attribute(_IFLA_LINKINFO, info), create=True)

    def add_pair(self, name: str, bridge: int, peer: str, namespace: int, mtu: int) -> None:
        """A veth pair: `name` here, in the bridge; `peer` in the namespace open as a file."""
        other = _interface(0) + _text(_IFLA_IFNAME, peer) + _number(_IFLA_NET_NS_FD, namespace)
        other += _number(_IFLA_MTU, mtu)
        data = _attribute(_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
        info = _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, b"veth") + data)
        here = _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, bridge) + _number(_IFLA_MTU, mtu)
        self._link(here + info, create=True)

    def set_up(self, index: int) -> None:
        """Switch a link on."""
        self._ask(_NEWLINK, _interface(index, _IFF_UP))

    def delete(self, index: int) -> None:
        """Remove a link."""
        self._ask(_DELLINK, _interface(index))

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Give a link an IPv4 address."""
        packed = socket.inet_aton(address)
        host_bits = (1 << (32 - prefix)) - 1
        last = struct.pack("!I", struct.unpack("!I", packed)[0] | host_bits)
        body = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, index)
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._ask(_NEWADDR, body + _attribute(_IFA_BROADCAST, last), _NLM_CREATE | _NLM_EXCL)

    def add_default_route(self, index: int, gateway: str) -> None:
        """Send everything through a gateway on a link."""
        body = struct.pack(
            "=BBBBBBBBI",
            socket.AF_INET,
            *(0, 0, 0),
            *(_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _UNICAST),
            0,
        )
        body += _attribute(_RTA_GATEWAY, socket.inet_aton(gateway)) + _number(_RTA_OIF, index)
        self._ask(_NEWROUTE, body, _NLM_CREATE | _NLM_EXCL)

    def _link(self, attributes: bytes, *, create: bool) -> None:
        flags = _NLM_CREATE | _NLM_EXCL if create else 0
        self._ask(_NEWLINK, _interface(0) + attributes, flags)

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._number += 1
        flags |= _NLM_REQUEST | _NLM_ACK
        header = struct.pack("=IHHII", 16 + len(body), kind, flags, self._number, 0)
        self._socket.send(header + body)
        answer = self._socket.recv(1 << 16)
        _length, answered, _flags, number, _port, code = struct.unpack_from("=IHHIIi", answer)
        if answered != _NLMSG_ERROR or number != self._number:
            raise OSError(errno.EPROTO, "unexpected answer of netlink")
        if code:
            raise OSError(-code, os.strerror(-code))


def _interface(index: int, flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, index, flags, flags)


def _attribute(kind: int, payload: bytes) -> bytes:
    header = struct.pack("=HH", 4 + len(payload), kind)
    return header + payload + b"\0" * (-len(payload) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))
