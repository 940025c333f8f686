"""What this host supports, why not, and what would help: the facts behind `system doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from buildkit_py.runtime.idmap import (
    CAP_SYS_CHROOT,
    find_ranges,
    has_capability,
    is_powerless_root,
    may_map_ranges,
    needs_user_namespace,
    try_ranges,
)

_TIMEOUT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One capability of the host: whether it is there, a detail, and the remedy if not."""

    name: str
    present: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSupport:
    """All findings, and the mode that follows from them."""

    mode: str  # root, rootless, rootless-single-id, chroot, none
    findings: tuple[Finding, ...]


def probe(state_root: str | None = None) -> HostSupport:
    """Look at this host, by trying. Takes a few tens of milliseconds."""
    uid = os.geteuid()
    namespaces = _try_namespaces()
    checks: list[Callable[[], Finding]] = [
        _kernel,
        lambda: _state_root(state_root),
        lambda: namespaces,
        *([_own_proc] if namespaces.present else []),
        _user_namespaces,
        lambda: _overlay(state_root),
        _id_ranges,
        _network_helper,
        _cgroups,
        _seccomp,
        _programs,
    ]
    findings = tuple(check() for check in checks)
    return HostSupport(mode=_mode(uid, {item.name: item for item in findings}), findings=findings)


def _mode(uid: int, found: dict[str, Finding]) -> str:
    if uid == 0 and not found["namespaces"].present:
        return "chroot" if has_capability(CAP_SYS_CHROOT) else "none"
    if not needs_user_namespace():
        return "root"
    if uid == 0:
        return "rootless" if found["id ranges"].present else "rootless-single-id"
    if not found["user namespaces"].present:
        return "none"
    return "rootless" if found["id ranges"].present else "rootless-single-id"


