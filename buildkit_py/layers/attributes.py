"""Owner, mode, extended attributes and times of files being made, and how failures count.

Inside a user namespace an id may have no mapping, devices cannot be made, and some xattrs are
refused. None of these ends a build: the lack is counted, so that the caller can warn once.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Mapping
from dataclasses import dataclass, field

from buildkit_py.layers.whiteout import stored_xattr

_NO_XATTRS: Mapping[str, bytes] = {}
_UNMAPPED = frozenset((errno.EINVAL, errno.EPERM))
_REFUSED = frozenset((errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA))


def current_umask() -> int:
    """The umask of this process, read without changing it."""
    with open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777  # unknown: every mode is then set explicitly


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What an entry gets besides its content. `mode` holds permission bits only."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


ONE_ID = (
    "this user has one id only: files of other owners belong to root"
    " (lines for the user in /etc/subuid and /etc/subgid give more ids)"
)


def lacks(squashed_owners: int, skipped_devices: int) -> list[str]:
    """What to say, once in a build, of what could not be set."""
    texts = []
    if squashed_owners:
        texts.append(ONE_ID)
    if skipped_devices:
        texts.append("device nodes were left out: making them needs root")
    return texts


@dataclass(slots=True)
class AttributeSetter:
    """Sets attributes, knowing what a new file has anyway. Counts what could not be set."""

    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    umask: int = field(default_factory=current_umask)
    squashed_owners: int = 0
    skipped_devices: int = 0
    skipped_xattrs: int = 0

    def finish_file(self, descriptor: int, wanted: Attributes, directory_gid: int | None) -> None:
        """Set everything on a regular file just made with mode `wanted.mode & 0o777`.

        `directory_gid` is the group that a set-group-id directory gave it.
        """
        mode = wanted.mode
        born_gid = self.gid if directory_gid is None else directory_gid
        if wanted.uid != self.uid or wanted.gid != born_gid:
            self._own(descriptor, wanted)
        if mode & 0o7000 or mode & self.umask:
            os.fchmod(descriptor, mode)
        if wanted.xattrs:
            self.set_xattrs(descriptor, wanted.xattrs)
        os.utime(descriptor, ns=(wanted.mtime_ns, wanted.mtime_ns))

    def set_directory(self, path: bytes, wanted: Attributes) -> None:
        """Set owner, mode and xattrs of a directory; its time is set when it is complete."""
        self._own(path, wanted)
        os.chmod(path, wanted.mode)
        if wanted.xattrs:
            self.set_xattrs(path, wanted.xattrs)

    def finish_special(self, path: bytes, wanted: Attributes, *, symlink: bool) -> None:
        """Set everything on a link or a device that was just made."""
        self._own(path, wanted)
        if not symlink:
            os.chmod(path, wanted.mode)
        if wanted.xattrs:
            self.set_xattrs(path, wanted.xattrs)
        os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns), follow_symlinks=False)

    def change(self, path: bytes, wanted: Attributes) -> None:
        """Give a file that is there already other attributes. Its xattrs stay.

        Setting an owner, even to the same one, would take a program's capabilities away.
        """
        status = os.lstat(path)
        if (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
            self._own(path, wanted)
        if not modes.S_ISLNK(status.st_mode):
            os.chmod(path, wanted.mode)
        os.utime(path, ns=(wanted.mtime_ns, wanted.mtime_ns), follow_symlinks=False)

    def set_xattrs(self, target: bytes | int, xattrs: Mapping[str, bytes]) -> None:
        """Set visible xattrs under the names an upper directory stores them by."""
        for name, value in xattrs.items():
            try:
                if isinstance(target, int):
                    os.setxattr(target, stored_xattr(name), value)
                else:
                    os.setxattr(target, stored_xattr(name), value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self.skipped_xattrs += 1

    def make_node(self, name: bytes, mode: int, device: int, directory: int) -> bool:
        """mknod; False where this process may not make devices."""
        try:
            os.mknod(name, mode, device, dir_fd=directory)
        except PermissionError:
            if modes.S_ISFIFO(mode):
                raise
            self.skipped_devices += 1
            return False
        return True

    def _own(self, target: bytes | int, wanted: Attributes) -> None:
        try:
            if isinstance(target, int):
                os.fchown(target, wanted.uid, wanted.gid)
            else:
                os.lchown(target, wanted.uid, wanted.gid)
        except OSError as error:
            if error.errno not in _UNMAPPED:
                raise
            self.squashed_owners += 1
