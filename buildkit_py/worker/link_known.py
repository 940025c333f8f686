"""Many unchanged files of a directory at once: links to an earlier result's files.

This is what a miss of a large COPY does almost only, so it is one loop with few calls. Whatever
is not as plain as expected is left to the copier, which goes through it entry by entry.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit_py.layers.attributes import Attributes
    from buildkit_py.layers.tree import Node
    from buildkit_py.worker.copy_tree import CopySettings, CopyTotals

_CHUNK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Entries = Sequence[tuple[bytes, "Node"]]


def link_files(
    entries: Entries,
    known: Callable[[bytes], bool],
    previous: bytes,
    folder: int,
    settings: CopySettings,
    totals: CopyTotals,
) -> Entries:
    """Link the files that are `known` to be unchanged into `folder`; gives the other entries.

    `previous` is the directory of the earlier result. A file of it is taken if it has the
    attributes that a copy would get, and only once: two names of one file are a hard link.
    """
    try:
        earlier = os.open(previous, _FOLDER)
    except OSError:
        return entries
    rest = []
    used = totals.used
    wanted_of = _attributes(settings)
    try:
        for item in entries:
            name, node = item
            status = node.status
            if (
                status.st_nlink == 1
                and known(node.path)
                and (status.st_mode & 0o170000) == 0o100000
                and (found := _found(name, earlier, status.st_size, wanted_of(node))) is not None
                and found not in used
                and _linked(name, earlier, folder)
            ):
                used.add(found)
                totals.size += status.st_size
            else:
                rest.append(item)
    finally:
        os.close(earlier)
    linked = len(entries) - len(rest)
    totals.files += linked
    totals.linked += linked
    return rest


def _attributes(settings: CopySettings) -> Callable[[Node], tuple[int, int, int, int]]:
    """Mode (with its type), owner and time that the copy of a file gets."""
    owner, change, mtime = settings.owner, settings.mode, settings.mtime_ns
    earliest = (settings.earliest or 0) * 1_000_000_000

    def attributes(node: Node) -> tuple[int, int, int, int]:
        mode = node.mode if change is None else 0o100000 | change.apply(node.mode)
        uid, gid = owner or (node.uid, node.gid)
        when = max(node.status.st_mtime_ns, earliest) if mtime is None else mtime
        return mode, uid, gid, when

    return attributes


def _found(
    name: bytes, earlier: int, size: int, wanted: tuple[int, int, int, int]
) -> tuple[int, int] | None:
    """The identity of the earlier file, if it is what a copy would be."""
    try:
        status = os.stat(name, dir_fd=earlier, follow_symlinks=False)
    except OSError:
        return None
    there = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    return (status.st_dev, status.st_ino) if there == wanted and status.st_size == size else None


def _linked(name: bytes, earlier: int, folder: int) -> bool:
    try:
        os.link(name, name, src_dir_fd=earlier, dst_dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def alike(status: os.stat_result, wanted: Attributes, size: int) -> bool:
    """Whether a file of an earlier result is what a copy would be, but for its content."""
    return (
        status.st_mode == modes.S_IFREG | wanted.mode
        and status.st_size == size
        and status.st_uid == wanted.uid
        and status.st_gid == wanted.gid
        and status.st_mtime_ns == wanted.mtime_ns
    )


def real_directory(path: bytes) -> bytes | None:
    """The path if a directory is there, and no link to one."""
    try:
        return path if modes.S_ISDIR(os.lstat(path).st_mode) else None
    except OSError:
        return None


def same_content(descriptor: int, path: bytes) -> bool:
    """Whether an open file and one at a path hold the same bytes."""
    offset = 0
    with open(path, "rb", buffering=0) as file:
        while True:
            mine = os.pread(descriptor, _CHUNK, offset)
            theirs = file.read(_CHUNK)
            if mine != theirs:
                return False
            if not mine:
                return True
            offset += len(mine)
