"""Runs inside a sandbox and tries to get out. Prints one JSON object: what each try gave.

A try answers `refused: REASON`, or anything else when it went through. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import socket
import stat
import struct
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SECRET = "".join(sys.argv[1:2])  # a file of the host that must not be readable here
NUMBERS = {
    "x86_64": {
        "init_module": 175,
        "delete_module": 176,
        "clock_settime": 227,
        "reboot": 169,
        "bpf": 321,
        "keyctl": 250,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "io_uring_setup": 425,
        "open_by_handle_at": 304,
        "swapon": 167,
        "kexec_load": 246,
        "iopl": 172,
        "acct": 163,
        "syslog": 103,
        "setns": 308,
        "mount_setattr": 442,
        "fsopen": 430,
        "open_tree": 428,
        "add_key": 248,
        "unshare": 272,
        "clone3": 435,
        "quotactl": 179,
        "pivot_root": 155,
        "settimeofday": 164,
        "process_madvise": 440,
        "lookup_dcookie": 212,
        "vhangup": 153,
        "move_mount": 429,
        "fspick": 433,
        "fanotify_init": 300,
        "io_uring_enter": 426,
        "pidfd_getfd": 438,
        "kcmp": 312,
        "personality": 135,
        "finit_module": 313,
        "sethostname": 170,
        "capset": 126,
        "process_vm_readv": 310,
        "mbind": 237,
        "move_pages": 279,
    },
}.get(platform.machine(), {})


def refused(error: OSError) -> str:
    return f"refused: {errno.errorcode.get(error.errno or 0, '?')}"


def call(name: str, *arguments: int | bytes) -> str:
    if name not in NUMBERS:
        return "refused: unknown here"
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = LIBC.syscall(ctypes.c_long(NUMBERS[name]), *wide)
    if result == -1:
        return f"refused: {errno.errorcode[ctypes.get_errno()]}"
    return f"allowed: {result}"


def mount(source: str, target: str, kind: str, flags: int) -> str:
    if LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, None) == -1:
        return f"refused: {errno.errorcode[ctypes.get_errno()]}"
    return "allowed"


def read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(64)
    except OSError as error:
        return refused(error)
    return f"read: {data!r}" if data else "refused: empty"


def write(path: str) -> str:
    try:
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    except OSError as error:
        return refused(error)
    return "written"


def make(path: str) -> str:
    """Make a file; it counts as written when the host has it, which only the host can tell."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
    except OSError as error:
        return refused(error)
    return "refused: here only" if not os.path.exists(SECRET) else "written"


def through_links() -> str:
    """Links that climb, absolute ones, and magic ones."""
    folder = os.path.dirname(SECRET)
    for number, link in enumerate((folder, "../../../../.." + folder, "/proc/1/root" + folder)):
        os.symlink(link, f"/tmp/link{number}")
        got = make(f"/tmp/link{number}/written")
        if not got.startswith("refused"):
            return got
    return "refused: all"


def capabilities() -> str:
    """All of them, in the sets that capset takes."""
    both = 0xFFFFFFFF
    return call(
        "capset",
        struct.pack("=Ii", 0x20080522, 0),
        struct.pack("=6I", both, both, both, both, both, both),
    )


def terminal_input() -> str:
    """Type into the terminal of whoever started the build."""
    try:
        fcntl.ioctl(0, 0x5412, b"x")  # TIOCSTI
    except OSError as error:
        return refused(error)
    return "typed"


def lower_oom_score() -> str:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        now = int(file.read())
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(max(now - 100, -1000)))
    except OSError as error:
        return refused(error)
    return "refused: it was the least" if now == -1000 else "lowered"


def chroot_escape() -> str:
    """The classic: keep a directory open above a chroot, climb, chroot again."""
    pid = os.fork()
    if pid:
        return "refused: contained" if os.waitpid(pid, 0)[1] == 0 else "escaped"
    try:
        os.makedirs("/tmp/jail", exist_ok=True)
        above = os.open("/", os.O_RDONLY)
        os.chroot("/tmp/jail")
        os.fchdir(above)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        os._exit(1 if os.path.exists(SECRET) else 0)
    except OSError:
        os._exit(0)


def block_device() -> str:
    """Make a node of the disk below the root, and of every other place, and read it."""
    out = []
    for folder in ("/", "/tmp", "/dev", "/dev/shm"):
        for kind, major, minor in (
            (stat.S_IFBLK, 254, 0),
            (stat.S_IFCHR, 1, 1),
            (stat.S_IFBLK, 8, 0),
        ):
            path = os.path.join(folder, f"node{major}-{minor}")
            try:
                os.mknod(path, kind | 0o600, os.makedev(major, minor))
            except OSError as error:
                out.append(refused(error))
                continue
            got = read(path)
            # ENXIO would mean that the node works and only the device is missing
            out.append(got if got != "refused: ENXIO" else "the node is live")
    bad = [item for item in out if not item.startswith("refused")]
    return bad[0] if bad else out[0]


