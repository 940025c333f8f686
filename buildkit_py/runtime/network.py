"""What a sandbox knows of the network: resolv.conf, hosts; and how it is connected.

host      the host's network (default for RUN when nothing better is at hand)
none      loopback only
bridge    root: a veth pair on a bridge of ours, with NAT (see `bridge.py`)
slirp     a user-mode stack: pasta or slirp4netns (see `bridge.py`)
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

HOST_GATEWAY = "host-gateway"
_ANYWHERE = "192.0.2.1"  # of the block for documents: only its route is looked up
_HOSTS = "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
_FILE_LIMIT = 1 << 20


def hosts_file(
    hostname: str, extra: Iterable[tuple[str, str]] = (), *, host_network: bool = True
) -> bytes:
    """/etc/hosts; `extra` is (name, address), with HOST_GATEWAY for that of this host."""
    lines = [_HOSTS.format(hostname=hostname).replace(" \n", "\n")]
    for name, text in extra:
        address = text
        if text == HOST_GATEWAY:
            address = "127.0.0.1" if host_network else _own_address()
        lines.append(f"{address}\t{name}\n")
    return "".join(lines).encode()


def _own_address() -> str:
    """The address of this host that it speaks to others with; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ANYWHERE, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def resolv_conf(*, host_network: bool, servers: Iterable[str] = ()) -> bytes:
    """/etc/resolv.conf for a sandbox.

    On the host's network it is the host's own. Elsewhere a name server on a loopback address
    cannot be reached: systemd-resolved's list of real servers is taken, or what is left.
    """
    text = _read("/etc/resolv.conf")
    if host_network:
        return text.encode()
    wanted = list(servers)
    if not wanted:
        wanted = [item for item in _servers(text) if not _is_loopback(item)]
    if not wanted:
        wanted = [item for item in _servers(_read(_RESOLVED)) if not _is_loopback(item)]
    kept = [
        line
        for line in text.splitlines()
        if line.strip() and line.split()[0] not in {"nameserver", "#"}
    ]
    kept += [f"nameserver {item}" for item in wanted or _FALLBACK_SERVERS]
    return ("\n".join(kept) + "\n").encode()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_FILE_LIMIT)
    except OSError:
        return ""


def _servers(text: str) -> list[str]:
    words = [line.split() for line in text.splitlines()]
    return [item[1] for item in words if len(item) > 1 and item[0] == "nameserver"]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return True
