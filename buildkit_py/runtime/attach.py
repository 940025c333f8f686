"""The sandbox child's own mounts (binds, caches, secrets, tmpfs), then pivot_root and masks."""

from __future__ import annotations

import errno
import os
import stat

from buildkit_py.runtime import syscalls as sc
from buildkit_py.runtime.rootfs import (
    attributes_of,
    clone,
    mount_on,
    mount_scratch,
    mount_tree,
    mount_usual,
)
from buildkit_py.runtime.targets import Stubs, make_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from buildkit_py.runtime.spec import WireMount, WireSpec


def build_root(spec: WireSpec, *, prepared: bool, for_another: bool = False) -> Stubs:
    """Mount everything below `scratch`, and make it this process' root. Returns what was made.

    `prepared` says that `standby.prepare` has been called already; `for_another` that the root is
    that of another process in this mount namespace too.
    """
    scratch = spec["scratch"]
    if not prepared:
        mount_scratch(scratch)
    target = f"{scratch}/root"
    mount_tree(spec["root"], target, f"{scratch}/empty", userxattr=spec["userxattr"])
    if not spec["privileged"]:
        sc.mount_setattr(sc.AT_FDCWD, target, 0, add=sc.MOUNT_ATTR_NODEV)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stubs = Stubs()
    mount_usual(root, spec, stubs, prepared=prepared)
    mounts = enumerate(spec["mounts"])
    for number, mount in sorted(mounts, key=lambda item: item[1]["target"].count("/")):
        _attach(root, number, mount, spec, stubs)
    stubs.finish(root)
    os.fchdir(root)
    os.close(root)
    if spec["readonly_root"]:
        sc.mount_setattr(sc.AT_FDCWD, ".", 0, add=sc.MOUNT_ATTR_RDONLY)
    _change_root(for_another=for_another)
    _mask(spec, prepared=prepared)
    return stubs


def may_pivot() -> bool:
    """Whether pivot_root is not forbidden: then all it misses here is the path."""
    try:
        sc.pivot_root("/proc/-", "/proc/-")
    except sc.SyscallError as error:
        return error.errno != errno.EPERM
    return True


def _change_root(*, for_another: bool) -> None:
    """Make the working directory the root, and let go of the old one."""
    try:
        sc.pivot_root(".", ".")
    except sc.SyscallError as error:
        if error.errno != errno.EPERM or for_another:  # which would keep the old root
            raise
        # Docker's filter forbids it even with CAP_SYS_ADMIN. The old root stays, below the new one
        # where no path leads: ".." ends at the top of a mount namespace.
        sc.mount(".", "/", None, sc.MS_MOVE)
        os.chroot(".")
    else:
        sc.umount2(".", sc.MNT_DETACH)
    os.chdir("/")


def _mask(spec: WireSpec, *, prepared: bool) -> None:
    masked, readonly = tuple(spec["masked_paths"]), tuple(spec["readonly_paths"])
    if prepared:  # but for the /sys of another network
        sys_only = () if spec["network"] == "host" else "/sys"
        masked = tuple(path for path in masked if sys_only and path.startswith(sys_only))
        readonly = ()
    if not spec["privileged"]:
        mask("", masked, readonly)


def mask(base: str, masked: tuple[str, ...], readonly: tuple[str, ...]) -> None:
    """Hide files and directories below `base`, and take the write access from others."""
    for place in each_place(masked, base):
        try:
            is_directory = stat.S_ISDIR(os.stat(place).st_mode)
        except OSError:
            continue
        if is_directory:
            sc.mount("tmpfs", place, "tmpfs", sc.MS_RDONLY, "size=0k")
        else:
            sc.mount(f"{base}/dev/null", place, None, sc.MS_BIND)
    for path in readonly:
        place = base + path
        if not os.path.exists(place):
            continue
        sc.mount(place, place, None, sc.MS_BIND | sc.MS_REC)
        flags = sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY
        sc.mount(place, place, None, flags | sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)


def each_place(paths: tuple[str, ...], base: str = "") -> list[str]:
    """The paths below `base`, those with a `*` as often as there are names for it."""
    places = []
    for path in paths:
        start, star, rest = path.partition("*")
        if not star:
            places.append(base + path)
            continue
        folder, _, prefix = start.rpartition("/")
        try:
            names = os.listdir(base + folder)
        except OSError:
            continue
        places += [f"{base}{folder}/{name}{rest}" for name in names if name.startswith(prefix)]
    return places


def _attach(root: int, number: int, mount: WireMount, spec: WireSpec, stubs: Stubs) -> None:
    kind = mount["kind"]
    if kind == "TmpfsMount":
        place = make_target(root, mount["target"], directory=True, stubs=stubs)
        size = f",size={mount['size']}" if mount["size"] else ""
        flags = sc.MS_NOSUID | sc.MS_NODEV | (sc.MS_NOEXEC if mount["noexec"] else 0)
        mount_on(place, "tmpfs", "tmpfs", flags, f"mode={mount['mode']:o}{size}")
        os.close(place)
        return
    if kind == "FileMount":
        tree = file_tree(str(number), mount, spec["scratch"])
    elif kind == "HostMount":
        bits = 0 if spec["privileged"] else sc.MOUNT_ATTR_NODEV
        bits |= sc.MOUNT_ATTR_RDONLY if mount["readonly"] else 0
        recursive = mount["recursive"]
        tree = clone(sc.AT_FDCWD, mount["source"], recursive=recursive, attributes=bits)
    else:
        tree = _tree_mount(number, mount, spec)
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    place = make_target(root, mount["target"], directory=directory, stubs=stubs)
    sc.move_mount(tree, place)
    os.close(tree)
    os.close(place)


def file_tree(name: str, mount: WireMount, scratch: str) -> int:
    """A file in memory, as a detached mount."""
    path = f"{scratch}/files/{name}"
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    view = memoryview(mount["content"])
    while view:
        view = view[os.write(fd, view) :]
    os.fchown(fd, mount["uid"], mount["gid"])
    os.fchmod(fd, mount["mode"])
    os.close(fd)
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV
    if mount["readonly"]:
        bits |= sc.MOUNT_ATTR_RDONLY
    if not mount["mode"] & 0o111:
        bits |= sc.MOUNT_ATTR_NOEXEC
    return clone(sc.AT_FDCWD, path, recursive=False, attributes=bits)


def _tree_mount(number: int, mount: WireMount, spec: WireSpec) -> int:
    base = f"{spec['scratch']}/tree{number}"
    os.mkdir(base, 0o755)
    empty = f"{spec['scratch']}/empty"
    mount_tree(mount["tree"], base, empty, userxattr=spec["userxattr"])
    top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
    source = sc.openat2(top, mount["source"], os.O_PATH, resolve)
    # Copied by its descriptor, so that nothing can be swapped in between.
    bits = attributes_of(mount) | (0 if spec["privileged"] else sc.MOUNT_ATTR_NODEV)
    tree = clone(source, "", recursive=False, attributes=bits)
    os.close(source)
    os.close(top)
    return tree
