"""Typed wrappers, one a kernel call, named as the kernel names them; the only user of ctypes.

Each raises SyscallError with the call's name and the path it was about. Calls without a libc
function of their own go through syscall(2); their numbers below 424 differ by architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct

# mount(2), mount_setattr(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8

# unshare(2)
CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# openat2(2), open_tree(2), move_mount(2)
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

# fsconfig(2)
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6

_MACHINE = os.uname().machine
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "seccomp": 317, "rt_sigprocmask": 14, "rt_sigaction": 13},
    "aarch64": {"pivot_root": 41, "seccomp": 277, "rt_sigprocmask": 135, "rt_sigaction": 134},
    "riscv64": {"pivot_root": 41, "seccomp": 277, "rt_sigprocmask": 135, "rt_sigaction": 134},
}.get(_MACHINE, {"pivot_root": 41, "seccomp": 277, "rt_sigprocmask": 135, "rt_sigaction": 134})
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 436, 437, 442
_CLOSE_RANGE_CLOEXEC = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_long = ctypes.c_long


class SyscallError(OSError):
    """An OSError that knows which call failed, and on what."""

    def __init__(self, name: str, number: int, path: str = "") -> None:
        super().__init__(number, os.strerror(number), path or None)
        self.syscall = name


def _check(result: int, name: str, path: str | bytes = "") -> int:
    if result == -1:
        raise SyscallError(name, ctypes.get_errno(), os.fsdecode(path))
    return result


def _syscall(name: str, number: int, *arguments: object, path: str | bytes = "") -> int:
    # A bare Python int would be passed as a 32-bit int.
    wide = [_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _libc.syscall(_long(number), *wide)
    return _check(result, name, path)


def default_action(signal: int) -> None:
    """rt_sigaction(2) with SIG_DFL; libc's wrapper refuses its own two signals."""
    action = ctypes.create_string_buffer(64)  # all zero: SIG_DFL, no flags, empty mask
    number = _NUMBERS["rt_sigaction"]
    _syscall("rt_sigaction", number, signal, ctypes.byref(action), None, 8)


def unblock_signals() -> None:
    """rt_sigprocmask(2) with an empty set; libc's wrapper leaves its own two signals blocked."""
    none = ctypes.c_uint64(0)
    number = _NUMBERS["rt_sigprocmask"]
    _syscall("rt_sigprocmask", number, 2, ctypes.byref(none), None, ctypes.sizeof(none))


# ------------------------------------------------------------------ mounts
def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2). `data` longer than a page is cut by the kernel without a word: do not."""
    result: int = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() if kind is not None else None,
        flags,
        os.fsencode(data) if data else None,
    )
    _check(result, "mount", target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    number = _NUMBERS["pivot_root"]
    _syscall("pivot_root", number, new_root.encode(), put_old.encode(), path=new_root)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): a file descriptor of a mount, or with OPEN_TREE_CLONE of a new bind."""
    return _syscall("open_tree", _OPEN_TREE, directory, os.fsencode(path), flags, path=path)


def move_mount(tree: int, target: int) -> None:
    """move_mount(2): attach the tree `tree` at the place that `target` is open on."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _syscall("move_mount", _MOVE_MOUNT, tree, b"", target, b"", flags)


def mount_setattr(directory: int, path: str, flags: int, *, add: int, clear: int = 0) -> None:
    """mount_setattr(2): set and clear attributes of a mount (with AT_RECURSIVE: of a tree)."""
    attributes = struct.pack("=QQQQ", add, clear, 0, 0)
    encoded = os.fsencode(path)
    _syscall(
        "mount_setattr",
        _MOUNT_SETATTR,
        directory,
        encoded,
        flags,
        ctypes.c_char_p(attributes),
        len(attributes),
        path=path,
    )


def fsopen(kind: str) -> int:
    """fsopen(2)."""
    return _syscall("fsopen", _FSOPEN, kind.encode(), 1)


def fsconfig(fs: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """fsconfig(2)."""
    encoded_key = None if key is None else key.encode()
    encoded_value = None if value is None else os.fsencode(value)
    _syscall("fsconfig", _FSCONFIG, fs, command, encoded_key, encoded_value, 0, path=value or "")


def fsmount(fs: int, attributes: int = 0) -> int:
    """fsmount(2)."""
    return _syscall("fsmount", _FSMOUNT, fs, 1, attributes)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2)."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(
        "openat2",
        _OPENAT2,
        directory,
        os.fsencode(path),
        ctypes.c_char_p(how),
        len(how),
        path=path,
    )


# ------------------------------------------------------------------ processes
def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(namespace: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(namespace, kind), "setns")


def prctl(option: int, argument: int = 0, third: int = 0) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, argument, third, 0, 0), "prctl")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), "sethostname", name)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3."""
    header = struct.pack("=Ii", 0x2008_0522, 0)
    sets = (effective, permitted, inheritable)
    data = struct.pack(
        "=6I", *(part & 0xFFFF_FFFF for part in sets), *(part >> 32 for part in sets)
    )
    _check(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(data)), "capset")


def seccomp_set_filter(program: bytes) -> None:
    """seccomp(2), SECCOMP_SET_MODE_FILTER, with classic BPF instructions of 8 bytes each."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _syscall("seccomp", _NUMBERS["seccomp"], 1, 0, ctypes.c_char_p(fprog))


def close_range_cloexec(first: int) -> None:
    """close_range(2): every descriptor from `first` on is closed by the next exec."""
    _syscall("close_range", _CLOSE_RANGE, first, 0xFFFF_FFFF, _CLOSE_RANGE_CLOEXEC)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    _syscall("pidfd_send_signal", 424, pidfd, number, None, 0)


def last_capability() -> int:
    """The highest capability that this kernel knows; works without /proc, as in a chroot."""
    number = 0
    while _libc.prctl(PR_CAPBSET_READ, number + 1, 0, 0, 0) >= 0:
        number += 1
    return number