def _try(code: str) -> str:
    """Run a few lines in a child with the syscalls module as `sc`; "" or what went wrong."""
    runtime = Path(__file__).parent
    script = (
        "import sys, os\n"
        f"for n, p in (('buildkit_py', {os.fspath(runtime.parent)!r}),"
        f" ('buildkit_py.runtime', {os.fspath(runtime)!r})):\n"
        "    m = sys.modules[n] = type(sys)(n); m.__path__ = [p]\n"
        "from buildkit_py.runtime import syscalls as sc\n"
        "try:\n"
        + "".join(f"    {line}\n" for line in code.splitlines())
        + "except OSError as e:\n"
        '    sys.exit(f\'{getattr(e, "syscall", "") or e.filename or "id map"}: {e.strerror}\')\n'
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or "failed"


_NAMESPACES = """\
sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWPID | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS)
sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
"""
_USER_NAMESPACE = """\
ids = os.geteuid(), os.getegid()
sc.unshare(sc.CLONE_NEWUSER | sc.CLONE_NEWNS)
for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % ids[0]),
                   ("gid_map", "0 %d 1" % ids[1])):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
"""
_OWN_PROC = """\
sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWPID)
pid = os.fork()
if pid:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
sc.mount("none", "/", None, sc.MS_REC | sc.MS_PRIVATE)
sc.mount("proc", "/proc", "proc", 0xE)
"""
_CAPABILITIES = "root has lost its capabilities: keep them (docker: --cap-add=SETFCAP)"


def _own_proc() -> Finding:
    why = _try((_USER_NAMESPACE if needs_user_namespace() else "") + _OWN_PROC)
    remedy = "parts of /proc are hidden here, so steps see this container's processes and hidden"
    remedy += (
        " parts (docker: --security-opt systempaths=unconfined gives them a /proc of their own)"
    )
    return Finding(
        name="/proc of a step", present=not why, detail=why, remedy=remedy if why else ""
    )


def _try_namespaces() -> Finding:
    nested = needs_user_namespace()
    why = _try(_USER_NAMESPACE + _NAMESPACES if nested else _NAMESPACES)
    remedy = ""
    if why and is_powerless_root():
        remedy = _CAPABILITIES
    elif why and os.geteuid() == 0:
        remedy = "in a container, start it with --privileged, or --security-opt seccomp=unconfined"
        remedy += " (and apparmor=unconfined, systempaths=unconfined where they are in use)"
    elif why:
        remedy = "see user namespaces below"
    detail = why or ("inside a user namespace" if nested else "")
    return Finding(name="namespaces", present=not why, detail=detail, remedy=remedy)


def _user_namespaces() -> Finding:
    why = _try(_USER_NAMESPACE)
    remedy = ""
    if why:
        remedy = "as root: sysctl -w user.max_user_namespaces=15000"
        if is_powerless_root():
            remedy = _CAPABILITIES
        elif _seccomp_filtered():
            remedy = "a seccomp filter is in force here: see namespaces above"
        for name in ("unprivileged_userns_clone", "apparmor_restrict_unprivileged_userns"):
            value = _text(f"/proc/sys/kernel/{name}")
            if value == ("0" if name.endswith("clone") else "1"):
                wanted = "1" if name.endswith("clone") else "0"
                remedy = f"as root: sysctl -w kernel.{name}={wanted}"
    return Finding(name="user namespaces", present=not why, detail=why, remedy=remedy)


def _seccomp_filtered() -> bool:
    return "Seccomp:\t2" in _text("/proc/self/status")


def _state_root(state_root: str | None) -> Finding:
    place = _existing(state_root)
    writable = os.access(place, os.W_OK | os.X_OK)
    free = shutil.disk_usage(place).free if place.is_dir() else 0
    return Finding(
        name="state root",
        present=writable,
        detail=f"{state_root or place}, {free / 1e9:.1f} GB free"
        if writable
        else f"{place} cannot be written by this user",
        remedy="" if writable else "choose another one with --root or PYBUILD_ROOT",
    )


def _existing(state_root: str | None) -> Path:
    """The state root, or the lowest of the folders above it that is there."""
    place = Path(state_root or "/var/tmp")  # noqa: S108  (only a folder made for the try)
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def _overlay(state_root: str | None) -> Finding:
    from buildkit_py.runtime.namespaces import in_initial_user_namespace  # noqa: PLC0415

    place = _existing(state_root)
    nested = needs_user_namespace()
    user = "userxattr," if nested or not in_initial_user_namespace() else ""
    enter = _USER_NAMESPACE if nested else _NAMESPACES
    code = enter + _OVERLAY_TRY.format(place=os.fspath(place), user=user)
    why = _try(code)
    remedy = ""
    if why:
        remedy = "put the state root (--root) on ext4, xfs, btrfs or tmpfs: without overlay every"
        remedy += " step copies its whole root"
        if "unshare" in why or "id map" in why:
            remedy = "it needs namespaces: see above"
        elif os.fspath(place) in why:
            remedy = "see state root above"
    detail = why or f"on {place}"
    return Finding(name="overlay", present=not why, detail=detail, remedy=remedy)


_OVERLAY_TRY = """\
import tempfile, shutil
d = tempfile.mkdtemp(prefix=".pybuild-probe-", dir={place!r})
try:
    for n in ("l", "u", "w", "m"): os.mkdir(d + "/" + n)
    open(d + "/l/f", "w").close()
    sc.mount("overlay", d + "/m", "overlay", 0,
             "{user}index=off,lowerdir=%s/l,upperdir=%s/u,workdir=%s/w" % (d, d, d))
    os.unlink(d + "/m/f")
    sc.umount2(d + "/m", 0)
finally:
    shutil.rmtree(d, ignore_errors=True)
"""


def _kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(x) for x in release.split("-")[0].split(".")[:2] if x.isdigit())
    return Finding(
        name="kernel",
        present=numbers >= (5, 11),
        detail=f"Linux {release}",
        remedy="" if numbers >= (5, 11) else "Linux 5.11 or later is needed",
    )


