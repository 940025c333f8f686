"""The sandbox child's file system: overlay, /proc, /sys, /dev, mounts, pivot_root, masks.

Runs in the child only, inside a private mount namespace, so nothing mounted here can be seen or
left behind outside. Targets (`targets.py`) are mounted on through their file descriptors.
"""

from __future__ import annotations

import errno
import os
import stat

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.targets import Stubs, make_target, real_path, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildkit_py.runtime.spec import WireMount, WireSpec, WireTree

_OPTION_LIMIT = 3800  # mount(2) takes one page of options; what exceeds it is cut silently
SAFE = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_CGROUPS = "/sys/fs/cgroup"
SCRATCH_FOLDERS = ("root", "empty", "files")
DEV_OPTIONS = "mode=755,size=65536k"
PTS_OPTIONS = "newinstance,ptmxmode=0666,mode=0620"
PTS_FLAGS = sc.MS_NOSUID | sc.MS_NOEXEC


# ------------------------------------------------------------------ trees
def mount_tree(tree: WireTree, target: str, empty: str, *, userxattr: bool) -> None:
    """Mount a tree at `target`; `empty` is an empty directory to stand in for a missing layer."""
    if tree["kind"] == "DirectoryTree":
        sc.mount(tree["path"], target, None, sc.MS_BIND)
        return
    lowers = list(reversed(tree["lowers"]))
    upper, work = tree["upper"], tree["work"]
    if not lowers or (upper is None and len(lowers) == 1):
        lowers.append(empty)
    if upper is None and len(lowers) == 1:
        sc.mount(empty, target, None, sc.MS_BIND)
        return
    flags = ["volatile"] if upper is not None else []
    if userxattr:
        flags.append("userxattr")
    else:
        # Only a plain upper is a complete record of the changes; distributions' defaults differ.
        flags += ["redirect_dir=off", "metacopy=off"]
    flags.append("index=off")
    _mount_overlay(lowers, upper, work, target, flags)


def _mount_overlay(
    lowers: list[str], upper: str | None, work: str | None, target: str, flags: list[str]
) -> None:
    parts = ["lowerdir=" + ":".join(_escape(lower) for lower in lowers)]
    if upper is not None and work is not None:
        parts += ["upperdir=" + _escape(upper), "workdir=" + _escape(work)]
    options = ",".join(parts + flags)
    if len(os.fsencode(options)) <= _OPTION_LIMIT:
        sc.mount("overlay", target, "overlay", 0, options)
        return
    try:
        _mount_overlay_long(lowers, upper, work, target, flags)
    except sc.SyscallError as error:
        if error.syscall != "fsconfig lowerdir+":
            raise
        _mount_overlay_relative(lowers, upper, work, target, flags)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount_overlay_long(
    lowers: list[str], upper: str | None, work: str | None, target: str, flags: list[str]
) -> None:
    """Through fsconfig, one layer a call: up to 500 layers, kernel 6.5 and later."""
    fs = sc.fsopen("overlay")
    try:
        for lower in lowers:
            try:
                sc.fsconfig(fs, sc.FSCONFIG_SET_STRING, "lowerdir+", lower)
            except sc.SyscallError as error:
                error.syscall = "fsconfig lowerdir+"
                raise
        if upper is not None and work is not None:
            sc.fsconfig(fs, sc.FSCONFIG_SET_STRING, "upperdir", upper)
            sc.fsconfig(fs, sc.FSCONFIG_SET_STRING, "workdir", work)
        for flag in flags:
            key, _, value = flag.partition("=")
            if value:
                sc.fsconfig(fs, sc.FSCONFIG_SET_STRING, key, value)
            else:
                sc.fsconfig(fs, sc.FSCONFIG_SET_FLAG, key)
        sc.fsconfig(fs, sc.FSCONFIG_CMD_CREATE)
        mounted = sc.fsmount(fs)
    except sc.SyscallError as error:
        reason = _kernel_messages(fs)
        if reason:
            error.strerror = f"{error.strerror} ({reason})"
        raise
    finally:
        os.close(fs)
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sc.move_mount(mounted, place)
    os.close(mounted)
    os.close(place)


def _kernel_messages(fs: int) -> str:
    lines: list[str] = []
    try:
        while len(lines) < 8:
            lines.append(os.read(fs, 4096).decode(errors="replace").strip())
    except OSError:
        pass
    return "; ".join(lines)


