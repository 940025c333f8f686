"""Read views of file trees: overlay stacks merged without a mount, and build contexts.

A path in a tree is bytes, absolute, without a trailing slash. A `Node` is one entry; a directory
knows every real directory that merges into it. Symbolic links are resolved inside the tree, so
no lookup leaves it. Nothing here writes.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Iterator, Sequence
from typing import Protocol

from buildkit_py.errors import CopyError
from buildkit_py.layers.whiteout import (
    is_opaque,
    is_whiteout,
    is_xattr_whiteout,
    opaque_mark,
    visible_xattr,
)

MAX_LINKS = 255
NO_ENTRY = frozenset((errno.ENOENT, errno.ENOTDIR))
_XATTR_LACKS = frozenset((errno.ENOTSUP, errno.EPERM, errno.EACCES))
_EMPTY_ROOT = os.stat_result((modes.S_IFDIR | 0o755, 0, 0, 2, 0, 0, 0, 0, 0, 0))


class Node:
    """One entry of a tree. `mode`, `uid`, `gid` are as the tree shows them, `status` as on disk.

    `parts` are the real directories that merge into a directory, topmost first, and the one real
    path of anything else.
    """

    __slots__ = ("gid", "mode", "parts", "path", "status", "uid")

    def __init__(
        self,
        path: bytes,
        status: os.stat_result,
        parts: tuple[bytes, ...],
        mode: int,
        uid: int,
        gid: int,
    ) -> None:
        self.path = path
        self.status = status
        self.parts = parts
        self.mode = mode
        self.uid = uid
        self.gid = gid

    @property
    def real(self) -> bytes:
        """Where the entry (for a directory: its topmost part) lies on disk."""
        return self.parts[0]

    @property
    def name(self) -> bytes:
        """The last element of the path; empty for the root."""
        return self.path.rpartition(b"/")[2]

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.mode & 0o170000 == 0o040000

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & 0o170000 == 0o100000

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode & 0o170000 == 0o120000

    @property
    def size(self) -> int:
        """Length in bytes of a regular file, else 0."""
        return self.status.st_size if self.is_file and modes.S_ISREG(self.status.st_mode) else 0

    @property
    def mtime_ns(self) -> int:
        """Time of the last change of content."""
        return self.status.st_mtime_ns

    @property
    def rdev(self) -> int:
        """Device number of a device node."""
        return self.status.st_rdev

    def __repr__(self) -> str:
        return f"Node({self.path!r}, {modes.filemode(self.mode)})"


class Tree(Protocol):
    """What can be copied from, hashed and exported."""

    def root(self) -> Node:
        """The root directory."""
        ...

    def child(self, node: Node, name: bytes) -> Node | None:
        """One entry of a directory, links not followed."""
        ...

    def children(self, node: Node) -> list[tuple[bytes, Node]]:
        """The entries of a directory in the order of their names' bytes."""
        ...

    def lookup(self, path: str | bytes, *, follow: bool = True) -> Node | None:
        """The entry at a path; links on the way are followed inside the tree."""
        ...

    def resolve(self, path: str | bytes, *, follow: bool = True) -> bytes:
        """The path without symbolic links; what does not exist stays as written."""
        ...

    def readlink(self, node: Node) -> bytes:
        """The target of a symbolic link."""
        ...

    def open(self, node: Node) -> int:
        """A descriptor to read a regular file by."""
        ...

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """The extended attributes that the tree shows."""
        ...

    def link_key(self, node: Node) -> tuple[int, int, int] | None:
        """Equal for hard links of one file within the tree, None for a file with one name."""
        ...


def clean_path(path: str | bytes) -> bytes:
    """Absolute, no `.`, `..`, doubled or trailing slashes; `..` does not leave the root."""
    names: list[bytes] = []
    for name in os.fsencode(path).split(b"/"):
        if name == b"..":
            if names:
                names.pop()
        elif name not in {b"", b"."}:
            names.append(name)
    return b"/" + b"/".join(names)


