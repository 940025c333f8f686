"""Several upper directories, one above the other, as one: what `--squash` makes of layers.

What an upper brings is linked, not copied; what it deletes goes from the ones below it, and stays
as a whiteout only where a directory under all of them still has it.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Sequence

from buildkit_py.layers.copy import PathLike, TreeWriter
from buildkit_py.layers.tree import Node
from buildkit_py.layers.upper import UpperDirectory, join, node_attributes
from buildkit_py.layers.whiteout import is_whiteout, is_xattr_whiteout, opaque_mark

_CANNOT_LINK = frozenset((errno.EMLINK, errno.EXDEV, errno.EPERM))


def squash(uppers: Sequence[PathLike], lowers: Sequence[PathLike], target: PathLike) -> None:
    """Merge `uppers`, lowest first, into the new directory `target`, which stands on `lowers`."""
    with TreeWriter(lowers, target) as writer:
        inodes: dict[tuple[int, int], int] = {}
        for number, upper in enumerate(uppers):
            _Merger(writer, number, inodes).walk(os.fsencode(upper))


class _Merger:
    """Puts one upper on what the writer has."""

    def __init__(
        self, writer: TreeWriter, number: int, inodes: dict[tuple[int, int], int]
    ) -> None:
        self._writer = writer
        self._number = number
        self._inodes = inodes

    def walk(self, upper: bytes) -> None:
        root = self._writer.directory(b"/")
        stack = [(upper, root)]
        top = _node(b"/", upper)
        if opaque_mark(upper) == b"y":
            self._empty(root)
        self._writer.set_directory(root, node_attributes(top))
        while stack:
            real, directory = stack.pop()
            marked = opaque_mark(real) == b"x"
            for name in sorted(os.listdir(real)):
                inside = self._entry(real, directory, name, marked=marked)
                if inside is not None:
                    stack.append((real + b"/" + name, inside))

    def _entry(
        self, real: bytes, directory: UpperDirectory, name: bytes, *, marked: bool
    ) -> UpperDirectory | None:
        """Put one name in its place; gives a directory that is still to be filled."""
        path = real + b"/" + name
        node = _node(join(directory.path, name), path)
        if is_whiteout(node.status) or (marked and is_xattr_whiteout(path, node.status)):
            self._writer.remove(directory, name)
            return None
        if node.is_dir:
            return self._directory(directory, name, node)
        self._writer.clear(directory, name)
        if node.is_symlink:
            target = os.readlink(path)
            self._writer.symlink(directory, name, target, node_attributes(node))
        elif not self._linked(directory, name, node):
            if node.is_file:
                with open(path, "rb") as file:
                    pieces = iter(lambda: file.read(1 << 20), b"")
                    self._writer.write_file(directory, name, node_attributes(node), pieces)
            else:
                kind = modes.S_IFMT(node.mode)
                self._writer.node(directory, name, kind, node.rdev, node_attributes(node))
        return None

    def _directory(self, directory: UpperDirectory, name: bytes, node: Node) -> UpperDirectory:
        wanted = node_attributes(node)
        found = self._writer.entry(directory, name)
        if found is not None and (not found.is_dir or opaque_mark(node.real) == b"y"):
            self._writer.remove(directory, name)
            found = None
        if found is None:
            return self._writer.make_directory(directory, name, wanted)
        there = self._writer.directory(found.path)
        self._writer.set_directory(there, wanted)
        return there

    def _linked(self, directory: UpperDirectory, name: bytes, node: Node) -> bool:
        """Give the file its name here too. Files of two layers are never names of one inode."""
        key = (node.status.st_dev, node.status.st_ino)
        if self._inodes.setdefault(key, self._number) != self._number:
            return False
        try:
            self._writer.link_from(directory, name, node.real)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return False
        return True

    def _empty(self, directory: UpperDirectory) -> None:
        for name in self._writer.tree.listdir(directory.path):
            self._writer.remove(directory, name)


def _node(path: bytes, real: bytes) -> Node:
    status = os.lstat(real)
    return Node(path, status, (real,), status.st_mode, status.st_uid, status.st_gid)
