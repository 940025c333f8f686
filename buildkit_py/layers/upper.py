"""One directory of an upper, with what lies below it; small parts of `copy.py`."""

from __future__ import annotations

import os
import stat as modes

from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.tree import MergedTree, Node, read_xattrs

_LIST_AFTER = 16  # lookups in one lower directory after which it is listed instead


class UpperDirectory:
    """A directory of the upper, and what lies below it. Made by `TreeWriter` only."""

    __slots__ = ("_listing", "_lookups", "below", "gid", "path", "real")

    def __init__(self, path: bytes, real: bytes, below: Node | None, gid: int | None) -> None:
        self.path = path
        self.real = real
        self.below = below
        self.gid = gid  # of a set-group-id directory: what new entries get
        self._lookups = 0
        self._listing: dict[bytes, Node] | None = None

    def child_below(self, tree: MergedTree, name: bytes) -> Node | None:
        """The entry of that name in the lower directories."""
        if self.below is None:
            return None
        if self._listing is not None:
            return self._listing.get(name)
        self._lookups += 1
        if self._lookups > _LIST_AFTER:
            self._listing = dict(tree.children(self.below))
            return self._listing.get(name)
        return tree.child(self.below, name)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte."""
    done = os.write(descriptor, data)
    while done < len(data):
        done += os.write(descriptor, memoryview(data)[done:])


def node_attributes(node: Node) -> Attributes:
    """The attributes of an entry as it lies on disk."""
    xattrs = read_xattrs(node.real) if node.parts else {}
    return Attributes(
        mode=node.mode & 0o7777,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime_ns,
        xattrs=xattrs,
    )


def inherited_gid(mode: int, gid: int) -> int | None:
    """The group that entries of a directory of this mode are born with, if not their maker's."""
    return gid if mode & modes.S_ISGID else None


def join(path: bytes, name: bytes) -> bytes:
    """The path of an entry of a directory."""
    return (b"" if path == b"/" else path) + b"/" + name