def _mount_overlay_relative(
    lowers: list[str], upper: str | None, work: str | None, target: str, flags: list[str]
) -> None:
    """Older kernels: names relative to the directory that all layers share."""
    common = os.path.commonpath([*lowers, upper or lowers[0], work or lowers[0]])
    os.chdir(common)
    names = [_escape(os.path.relpath(lower, common)) for lower in lowers]
    parts = ["lowerdir=" + ":".join(names)]
    if upper is not None and work is not None:
        parts.append("upperdir=" + _escape(os.path.relpath(upper, common)))
        parts.append("workdir=" + _escape(os.path.relpath(work, common)))
    options = ",".join(parts + flags)
    if len(os.fsencode(options)) > _OPTION_LIMIT:
        raise sc.SyscallError("mount", errno.E2BIG, target)
    sc.mount("overlay", target, "overlay", 0, options)
    os.chdir("/")


# ------------------------------------------------------------------ mounts
def mount_on(fd: int, source: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2) at an open place."""
    sc.mount(source, f"/proc/self/fd/{fd}", kind, flags, data)


def clone(directory: int, path: str, *, recursive: bool, attributes: int) -> int:
    """A detached bind of `path` with the given attributes."""
    flags = sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC
    deep = sc.AT_RECURSIVE if recursive else 0
    tree = sc.open_tree(directory, path, flags | deep | (0 if path else sc.AT_EMPTY_PATH))
    if attributes:
        sc.mount_setattr(tree, "", sc.AT_EMPTY_PATH | deep, add=attributes)
    return tree


def attributes_of(mount: WireMount) -> int:
    """The MOUNT_ATTR_ bits that a mount asks for."""
    bits = 0
    for key, bit in (
        ("readonly", sc.MOUNT_ATTR_RDONLY),
        ("nosuid", sc.MOUNT_ATTR_NOSUID),
        ("nodev", sc.MOUNT_ATTR_NODEV),
        ("noexec", sc.MOUNT_ATTR_NOEXEC),
    ):
        if mount.get(key):
            bits |= bit
    return bits


# ------------------------------------------------------------------ the usual mounts
def mount_scratch(scratch: str) -> None:
    """A tmpfs to build the root in."""
    sc.mount("tmpfs", scratch, "tmpfs", sc.MS_NOSUID, "mode=700")
    for name in SCRATCH_FOLDERS:
        os.mkdir(f"{scratch}/{name}", 0o755)


def mount_usual(root: int, spec: WireSpec, stubs: Stubs, *, prepared: bool) -> None:
    """/proc, /sys and /dev."""
    scratch = spec["scratch"]
    proc = _own_place(root, "/proc", stubs)
    if prepared:
        mount_on(proc, f"{scratch}/proc", None, sc.MS_MOVE)
    else:
        new_proc(f"/proc/self/fd/{proc}")
    os.close(proc)
    place = _own_place(root, "/sys", stubs)
    if prepared and spec["network"] == "host":
        mount_on(place, f"{scratch}/sys", None, sc.MS_MOVE)
        os.close(place)
    else:
        mount_sys(place, 0 if spec["privileged"] else sc.MS_RDONLY)
    _mount_cgroups(root, 0 if spec["privileged"] else sc.MS_RDONLY)
    place = make_target(root, "/dev", directory=True, stubs=stubs)
    if prepared:
        mount_on(place, f"{scratch}/dev", None, sc.MS_MOVE)
    else:
        guard = 0 if spec["privileged"] else sc.MS_NODEV
        mount_on(place, "tmpfs", "tmpfs", sc.MS_NOSUID | guard, DEV_OPTIONS)
    os.close(place)
    dev = sc.openat2(root, "/dev", os.O_RDONLY | os.O_DIRECTORY, sc.RESOLVE_IN_ROOT)
    if not prepared:
        fill_dev(dev, scratch)
    shm = f"mode=1777,size={spec['shm_size']}"
    sc.mount("shm", f"/proc/self/fd/{dev}/shm", "tmpfs", SAFE, shm)
    os.close(dev)
    for device in spec["devices"]:
        _bind_device(root, device["path"], device["source"], stubs)


def _own_place(root: int, path: str, stubs: Stubs) -> int:
    """A directory that is where its name says: another would be hidden behind the mount."""
    fd = make_target(root, path, directory=True, stubs=stubs)
    if real_path(root, fd) != path:
        raise refusal(errno.ELOOP, "a link", path)
    return fd


def new_proc(target: str) -> None:
    """Mount /proc of this pid namespace."""
    try:
        sc.mount("proc", target, "proc", SAFE)
    except sc.SyscallError as error:
        if error.errno != errno.EPERM:
            raise
        # In a container that masks parts of its own /proc a new one would show too much.
        tree = clone(sc.AT_FDCWD, "/proc", recursive=True, attributes=0)
        place = os.open(target, os.O_PATH | os.O_CLOEXEC)
        sc.move_mount(tree, place)
        os.close(tree)
        os.close(place)


def mount_sys(fd: int, readonly: int) -> None:
    """Mount /sys on an open place, and close that."""
    try:
        mount_on(fd, "sysfs", "sysfs", SAFE | readonly)
    except OSError:
        # A network namespace of another user namespace: all we may do is bind the old one.
        bits = 0xE | (sc.MOUNT_ATTR_RDONLY if readonly else 0)
        tree = clone(sc.AT_FDCWD, "/sys", recursive=True, attributes=bits)
        sc.move_mount(tree, fd)
        os.close(tree)
    os.close(fd)


def _mount_cgroups(root: int, readonly: int) -> None:
    """The step's own group where version 2 is alone, else nothing; never the host's groups.

    Made by the step, in its own cgroup namespace.
    """
    try:
        place = sc.openat2(root, _CGROUPS, os.O_PATH, sc.RESOLVE_IN_ROOT)
    except OSError:
        return
    if os.fstat(place).st_dev != _device(root, "/sys"):  # in a bind of the host's /sys
        mount_on(place, "tmpfs", "tmpfs", sc.MS_RDONLY | SAFE, "size=0k")
        os.close(place)
        place = sc.openat2(root, _CGROUPS, os.O_PATH, sc.RESOLVE_IN_ROOT)
    if os.path.exists(f"{_CGROUPS}/cgroup.controllers"):
        try:
            mount_on(place, "cgroup2", "cgroup2", SAFE | readonly)
        except OSError:
            pass  # not delegated to us: the directory stays empty
    os.close(place)


def _device(root: int, path: str) -> int:
    fd = sc.openat2(root, path, os.O_PATH, sc.RESOLVE_IN_ROOT)
    device = os.fstat(fd).st_dev
    os.close(fd)
    return device


def fill_dev(dev: int, scratch: str) -> None:
    """Nodes, links and mounts of /dev, all but shm. The tmpfs is `nodev`, as is the root.

    A step may call mknod, as with docker, where a device cgroup guards the use. Here only the
    nodes bound from a tmpfs of ours work, and no cgroup is needed.
    """
    for name, major, minor in DEVICES:
        _bind_node(dev, name, os.makedev(major, minor), scratch)
    for name, link in LINKS:
        os.symlink(link, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, dir_fd=dev)
    base = f"/proc/self/fd/{dev}"
    try:
        sc.mount("devpts", f"{base}/pts", "devpts", PTS_FLAGS, PTS_OPTIONS + ",gid=5")
    except OSError:  # gid 5 is not mapped in a user namespace of one id
        sc.mount("devpts", f"{base}/pts", "devpts", PTS_FLAGS, PTS_OPTIONS)
    sc.mount("mqueue", f"{base}/mqueue", "mqueue", SAFE)


def _bind_node(dev: int, name: str, number: int, scratch: str) -> None:
    """A node of our own, not the host's: changing its mode must not reach the host."""
    source = f"{scratch}/node-{name}"
    try:
        os.mknod(source, stat.S_IFCHR | 0o666, number)
    except PermissionError:  # user namespaces may not make nodes, nor change the host's
        source = f"/dev/{name}"
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(name, flags, 0o666, dir_fd=dev))
    sc.mount(source, f"/proc/self/fd/{dev}/{name}", None, sc.MS_BIND)


def _bind_device(root: int, path: str, source: str, stubs: Stubs) -> None:
    tree = clone(sc.AT_FDCWD, source, recursive=False, attributes=0)
    is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    place = make_target(root, path, directory=is_directory, stubs=stubs)
    sc.move_mount(tree, place)
    os.close(tree)
    os.close(place)