def chmod_host_null() -> None:
    """Standard input is /dev/null: either not the host's node, or not ours to change."""
    with contextlib.suppress(PermissionError):
        os.fchmod(0, 0o600)


def fork_flags() -> str:
    number = 56 if platform.machine() == "x86_64" else 220
    flags = 0x10000000 | 17  # CLONE_NEWUSER | SIGCHLD
    result = LIBC.syscall(ctypes.c_long(number), ctypes.c_long(flags), None, None, None, None)
    if result == 0:
        os._exit(0)
    return f"refused: {errno.errorcode[ctypes.get_errno()]}" if result == -1 else "allowed"


def descriptors() -> str:
    listing = os.open("/proc/self/fd", os.O_RDONLY)
    names = sorted(int(name) for name in os.listdir(listing))
    os.close(listing)
    extra = [n for n in names if n > 2 and n != listing and _is_open(n)]
    return (
        "refused: none"
        if not extra
        else f"inherited: {[os.readlink(f'/proc/self/fd/{n}') for n in extra]}"
    )


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def foreign_processes() -> str:
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return "refused: none" if set(pids) <= {1, os.getpid()} else f"seen: {pids}"


def kill_host() -> str:
    try:
        os.kill(int(sys.argv[2]), 0)
    except OSError as error:
        return refused(error)
    return "reached"


def ptrace_host() -> str:
    if LIBC.ptrace(16, int(sys.argv[2]), 0, 0) == -1:  # PTRACE_ATTACH
        return f"refused: {errno.errorcode[ctypes.get_errno()]}"
    return "attached"


def read_host_memory() -> str:
    into = ctypes.create_string_buffer(64)
    vector = struct.pack("=QQ", ctypes.addressof(into), 64)
    return call("process_vm_readv", int(sys.argv[2]), vector, 1, vector, 1, 0)


def open_socket(family: int, kind: int) -> str:
    try:
        socket.socket(family, kind).close()
    except OSError as error:
        return refused(error)
    return "allowed"


def write_sys() -> str:
    return (
        write("/sys/kernel/mm/ksm/run")
        if os.path.exists("/sys/kernel/mm/ksm/run")
        else write("/sys/kernel/uevent_helper")
    )


def foreign_groups() -> str:
    """The cgroups of this host: below /sys/fs/cgroup only our own group may be, without others."""
    found = [entry.name for entry in os.scandir("/sys/fs/cgroup") if entry.is_dir()]
    return f"seen: {found}" if found else "refused: none"


def terminal() -> str:
    try:
        os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        return refused(error)
    return "has a terminal"


