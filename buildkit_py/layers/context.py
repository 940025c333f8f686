"""A user's directory as a tree: the files that a build context gives to COPY and ADD.

Every entry is owned by 0:0 (unless the directory was an archive), sockets are empty files, and
what the ignore rules exclude is not there. No lookup follows a link out of the directory.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Protocol, TypeAlias

from buildkit_py.filestamps import stamp_of
from buildkit_py.layers.tree import NO_ENTRY, BaseTree, Node, clean_path

Listed: TypeAlias = "list[tuple[bytes, os.DirEntry[bytes], bytes]]"
"""Path in the tree, entry, and real path of what is in a directory, last name first."""

_MOST_LISTED = 50_000


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
        self._listed: dict[bytes, tuple[bytes, Listed]] = {}
        self._room = _MOST_LISTED
        self.listed_again = False  # whether names were looked for in the directory itself
        self.touched: set[bytes] = set()  # whose content, link or extended attributes were read
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
        self.looked.add(node.path)
        found = []
        for path, entry, real in reversed(self._entries(node)):
            excluded = self._excluded(path)
            if excluded and not entry.is_dir(follow_symlinks=False):
                continue  # without a look at it: there may be many
            child = self._node(path, entry.stat(follow_symlinks=False), real)
            if not excluded or self._shown(child):
                found.append((entry.name, child))
        return found

    def _entries(self, node: Node) -> Listed:
        """What is in a directory: as it was listed for its digest, while it holds those names."""
        path = node.path.rstrip(b"/")
        kept = self._listed.get(path)
        if kept is not None and kept[0] == stamp_of(os.lstat(node.real)):
            return kept[1]
        self.listed_again = True
        return list_directory(node.real, path)

    def list_for_digest(self, path: bytes, real: bytes, status: os.stat_result) -> Listed:
        """What is in a directory, kept for whoever copies it: an entry keeps its stat data.

        So a copy has the attributes that the digest was taken of. `status` is the directory's,
        from before.
        """
        found = list_directory(real, path)
        self._room -= len(found)
        if self._room > 0:  # what is in a huge context is looked at twice instead
            self._listed[path] = (stamp_of(status), found)
        return found

    def open(self, node: Node) -> int:
        """A descriptor to read a regular file by."""
        self.touched.add(node.path)
        return super().open(node)

    def readlink(self, node: Node) -> bytes:
        """The target of a symbolic link."""
        self.touched.add(node.path)
        return super().readlink(node)

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """The extended attributes of an entry."""
        self.touched.add(node.path)
        return super().xattrs(node)

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


def list_directory(real: bytes, path: bytes) -> Listed:
    """The entries of a directory, last name first, as they are put on a stack."""
    base = path + b"/"
    with os.scandir(real) as entries:
        found = [(base + entry.name, entry, entry.path) for entry in entries]
    found.sort(key=_path, reverse=True)
    return found


def _path(item: tuple[bytes, os.DirEntry[bytes], bytes]) -> bytes:
    return item[0]


def _git_mode(mode: int) -> int:
    kind = modes.S_IFMT(mode)
    if kind == modes.S_IFLNK:
        return mode
    return kind | (0o755 if kind == modes.S_IFDIR or mode & 0o100 else 0o644)
