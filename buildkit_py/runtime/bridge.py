"""A bridge with NAT for the steps of one build: `--network=bridge` as root.

A small program of its own, the keeper, makes the bridge, connects steps to it and takes all away
again when its socket ends, so that nothing is left when the build is killed. It has one thread,
and may therefore enter a step's network namespace and return. Each build has its own bridge and
subnet, held by a lock on a file: what a killed keeper left behind is removed by the next one.

A step's end of its veth pair dies with the step's namespace, and the other end with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.netlink import Netlink

_SUBNETS = 64
_PREFIX = 24
_FIRST_HOST, _LAST_HOST = 2, 254
_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_PROGRAM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin"
_PROGRAM_TIMEOUT = 20


class Bridge:
    """One bridge, its subnet and its rules."""

    def __init__(self, number: int) -> None:
        self.name = f"pybuild{number}"
        self.base = f"10.231.{number}"
        self.subnet = f"{self.base}.0/{_PREFIX}"
        self.netlink = Netlink()
        self.here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.index = 0
        self.mtu = _default_mtu()
        self.next_host = _FIRST_HOST
        self.free: list[int] = []
        self.pairs: dict[int, str] = {}

    def open(self) -> None:
        """Make it. What was left of an earlier one of this name is removed before."""
        self.remove()
        self.netlink.add_bridge(self.name)
        self.index = socket.if_nametoindex(self.name)
        self.netlink.add_address(self.index, f"{self.base}.1", _PREFIX)
        self.netlink.set_up(self.index)
        with open(_FORWARD, "r+", encoding="ascii") as file:
            if file.read().strip() != "1":
                file.seek(0)
                file.write("1")
        for command in _rules(self.name, self.subnet, add=True):
            _run(command)

    def connect(self, pid: int, host: int) -> None:
        """Give the network namespace of a process the address `host` of this subnet."""
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Not to be taken for the pair of a step that the kernel is still clearing away.
            name = self.pairs[host] = f"pbv{host}x{os.urandom(3).hex()}"
            self.netlink.add_pair(name, self.index, "eth0", namespace, self.mtu)
            self.netlink.set_up(socket.if_nametoindex(name))
            sc.setns(namespace, sc.CLONE_NEWNET)
            try:
                inside = Netlink()
                index = socket.if_nametoindex("eth0")
                inside.add_address(index, f"{self.base}.{host}", _PREFIX)
                inside.set_up(index)
                inside.add_default_route(index, f"{self.base}.1")
                inside.close()
            finally:
                sc.setns(self.here, sc.CLONE_NEWNET)
        finally:
            os.close(namespace)

    def disconnect(self, host: int) -> None:
        """Remove a pair whose step has ended, if the kernel has not done so yet."""
        with suppress(OSError, KeyError):
            self.netlink.delete(socket.if_nametoindex(self.pairs.pop(host)))

    def remove(self) -> None:
        """Take the bridge and its rules away, if they are there."""
        with suppress(OSError):
            self.netlink.delete(socket.if_nametoindex(self.name))
        for command in _rules(self.name, self.subnet, add=False):
            with suppress(OSError):
                _run(command)


def _rules(name: str, subnet: str, *, add: bool) -> list[list[str]]:
    """Commands that let the subnet out, with the host's address. Raises OSError without a tool."""
    iptables = shutil.which("iptables", path=_PROGRAM_PATH)
    if iptables:
        insert, append = ("-I", "-A") if add else ("-D", "-D")
        answers = ["-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED"]
        masquerade = ["-s", subnet, "!", "-o", name, "-j", "MASQUERADE"]
        return [
            [iptables, "-w", "-t", "nat", append, "POSTROUTING", *masquerade],
            [iptables, "-w", insert, "FORWARD", "-i", name, "-j", "ACCEPT"],
            [iptables, "-w", insert, "FORWARD", "-o", name, *answers, "-j", "ACCEPT"],
        ]
    nft = shutil.which("nft", path=_PROGRAM_PATH)
    if nft is None:
        raise OSError(errno.ENOENT, "neither iptables nor nft is installed")
    if not add:
        return [[nft, "delete", "table", "ip", name]]
    chain = "{ type nat hook postrouting priority srcnat; }"
    rule = f"ip saddr {subnet} oifname != {name} masquerade"
    return [
        [
            nft,
            f"add table ip {name}; add chain ip {name} out {chain}; add rule ip {name} out {rule}",
        ]
    ]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROGRAM_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{command[0]} does not end") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(errno.EIO, f"{os.path.basename(command[0])}: {lines[-1]}")


def _default_mtu() -> int:
    """The size of packets on the link that the default route goes through."""
    for link in _default_links():
        try:
            with open(f"/sys/class/net/{link}/mtu", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 1500


def _default_links() -> list[str]:
    return [fields[0] for fields in _routes() if fields[1] == "00000000"]


def _routes() -> list[list[str]]:
    with open("/proc/net/route", encoding="ascii") as file:
        return [line.split() for line in file.read().splitlines()[1:] if line.strip()]


def _overlaps(number: int) -> bool:
    """Whether the host has a route into this subnet that is not ours."""
    wanted = int.from_bytes(socket.inet_aton(f"10.231.{number}.0"), "little")
    ours = int.from_bytes(socket.inet_aton("255.255.255.0"), "little")
    for fields in _routes():
        target, mask = int(fields[1], 16), int(fields[7], 16)
        common = mask & ours
        if mask and fields[0] != f"pybuild{number}" and target & common == wanted & common:
            return True
    return False


def _claim(folder: str) -> tuple[int, int]:
    """A number that no other keeper has, and the lock that holds it."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for number in range(_SUBNETS):
        lock = os.open(f"{folder}/{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        if not _overlaps(number):
            return number, lock
        os.close(lock)
    raise OSError(errno.EADDRNOTAVAIL, f"no free subnet below 10.231.0.0/{_PREFIX}")


def main(control_fd: int, folder: str) -> None:
    """Serve `connect PID` and `disconnect HOST` until the socket ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    os.chdir("/")
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    bridge = None
    try:
        chosen, _lock = _claim(folder)
        bridge = Bridge(chosen)
        bridge.open()
        control.send(b"ok " + bridge.name.encode())
        _serve(bridge, control)
    except OSError as error:
        _answer(control, f"error {error.strerror or error}")
    finally:
        if bridge is not None:
            bridge.remove()
    sys.exit(0)


def _serve(bridge: Bridge, control: socket.socket) -> None:
    while request := control.recv(256):
        verb, _, value = request.decode().partition(" ")
        if verb == "disconnect":
            bridge.disconnect(int(value))
            bridge.free.append(int(value))
            continue
        if bridge.next_host <= _LAST_HOST:
            host = bridge.next_host
            bridge.next_host += 1
        elif bridge.free:
            host = bridge.free.pop(0)
        else:
            _answer(control, "error too many steps at once")
            continue
        try:
            bridge.connect(int(value), host)
        except OSError as error:
            bridge.disconnect(host)
            bridge.free.append(host)
            _answer(control, f"error {error.strerror or error}")
        else:
            _answer(control, f"ok {host}")


def _answer(control: socket.socket, text: str) -> None:
    with suppress(OSError):  # the build is gone: the next recv says so
        control.send(text.encode())
