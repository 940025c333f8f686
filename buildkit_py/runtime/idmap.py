"""Rootless: puts this process into a user namespace where it is root.

With a line in /etc/subuid and /etc/subgid and the setuid helpers of the package `uidmap`, ids 0 to
65536 or so are mapped, and everything works as for root. Without them one id is mapped: files of
other owners cannot be made, which layers and steps cope with as well as they can.

It is done once for a whole process, at its start: unshare(2) refuses a process with threads. The
maps are written by a helper, started before, that stays outside of the new namespace.
"""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import threading
from dataclasses import dataclass

from buildkit_py.errors import SandboxError, UnsupportedHost

_CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN, _CAP_SETFCAP = 6, 7, 21, 31
CAP_SYS_CHROOT = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRanges:
    """The ranges of subordinate ids that a user has."""

    uid_start: int
    uid_count: int
    gid_start: int
    gid_count: int


def find_ranges(uid: int) -> IdRanges | None:
    """The user's first ranges, if the programs that map them are there too."""
    if not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        return None
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    uids = read_range("/etc/subuid", uid, name)
    gids = read_range("/etc/subgid", uid, name)
    if uids is None or gids is None:
        return None
    return IdRanges(uid_start=uids[0], uid_count=uids[1], gid_start=gids[0], gid_count=gids[1])


def read_range(path: str, uid: int, name: str) -> tuple[int, int] | None:
    """(start, count) of the first line for this user in a subuid or subgid file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        owner, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if owner in {name, str(uid)} - {""} and start.isdigit() and count.isdigit():
            return int(start), int(count)
    return None


def needs_user_namespace() -> bool:
    """Whether this process has to enter one before it can make sandboxes.

    So has root without CAP_SYS_ADMIN, as in a container: it may be root of a namespace of its own.
    """
    return os.geteuid() != 0 or not _may_mount()


def _may_mount() -> bool:
    return has_capability(_CAP_SYS_ADMIN)


def has_capability(*numbers: int) -> bool:
    """Whether all of these are in this process's effective set."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            line = next(line for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return True
    effective = int(line.split()[1], 16)
    return all(effective >> number & 1 for number in numbers)


def enter_user_namespace() -> bool:
    """Become root of a new user namespace; True if a whole range of ids is mapped.

    To be called by a process without threads. Raises UnsupportedHost.
    """
    if threading.active_count() > 1:
        raise SandboxError(
            "a process with threads cannot enter a user namespace",
            hint="start it by `pybuild unshare`",
        )
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        refuse_powerless_root()
        if may_map_ranges():
            _enter_mapped(_identity_maps())
            return True
    ranges = find_ranges(uid) if uid else None
    mapped = ranges is not None and _enter_ranges(ranges, uid, gid)
    if ranges is None:
        _unshare()
    if not mapped:
        _map_one(uid, gid)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    if mapped:
        os.setgroups([])
    return mapped


def refuse_powerless_root() -> None:
    """Since Linux 5.12 nobody maps the id 0 of his own namespace without CAP_SETFCAP."""
    if is_powerless_root():
        raise UnsupportedHost(
            "cannot map ids: root has no capability SETFCAP here",
            hint="keep root's capabilities (docker: --cap-add=SETFCAP), or run as another user",
        )


def may_map_ranges() -> bool:
    """Whether this process may map ids other than its own without a helper."""
    return has_capability(_CAP_SETUID, _CAP_SETGID)


def is_powerless_root() -> bool:
    """Root in name alone, as in a container that dropped all capabilities."""
    return os.geteuid() == 0 and not has_capability(_CAP_SETFCAP)


def try_ranges(ranges: IdRanges) -> str:
    """Let the helpers map these ranges, in a process that then ends; "" or what went wrong."""
    import subprocess  # noqa: PLC0415 - root needs none of this

    from buildkit_py.runtime import syscalls as sc  # noqa: PLC0415

    code = "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
    code += f"sys.exit(1) if libc.unshare({sc.CLONE_NEWUSER}) else print(flush=True)\n"
    code += "sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        if not child.stdout.readline():
            return "no user namespace"
        for command in _range_maps(ranges, os.geteuid(), os.getegid(), child.pid):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return done.stderr.strip() or f"{command[0]} failed"
    return ""


def _enter_ranges(ranges: IdRanges, uid: int, gid: int) -> bool:
    """False if the helpers refuse: then the namespace has no map yet, and may have one of one id.

    They do where they have lost their set-user-id bit, or where their ranges are not mapped
    themselves (in a container).
    """
    try:
        _enter_mapped(_range_maps(ranges, uid, gid, os.getpid()))
    except SandboxError:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            if file.read().strip():
                raise
        return False
    return True


def _map_one(uid: int, gid: int) -> None:
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")


def _range_maps(ranges: IdRanges, uid: int, gid: int, process: int) -> list[list[str]]:
    pid = str(process)
    return [
        ["newuidmap", pid, "0", str(uid), "1", "1", str(ranges.uid_start), str(ranges.uid_count)],
        ["newgidmap", pid, "0", str(gid), "1", "1", str(ranges.gid_start), str(ranges.gid_count)],
    ]


def _identity_maps() -> list[list[str]]:
    """Root may map whatever it has itself: every id stays what it is."""
    out = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            ranges = [line.split() for line in file]
        text = "".join(f"{inside} {inside} {count}\n" for inside, _outside, count in ranges)
        out.append(["write", f"/proc/{os.getpid()}/{name}", text])
    return out


def _enter_mapped(commands: list[list[str]]) -> None:
    import subprocess  # noqa: PLC0415

    code = (
        "import subprocess, sys\n"
        "sys.stdin.buffer.read(1)\n"
        "for command in {commands!r}:\n"
        "    if command[0] == 'write':\n"
        "        try:\n"
        "            with open(command[1], 'w') as file:\n"
        "                file.write(command[2])\n"
        "        except OSError as error:\n"
        "            sys.exit(str(error))\n"
        "        continue\n"
        "    done = subprocess.run(command, capture_output=True, text=True)\n"
        "    if done.returncode:\n"
        "        sys.exit(done.stderr.strip() or 'failed')\n"
    )
    helper = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code.format(commands=commands)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _unshare()
    except SandboxError:
        helper.kill()
        helper.communicate()
        raise
    _, stderr = helper.communicate("g")
    if helper.returncode:
        # Not UnsupportedHost: there is no way back out of the namespace.
        raise SandboxError(
            f"cannot map ids: {stderr.strip()}",
            hint="`pybuild system doctor` says what this host supports",
        )


def _unshare() -> None:
    from buildkit_py.runtime import syscalls as sc  # noqa: PLC0415

    try:
        sc.unshare(sc.CLONE_NEWUSER | sc.CLONE_NEWNS)
    except sc.SyscallError as error:
        raise UnsupportedHost(
            f"cannot make a user namespace: {error.strerror}",
            syscall="unshare",
            errno=error.errno or 0,
            hint="`pybuild system doctor` says what to change, or run as root",
        ) from error


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise UnsupportedHost(
            f"cannot map ids: {path}: {error.strerror}",
            hint="`pybuild system doctor` says what this host supports",
        ) from error
