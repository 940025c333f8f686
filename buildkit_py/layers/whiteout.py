"""What overlay uses to say "deleted" and "hides all below", and what layer tars use for it.

In an overlay upper directory a deleted entry is a character device 0:0 (or, in newer kernels'
lower directories, an empty file with the xattr `overlay.whiteout` in a directory whose opaque
xattr is `x`); a directory that hides those below it has the xattr `overlay.opaque` = `y`. The
xattrs live in `trusted.` for root and in `user.` inside a user namespace; readers accept both.
In a tar both are empty files: `.wh.NAME` and `.wh..wh..opq`.
"""

from __future__ import annotations

import errno
import os
import stat as modes

PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"

TRUSTED_OPAQUE = "trusted.overlay.opaque"
USER_OPAQUE = "user.overlay.opaque"
_USER_WHITEOUT = "user.overlay.whiteout"
_FIRST_USER_NAMESPACE = f"user:[{0xEFFFFFFD}]"  # linux/proc_ns.h
_OVERLAY_SPACES = ("trusted.overlay.", "user.overlay.")

_ABSENT = frozenset((errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOENT))


def default_opaque_xattr() -> str:
    """The xattr that this process can set and its overlay mounts understand."""
    return TRUSTED_OPAQUE if os.geteuid() == 0 and not _in_user_namespace() else USER_OPAQUE


def _in_user_namespace() -> bool:
    """By the number of the first one: another one may have the same map of ids."""
    try:
        return os.readlink("/proc/self/ns/user") != _FIRST_USER_NAMESPACE
    except OSError:
        return False


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is the device that stands for a deleted entry."""
    return modes.S_ISCHR(status.st_mode) and status.st_rdev == 0


def opaque_mark(directory: bytes | int) -> bytes:
    """The opaque xattr of a directory (path or descriptor), in either form, or b''."""
    for name in (TRUSTED_OPAQUE, USER_OPAQUE):
        try:
            return os.getxattr(directory, name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return b""


def is_opaque(directory: bytes | int) -> bool:
    """Whether nothing of the directories below shows through this one."""
    return opaque_mark(directory) == b"y"


def is_xattr_whiteout(path: bytes, status: os.stat_result) -> bool:
    """Whether an entry of a directory marked `x` is a whiteout in xattr form."""
    if not modes.S_ISREG(status.st_mode) or status.st_size:
        return False
    for space in _OVERLAY_SPACES:
        try:
            os.getxattr(path, space + "whiteout", follow_symlinks=False)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
        else:
            return True
    return False


def set_opaque(directory: int | bytes, xattr: str | None) -> None:
    """Mark a directory opaque with the given xattr, or the one that fits this process."""
    chosen = xattr or default_opaque_xattr()
    try:
        os.setxattr(directory, chosen, b"y")
    except PermissionError:  # root of a container that has lost CAP_SYS_ADMIN
        if chosen == USER_OPAQUE:
            raise
        os.setxattr(directory, USER_OPAQUE, b"y")


def make_whiteout(name: bytes, directory: int) -> None:
    """Put a whiteout where nothing is.

    An overlay, such as the root of a container, refuses the device: there the xattr form is made.
    """
    try:
        os.mknod(name, modes.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
    except PermissionError:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            os.setxattr(file, _USER_WHITEOUT, b"y")
        finally:
            os.close(file)
        if not opaque_mark(directory):
            os.setxattr(directory, USER_OPAQUE, b"x")


def visible_xattr(name: str) -> str | None:
    """The name of an xattr as seen through the overlay: None for overlay's own.

    An xattr that a container sets under overlay's prefix is stored with the prefix doubled.
    """
    for space in _OVERLAY_SPACES:
        if name.startswith(space):
            rest = name[len(space) :]
            return space + rest[len("overlay.") :] if rest.startswith("overlay.") else None
    return name


def stored_xattr(name: str) -> str:
    """The reverse of `visible_xattr`: how a visible name is stored in an upper directory."""
    for space in _OVERLAY_SPACES:
        if name.startswith(space):
            return space + "overlay." + name[len(space) :]
    return name