TRIES = {
    "read a host file by its path": lambda: read(SECRET),
    "read it with dots": lambda: read("/../../../../.." + SECRET),
    "read it through our own root": lambda: read("/proc/self/root" + SECRET),
    "read it through PID 1's root": lambda: read("/proc/1/root" + SECRET),
    "read it through a cwd": lambda: read("/proc/1/cwd/../../.." + SECRET),
    "write a host file by its path": lambda: write(SECRET),
    "write it through our own root": lambda: write("/proc/self/root/../.." + SECRET),
    "write it through PID 1's cwd": lambda: write("/proc/1/cwd/../../.." + SECRET),
    "write beside it through links": through_links,
    "climb out of a chroot": chroot_escape,
    "use a device node": block_device,
    "read kernel memory": lambda: read("/proc/kcore"),
    "read kernel keys": lambda: read("/proc/keys"),
    "read firmware tables": lambda: read("/sys/firmware/dmi/tables/DMI"),
    "press sysrq": lambda: write("/proc/sysrq-trigger"),
    "set the core pattern": lambda: write("/proc/sys/kernel/core_pattern"),
    "set another sysctl": lambda: write("/proc/sys/vm/drop_caches"),
    "write to sysfs": write_sys,
    "set the host name by proc": lambda: write("/proc/sys/kernel/hostname"),
    "set the host name": lambda: call("sethostname", b"x", 1),
    "forward packets": lambda: write("/proc/sys/net/ipv4/ip_forward"),
    "set interrupts": lambda: write("/proc/irq/default_smp_affinity"),
    "set a module's option": lambda: write("/sys/module/overlay/parameters/metacopy"),
    "set a release agent": lambda: write("/sys/fs/cgroup/memory/release_agent"),
    "leave the cgroup": lambda: write("/sys/fs/cgroup/cgroup.procs"),
    "map other ids": lambda: write("/proc/self/uid_map"),
    "be spared by the memory killer": lower_oom_score,
    "write to the kernel log": lambda: write("/dev/kmsg"),
    "read the kernel log by proc": lambda: read("/proc/kmsg"),
    "read memory's device": lambda: read("/dev/mem"),
    "read timers": lambda: read("/proc/timer_list"),
    "read interrupts": lambda: read("/proc/interrupts"),
    "read the power meter": lambda: read(
        "/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0/energy_uj"
    ),
    "take more capabilities": capabilities,
    "type into a terminal": terminal_input,
    "change the layout of memory": lambda: call("personality", 0x40000),
    "mount tmpfs": lambda: mount("none", "/tmp", "tmpfs", 0),
    "mount proc again": lambda: mount("proc", "/tmp", "proc", 0),
    "remount the root": lambda: mount("none", "/", "overlay", 32),
    "unmount a mask": lambda: (
        f"refused: {errno.errorcode[ctypes.get_errno()]}"
        if LIBC.umount2(b"/proc/kcore", 2) == -1
        else "unmounted"
    ),
    "fsopen": lambda: call("fsopen", b"tmpfs", 0),
    "open_tree": lambda: call("open_tree", -100, b"/", 1),
    "move_mount": lambda: call("move_mount", 0, b"", 0, b"", 0),
    "fspick": lambda: call("fspick", -100, b"/", 0),
    "fanotify": lambda: call("fanotify_init", 0, 0),
    "io_uring_enter": lambda: call("io_uring_enter", 0, 0, 0, 0, 0, 0),
    "take a descriptor of another": lambda: call("pidfd_getfd", 0, 0, 0),
    "compare processes": lambda: call("kcmp", 1, 1, 0, 0, 0),
    "load a module by descriptor": lambda: call("finit_module", 0, b"", 0),
    "read a host process' memory": read_host_memory,
    "bind memory": lambda: call("mbind", 0, 0, 0, 0, 0, 0),
    "move pages": lambda: call("move_pages", 0, 0, 0, 0, 0, 0),
    "mount_setattr": lambda: call("mount_setattr", -100, b"/", 0, b"\0" * 32, 32),
    "pivot_root": lambda: call("pivot_root", b".", b"."),
    "unshare a user namespace": lambda: call("unshare", 0x10000000),
    "clone a user namespace": fork_flags,
    "clone3": lambda: call("clone3", 0, 0),
    "setns": lambda: call("setns", 0, 0),
    "load a module": lambda: call("init_module", b"", 0, b""),
    "unload a module": lambda: call("delete_module", b"loop", 0),
    "load another kernel": lambda: call("kexec_load", 0, 0, 0, 0),
    "set the clock": lambda: call("clock_settime", 0, struct.pack("qq", 1, 0)),
    "set the time of day": lambda: call("settimeofday", struct.pack("qq", 1, 0), 0),
    "reboot": lambda: call("reboot", 0xFEE1DEAD, 672274793, 0, 0),
    "swapon": lambda: call("swapon", b"/tmp", 0),
    "bpf": lambda: call("bpf", 0, 0, 0),
    "perf": lambda: call("perf_event_open", 0, 0, 0, 0, 0),
    "keyctl": lambda: call("keyctl", 0, 0),
    "add_key": lambda: call("add_key", 0, 0, 0, 0, 0),
    "userfaultfd": lambda: call("userfaultfd", 0),
    "io_uring": lambda: call("io_uring_setup", 1, 0),
    "open_by_handle_at": lambda: call("open_by_handle_at", 0, 0, 0),
    "iopl": lambda: call("iopl", 3),
    "acct": lambda: call("acct", 0),
    "read the kernel log": lambda: call("syslog", 3, 0, 0),
    "vsock": lambda: open_socket(40, socket.SOCK_STREAM),
    "alg socket": lambda: open_socket(38, socket.SOCK_SEQPACKET),
    "see foreign processes": foreign_processes,
    "see the host's cgroups": foreign_groups,
    "signal a host process": kill_host,
    "trace a host process": ptrace_host,
    "find an inherited descriptor": descriptors,
    "find a terminal": terminal,
}


def main() -> None:
    results = {}
    for name, attempt in TRIES.items():
        try:
            results[name] = attempt()
        except OSError as error:
            results[name] = refused(error)
        except Exception as error:  # noqa: BLE001  # a broken try must not look like a refusal
            results[name] = f"broken: {type(error).__name__}: {error}"
    chmod_host_null()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
