"""Places inside a root to mount on: found without leaving it, made where missing.

Every target is resolved with openat2(RESOLVE_IN_ROOT): a symbolic link in an image can never lead
a mount out of the root. Mount points that the root lacks are made, and reported as *stubs* so that
the parent can take them out of the layer again.
"""

from __future__ import annotations

import errno
import os
import stat

from buildkit_py.runtime import syscalls as sc

_LINK_DEPTH = 40


class Stubs:
    """Mount points made by us: (path, parent path), and directories with their times.

    `before[path]` is (atime, mtime, mode, uid, gid) of a directory that we changed, `after[path]`
    is (mtime, ctime) when we were done.
    """

    def __init__(self) -> None:
        self.made: list[str] = []
        self.before: dict[str, tuple[int, int, int, int, int]] = {}
        self.after: dict[str, tuple[int, int]] = {}

    def note_directory(self, root: int, path: str) -> None:
        """Remember a directory and those above it before the first change below them."""
        while path not in self.before:
            fd = sc.openat2(root, path, os.O_PATH, sc.RESOLVE_IN_ROOT)
            st = os.fstat(fd)
            os.close(fd)
            owner = (st.st_mode, st.st_uid, st.st_gid)
            self.before[path] = (st.st_atime_ns, st.st_mtime_ns, *owner)
            if path == "/":
                break
            path = os.path.dirname(path)

    def finish(self, root: int) -> None:
        """Remember the times, once all mount points are made."""
        for path in self.before:
            fd = sc.openat2(root, path, os.O_PATH, sc.RESOLVE_IN_ROOT)
            st = os.fstat(fd)
            self.after[path] = (st.st_mtime_ns, st.st_ctime_ns)
            os.close(fd)


def make_target(root: int, target: str, *, directory: bool, stubs: Stubs, depth: int = 0) -> int:
    """A descriptor of `target` inside `root`; it and its parents are made where missing."""
    try:
        fd = sc.openat2(root, target, os.O_PATH, sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP or depth > _LINK_DEPTH:
            raise refusal(error.errno, "links that lead nowhere", target) from error
        if error.errno == errno.ENOTDIR:
            raise refusal(error.errno, "a file above it", target) from error
        if error.errno != errno.ENOENT:
            raise
    else:
        if stat.S_ISDIR(os.fstat(fd).st_mode) != directory:
            found = "no directory" if directory else "a directory"
            raise refusal(errno.ENOTDIR if directory else errno.EISDIR, found, target)
        return fd
    parent_path, _, name = target.rstrip("/").rpartition("/")
    parent = make_target(root, parent_path or "/", directory=True, stubs=stubs, depth=depth + 1)
    try:
        try:
            link = os.readlink(name, dir_fd=parent)
        except OSError:
            pass
        else:  # a dangling link: make what it points at, inside the root
            new = link if link.startswith("/") else f"{parent_path}/{link}"
            return make_target(root, new, directory=directory, stubs=stubs, depth=depth + 1)
        real_parent = real_path(root, parent)
        stubs.note_directory(root, real_parent)
        _make(name, parent, target, directory=directory)
        stubs.made.append(f"{real_parent.rstrip('/')}/{name}")
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileExistsError as error:  # a magic link of /proc that is no process' here
        raise refusal(errno.ELOOP, "links that lead nowhere", target) from error
    finally:
        os.close(parent)


def _make(name: str, parent: int, target: str, *, directory: bool) -> None:
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        text = "cannot mount there, it is missing in what is mounted read-only above it"
        raise OSError(error.errno, text, target) from error


def refusal(number: int | None, found: str, target: str) -> OSError:
    """The error for an image that has something else at a place of ours."""
    return OSError(number or 0, f"cannot mount there, the image has {found}", target)


def real_path(root: int, fd: int) -> str:
    """The path of an open place as it is inside the root."""
    base = os.readlink(f"/proc/self/fd/{root}")
    path = os.readlink(f"/proc/self/fd/{fd}")
    inner = path[len(base) :] if base != "/" else path
    return inner or "/"
