"""Copies a tree to a plain directory: filtered build contexts, and roots where overlay fails."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit_py.layers.tree import Node, Tree

_CHUNK = 1 << 20


def copy_tree(tree: Tree, node: Node, target: Path) -> None:
    """Copy a node of a tree: a directory's content into `target`, a file as `target`."""
    copier = _Copier(tree)
    if node.is_dir:
        target.mkdir(exist_ok=True)
        copier.directory(node, os.fsencode(target))
    else:
        copier.entry(node, os.fsencode(target))


class _Copier:
    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.links: dict[tuple[int, int, int], bytes] = {}

    def directory(self, node: Node, target: bytes) -> None:
        for name, child in self.tree.children(node):
            self.entry(child, target + b"/" + name)
        self._finish(target, node)

    def entry(self, node: Node, target: bytes) -> None:
        if node.is_dir:
            os.mkdir(target, 0o700)
            self.directory(node, target)
            return
        key = self.tree.link_key(node)
        if key is not None and key in self.links:
            os.link(self.links[key], target, follow_symlinks=False)
            return
        if node.is_symlink:
            os.symlink(self.tree.readlink(node), target)
        elif node.is_file:
            self._file(node, target)
        else:
            with suppress(PermissionError):  # a device in a user namespace
                os.mknod(target, stat.S_IFMT(node.mode) | 0o600, node.rdev)
        if os.path.lexists(target):
            self._finish(target, node)
            if key is not None:
                self.links[key] = target

    def _file(self, node: Node, target: bytes) -> None:
        source = self.tree.open(node)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        sink = os.open(target, flags, 0o600)
        try:
            while data := os.read(source, _CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(sink, view) :]
        finally:
            os.close(source)
            os.close(sink)

    def _finish(self, target: bytes, node: Node) -> None:
        with suppress(PermissionError, OSError):
            os.chown(target, node.uid, node.gid, follow_symlinks=False)
        if not node.is_symlink:
            os.chmod(target, stat.S_IMODE(node.mode))
        for name, value in self.tree.xattrs(node).items():
            with suppress(OSError):
                os.setxattr(target, name, value, follow_symlinks=False)
        with suppress(OSError):
            os.utime(target, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
