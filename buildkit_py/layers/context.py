"""A user's directory as a tree: the files that a build context gives to COPY and ADD.

Every entry is owned by 0:0 (unless the directory was an archive), sockets are empty files, and
what the ignore rules exclude is not there. No lookup follows a link out of the directory.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Protocol

from buildkit_py.layers.tree import NO_ENTRY, BaseTree, Node, by_name, clean_path


class IgnoreRules(Protocol):
    """What an ignore file says about paths (relative, with slashes)."""

    def excluded(self, path: str) -> bool:
        """Whether the path, or a directory above it, is left out."""
        ...

    def may_descend(self, path: str) -> bool:
        """Whether an excluded directory may hold something that is not excluded."""
        ...


class ContextTree(BaseTree):
    """A user's directory as a build context: owner 0:0, sockets as empty files, ignore rules.

    `normalize_modes` shows modes as git keeps them, so that a umask changes nothing.
    `keeps_owners` shows owners as they are: those of an archive say something.
    """

    def __init__(
        self,
        root: str | bytes | os.PathLike[str],
        ignore: IgnoreRules | None = None,
        *,
        normalize_modes: bool = False,
        keeps_owners: bool = False,
    ) -> None:
        self.keeps_owners = keeps_owners
        self.directory = os.path.realpath(os.fsencode(root))
        self._ignore = ignore
        self._normalize = normalize_modes
        self._partial: dict[bytes, list[tuple[bytes, Node]]] = {}
        self.looked: set[bytes] = set()  # what was found by name, and the directories listed

    @property
    def filtered(self) -> bool:
        """Whether ignore rules hide anything: the directory itself then shows too much."""
        return self._ignore is not None

    def root(self) -> Node:
        """The context's directory."""
        return self._node(b"/", os.stat(self.directory), self.directory)

    def child(self, node: Node, name: bytes) -> Node | None:
        """One entry that the ignore rules let through."""
        real = node.real + b"/" + name
        try:
            status = os.lstat(real)
        except OSError as error:
            if error.errno in {*NO_ENTRY, errno.ENAMETOOLONG}:
                return None
            raise
        path = (b"" if node.path == b"/" else node.path) + b"/" + name
        self.looked.add(path)
        found = self._node(path, status, real)
        return found if self._shown(found) else None

    def children(self, node: Node) -> list[tuple[bytes, Node]]:
        """The entries that the ignore rules let through, sorted."""
        if node.path in self._partial:
            return self._partial[node.path]
        base = (b"" if node.path == b"/" else node.path) + b"/"
        self.looked.add(node.path)
        found = []
        with os.scandir(node.real) as entries:
            for entry in entries:
                name = entry.name
                excluded = self._excluded(base + name)
                if excluded and not entry.is_dir(follow_symlinks=False):
                    continue  # without a look at it: there may be many
                status = entry.stat(follow_symlinks=False)
                child = self._node(base + name, status, entry.path)
                if not excluded or self._shown(child):
                    found.append((name, child))
        found.sort(key=by_name)
        return found

    def excluded(self, path: str | bytes) -> bool:
        """Whether something is there, but the ignore rules hide it."""
        return self._excluded(clean_path(path))

    def link_key(self, node: Node) -> tuple[int, int, int] | None:
        """Hard links within the context."""
        if node.status.st_nlink < 2 or node.is_dir:
            return None
        return (node.status.st_dev, node.status.st_ino, 0)

    def _excluded(self, path: bytes) -> bool:
        return self._ignore is not None and self._ignore.excluded(os.fsdecode(path[1:]))

    def _shown(self, node: Node) -> bool:
        if self._ignore is None or not self._excluded(node.path):
            return True
        if not node.is_dir or not self._ignore.may_descend(os.fsdecode(node.path[1:])):
            return False
        # An excluded directory shows only as the parent of something that an exception names.
        inside = self.children(node)
        self._partial[node.path] = inside
        return bool(inside)

    def show(self, path: bytes, status: os.stat_result, real: bytes) -> Node:
        """The entry that a path with this status is shown as, without asking the ignore rules."""
        return self._node(path, status, real)

    def _node(self, path: bytes, status: os.stat_result, real: bytes) -> Node:
        mode = status.st_mode
        if modes.S_ISSOCK(mode):
            mode = modes.S_IFREG | (mode & 0o7777)
        if self._normalize:
            mode = _git_mode(mode)
        uid, gid = (status.st_uid, status.st_gid) if self.keeps_owners else (0, 0)
        return Node(path, status, (real,), mode, uid, gid)


def _git_mode(mode: int) -> int:
    kind = modes.S_IFMT(mode)
    if kind == modes.S_IFLNK:
        return mode
    return kind | (0o755 if kind == modes.S_IFDIR or mode & 0o100 else 0o644)