class BaseTree:
    """Lookups by path, on top of `root` and `child`."""

    def root(self) -> Node:
        """The root directory."""
        raise NotImplementedError

    def child(self, node: Node, name: bytes) -> Node | None:
        """One entry of a directory."""
        raise NotImplementedError

    def children(self, node: Node) -> list[tuple[bytes, Node]]:
        """The entries of a directory."""
        raise NotImplementedError

    def _walk_to(
        self, path: bytes, *, follow: bool, top: bytes = b"/"
    ) -> tuple[bytes, Node | None]:
        """`top`, which exists and has no links in it, is the root of the path."""
        first = self.root() if top == b"/" else self._walk_to(top, follow=False)[1]
        if first is None:
            return top + path if path != b"/" else top, None
        nodes = [first]
        todo = [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                if len(nodes) > 1:
                    nodes.pop()
                continue
            if name in {b"", b"."}:
                continue
            here = nodes[-1]
            found = self.child(here, name) if here.is_dir else None
            if found is None:
                inside = here.path if top == b"/" else here.path[len(top) :]
                rest = clean_path(b"/".join([inside, name, *reversed(todo)]))
                return rest if top == b"/" else top + rest, None
            if found.is_symlink and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise CopyError(f"too many symbolic links in {os.fsdecode(path)}")
                target = self.readlink(found)
                if target.startswith(b"/"):
                    del nodes[1:]
                todo.extend(reversed(target.split(b"/")))
                continue
            nodes.append(found)
        return nodes[-1].path, nodes[-1]

    def lookup(self, path: str | bytes, *, follow: bool = True, top: bytes = b"/") -> Node | None:
        """The entry at a path, or None."""
        return self._walk_to(clean_path(path), follow=follow, top=top)[1]

    def lstat(self, path: str | bytes) -> Node | None:
        """The entry at a path, its last element not followed."""
        return self.lookup(path, follow=False)

    def resolve(self, path: str | bytes, *, follow: bool = True, top: bytes = b"/") -> bytes:
        """The path without symbolic links."""
        return self._walk_to(clean_path(path), follow=follow, top=top)[0]

    def listdir(self, path: str | bytes) -> list[bytes]:
        """Names in a directory, sorted; empty if there is none."""
        node = self.lookup(path)
        if node is None or not node.is_dir:
            return []
        return [name for name, _ in self.children(node)]

    def walk(self, path: str | bytes = b"/") -> Iterator[Node]:
        """The entry at a path and all below it, parents before children, sorted by name."""
        start = self.lookup(path, follow=False)
        stack = [] if start is None else [start]
        while stack:
            node = stack.pop()
            yield node
            if node.is_dir:
                stack.extend(child for _, child in reversed(self.children(node)))

    def readlink(self, node: Node) -> bytes:
        """The target of a link."""
        return os.readlink(node.real)

    def open(self, node: Node) -> int:
        """A descriptor to read a regular file by."""
        if not modes.S_ISREG(node.status.st_mode):
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        return os.open(node.real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def read(self, path: str | bytes, *, limit: int = 1 << 20) -> bytes | None:
        """Content of a small file, None if there is no regular file at that path."""
        node = self.lookup(path)
        if node is None or not node.is_file:
            return None
        descriptor = self.open(node)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit)

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """Extended attributes that the tree shows."""
        return read_xattrs(node.real)


def read_xattrs(path: bytes | int) -> dict[str, bytes]:
    """Extended attributes as seen through an overlay; links are not followed."""
    try:
        if isinstance(path, int):
            names = os.listxattr(path)
        else:
            names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _XATTR_LACKS:
            return {}
        raise
    if not names:
        return {}
    found: dict[str, bytes] = {}
    for name in names:
        shown = visible_xattr(name)
        if shown is not None:
            try:
                found[shown] = (
                    os.getxattr(path, name)
                    if isinstance(path, int)
                    else os.getxattr(path, name, follow_symlinks=False)
                )
            except OSError as error:
                if error.errno not in {*_XATTR_LACKS, errno.ENODATA}:
                    raise
    return found


class MergedTree(BaseTree):
    """Overlay-format directories, given from the lowest to the topmost, as one tree.

    A single plain directory is a stack of one. No directories at all is an empty root.
    """

    def __init__(self, directories: Sequence[str | bytes | os.PathLike[str]]) -> None:
        self.directories = tuple(os.fsencode(item) for item in directories)
        self._stack = self.directories[::-1]

    def root(self) -> Node:
        """The root: the topmost directory's metadata over all parts."""
        if not self._stack:
            return Node(b"/", _EMPTY_ROOT, (), _EMPTY_ROOT.st_mode, 0, 0)
        status = os.stat(self._stack[0])
        return Node(b"/", status, self._stack, status.st_mode, status.st_uid, status.st_gid)

    def child(self, node: Node, name: bytes) -> Node | None:
        """One entry of a directory, whiteouts and opaque marks minded."""
        path = (b"" if node.path == b"/" else node.path) + b"/" + name
        first: os.stat_result | None = None
        parts: list[bytes] = []
        for part in node.parts:
            real = part + b"/" + name
            try:
                status = os.lstat(real)
            except OSError as error:
                if error.errno in NO_ENTRY:
                    continue
                if error.errno == errno.ENAMETOOLONG:
                    return None
                raise
            if is_whiteout(status) or self._hidden_by_xattr(part, real, status):
                break
            if not modes.S_ISDIR(status.st_mode):
                if first is None:
                    return Node(
                        path, status, (real,), status.st_mode, status.st_uid, status.st_gid
                    )
                break
            first = first or status
            parts.append(real)
            if len(node.parts) > 1 and is_opaque(real):
                break
        if first is None:
            return None
        return Node(path, first, tuple(parts), first.st_mode, first.st_uid, first.st_gid)

    def children(self, node: Node) -> list[tuple[bytes, Node]]:
        """All entries of a directory, sorted by name."""
        base = (b"" if node.path == b"/" else node.path) + b"/"
        if len(node.parts) == 1:
            return _plain_children(base, node.parts[0])
        found: dict[bytes, tuple[os.stat_result, list[bytes]]] = {}
        closed: set[bytes] = set()
        last = len(node.parts) - 1
        for index, part in enumerate(node.parts):
            xattr_form = opaque_mark(part) == b"x"
            for entry in os.scandir(part):
                name = entry.name
                if name in closed:
                    continue
                status = entry.stat(follow_symlinks=False)
                above = found.get(name)
                if not modes.S_ISDIR(status.st_mode):
                    closed.add(name)
                    hidden = is_whiteout(status) or (
                        xattr_form and is_xattr_whiteout(entry.path, status)
                    )
                    if above is None and not hidden:
                        found[name] = (status, [entry.path])
                    continue
                if above is None:
                    found[name] = (status, [entry.path])
                else:
                    above[1].append(entry.path)
                if index < last and is_opaque(entry.path):
                    closed.add(name)
        return [
            (name, Node(base + name, s, tuple(parts), s.st_mode, s.st_uid, s.st_gid))
            for name, (s, parts) in sorted(found.items())
        ]

    def link_key(self, node: Node) -> tuple[int, int, int] | None:
        """Hard links join names of one layer only: layers may share files in the store."""
        if node.status.st_nlink < 2 or node.is_dir:
            return None
        for index, directory in enumerate(self._stack):
            if node.real.startswith(directory + b"/"):
                return (node.status.st_dev, node.status.st_ino, index)
        return None

    @staticmethod
    def _hidden_by_xattr(part: bytes, real: bytes, status: os.stat_result) -> bool:
        if status.st_size or not modes.S_ISREG(status.st_mode):
            return False
        return opaque_mark(part) == b"x" and is_xattr_whiteout(real, status)


def _plain_children(base: bytes, directory: bytes) -> list[tuple[bytes, Node]]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            s = entry.stat(follow_symlinks=False)
            if not (s.st_rdev == 0 and modes.S_ISCHR(s.st_mode)):
                name = entry.name
                found.append(
                    (name, Node(base + name, s, (entry.path,), s.st_mode, s.st_uid, s.st_gid))
                )
    found.sort(key=by_name)
    return found


def by_name(item: tuple[bytes, Node]) -> bytes:
    """Sort key of `children`."""
    return item[0]