def _id_ranges() -> Finding:
    if os.geteuid() == 0:
        single = needs_user_namespace() and not may_map_ranges()
        return Finding(
            name="id ranges",
            present=not single,
            detail="one id" if single else "root needs none",
            remedy="docker: --cap-add=SETUID --cap-add=SETGID" if single else "",
        )
    ranges = find_ranges(os.getuid())
    why = "" if ranges is None else try_ranges(ranges)
    if ranges is not None and not why:
        return Finding(
            name="id ranges",
            present=True,
            detail=f"{ranges.uid_count} ids from {ranges.uid_start}",
        )
    user = os.environ.get("USER") or str(os.getuid())
    remedy = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    if shutil.which("newuidmap") is None:
        remedy = "install the package uidmap; " + remedy
    elif why:
        remedy = (
            "newuidmap and newgidmap need their set-user-id bit, and ranges that are mapped here"
        )
    return Finding(
        name="id ranges",
        present=False,
        detail=why or "no line for this user in /etc/subuid and /etc/subgid, or no newuidmap",
        remedy=remedy + " (needed only without root; else files of other users lose their owner)",
    )


def _network_helper() -> Finding:
    found = [name for name in ("pasta", "slirp4netns") if shutil.which(name)]
    opens = os.geteuid() == 0 or os.access("/dev/net/tun", os.R_OK | os.W_OK)
    if not found:
        detail, remedy = (
            "neither pasta nor slirp4netns is installed",
            "install passt or slirp4netns",
        )
    elif not opens:
        detail = f"{', '.join(found)}, but /dev/net/tun cannot be opened"
        remedy = "as root: chmod 0666 /dev/net/tun"
    else:
        detail, remedy = ", ".join(found), ""
    return Finding(
        name="user-mode network",
        present=not remedy,
        detail=detail,
        remedy=remedy and remedy + "; until then steps use the host's network",
    )


def _cgroups() -> Finding:
    from buildkit_py.runtime.cgroups import find_hierarchies  # noqa: PLC0415
    from buildkit_py.runtime.delegation import LEND, can_ask, lent_root  # noqa: PLC0415

    unified, controllers = find_hierarchies(_text("/proc/self/mounts"))
    parts = []
    if unified is not None:
        parts.append("v2: " + (_text(f"{unified}/cgroup.controllers") or "no controllers"))
    if controllers:
        parts.append("v1: " + " ".join(sorted(controllers)))
    lent = unified is not None and lent_root(unified, _text("/proc/self/cgroup")) is not None
    writable = lent or any(os.access(place, os.W_OK) for place in controllers.values())
    how = f" ({LEND})" if unified is not None and not controllers else ""
    if not writable and how and can_ask():
        writable = True
        parts.append("systemd lends one to a build with limits")
    return Finding(
        name="cgroups",
        present=writable,
        detail="; ".join(parts) or "none mounted",
        remedy=""
        if writable
        else f"limits (--resource) need a delegated cgroup{how}; nothing else does",
    )


def _seccomp() -> Finding:
    from buildkit_py.runtime.seccomp import default_filter  # noqa: PLC0415

    actions = _text("/proc/sys/kernel/seccomp/actions_avail")
    program = default_filter()
    present = "errno" in actions and bool(program)
    detail = (
        f"{len(program) // 8} instructions" if program else f"no policy for {os.uname().machine}"
    )
    return Finding(
        name="seccomp", present=present, detail=detail, remedy="" if present else "enable seccomp"
    )


def _programs() -> Finding:
    found = [name for name in ("git", "ssh-agent") if shutil.which(name)]
    missing = [name for name in ("git", "ssh-agent") if name not in found]
    return Finding(
        name="programs",
        present=not missing,
        detail="found " + (", ".join(found) or "none"),
        remedy=f"install {', '.join(missing)} for git sources and SSH keys" if missing else "",
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
