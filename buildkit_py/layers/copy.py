"""Writes into an overlay upper directory what a process would write through the mount.

`TreeWriter` sees the lower directories and the upper one as one tree and puts every change into
the upper: directories on the way are copied up with their attributes, what is removed becomes a
whiteout, a directory in place of a removed one becomes opaque. Paths given to it are resolved
(`resolve`) and hold no links; it never follows one itself. Times of directories are kept aside
and set by `close`, when nothing is put into them any more.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from buildkit_py.errors import CopyError
from buildkit_py.layers.attributes import Attributes, AttributeSetter
from buildkit_py.layers.removal import remove_directory
from buildkit_py.layers.tree import MergedTree, Node
from buildkit_py.layers.upper import (
    UpperDirectory,
    inherited_gid,
    join,
    node_attributes,
    write_all,
)
from buildkit_py.layers.whiteout import is_whiteout, make_whiteout, set_opaque

_MAX_OPEN = 64
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

PathLike = str | bytes | os.PathLike[str]


class TreeWriter:
    """Owned by one caller; use it in a `with` block, whose end sets directory times."""

    def __init__(
        self,
        lowers: Sequence[PathLike],
        upper: PathLike,
        *,
        opaque_xattr: str | None = None,
        blind: bool = False,
    ) -> None:
        """Write to `upper`; `blind` says that there are lower directories that are not given."""
        self.upper = os.fsencode(upper)
        self.tree = MergedTree([*lowers, upper])
        self.setter = AttributeSetter()
        self.generation = 0  # grows when a directory or a link goes: resolved paths are stale
        self._opaque_xattr = opaque_xattr
        self._below = MergedTree(lowers)
        self._blind = blind
        self._times: dict[bytes, int] = {}
        self._modes: dict[bytes, int] = {}
        self._open: dict[bytes, int] = {}
        self._directories: dict[bytes, UpperDirectory] = {}
        self._start(bool(lowers))

    def _start(self, has_lowers: bool) -> None:
        below = self._below.root() if has_lowers else None
        if below is not None:
            self.setter.set_directory(self.upper, node_attributes(below))
            self._times[self.upper] = below.mtime_ns
        status = os.stat(self.upper)
        self._directories[b"/"] = UpperDirectory(
            b"/", self.upper, below, inherited_gid(status.st_mode, status.st_gid)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close descriptors, then set the modes and times of directories."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        for real in sorted(self._modes, reverse=True):
            os.chmod(real, self._modes[real])
        self._modes.clear()
        for real, mtime in self._times.items():
            os.utime(real, ns=(mtime, mtime), follow_symlinks=False)
        self._times.clear()

    # -------------------------------------------------------------- looking
    def resolve(self, path: str | bytes, *, follow: bool = True, top: bytes = b"/") -> bytes:
        """A path without links; what does not exist yet stays as written.

        `top` is a resolved directory that the path is meant in and that no link leads out of.
        """
        return self.tree.resolve(path, follow=follow, top=top)

    def lookup(self, path: str | bytes, *, follow: bool = True, top: bytes = b"/") -> Node | None:
        """What is visible at a path now."""
        return self.tree.lookup(path, follow=follow, top=top)

    def entry(self, directory: UpperDirectory, name: bytes) -> Node | None:
        """What is visible under a name of a directory now."""
        real = directory.real + b"/" + name
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            return directory.child_below(self._below, name)
        if is_whiteout(status):
            return None
        path = join(directory.path, name)
        return Node(path, status, (real,), status.st_mode, status.st_uid, status.st_gid)

    # -------------------------------------------------------------- directories
    def directory(self, path: bytes) -> UpperDirectory:
        """An existing directory, brought into the upper with its parents."""
        missing = []
        known = self._directories.get(path)
        while known is None:
            path, _, name = path.rpartition(b"/")
            missing.append(name)
            known = self._directories.get(path or b"/")
        while missing:
            name = missing.pop()
            node = self.entry(known, name)
            if node is None or not node.is_dir:
                raise CopyError(f"{os.fsdecode(join(known.path, name))}: not a directory")
            known = self._enter(known, name, node)
        return known

    def make_directories(
        self, path: bytes, wanted: Attributes, *, born_here: bool = False, owned: bool = False
    ) -> list[UpperDirectory]:
        """Mkdir -p of a resolved path; gives the directories that were made, parents first.

        Those that are there already stay as they are, below. `born_here` gives a new directory
        what the kernel gives it in a set-group-id one: the bit and, unless `owned`, the group.
        """
        made: list[UpperDirectory] = []
        there = None if path in self._directories else self.lookup(path, follow=False)
        if path in self._directories or (there is not None and there.is_dir):
            return made
        names = [name for name in path.split(b"/") if name]
        here = self._directories[b"/"]
        for name in names:
            node = self.entry(here, name)
            if node is None:
                if born_here and here.gid is not None:
                    gid = wanted.gid if owned else here.gid
                    wanted = replace(wanted, mode=wanted.mode | modes.S_ISGID, gid=gid)
                here = self.make_directory(here, name, wanted)
                made.append(here)
            elif node.is_dir:
                here = self._enter(here, name, node)
            else:
                raise CopyError(f"mkdir {os.fsdecode(join(here.path, name))}: not a directory")
        return made

    def make_directory(
        self, parent: UpperDirectory, name: bytes, wanted: Attributes
    ) -> UpperDirectory:
        """A new directory where nothing is visible."""
        self._touch(parent)
        real = parent.real + b"/" + name
        hides = False
        try:
            os.mkdir(real, 0o700)
        except FileExistsError:  # a whiteout of something below
            os.unlink(real)
            os.mkdir(real, 0o700)
            lower = parent.child_below(self._below, name)
            hides = self._blind or (lower is not None and lower.is_dir)
        if hides:
            set_opaque(real, self._opaque_xattr)
        made = UpperDirectory(
            join(parent.path, name), real, None, inherited_gid(wanted.mode, wanted.gid)
        )
        self._directories[made.path] = made
        self.set_directory(made, wanted)
        return made

    def set_directory(self, directory: UpperDirectory, wanted: Attributes) -> None:
        """Replace a directory's attributes."""
        if wanted.mode & 0o700 != 0o700 and self.setter.uid:
            self._modes[directory.real] = wanted.mode  # we still have to write into it
            wanted = replace(wanted, mode=wanted.mode | 0o700)
        self.setter.set_directory(directory.real, wanted)
        directory.gid = inherited_gid(wanted.mode, wanted.gid)
        self._times[directory.real] = wanted.mtime_ns

    def set_time(self, directory: UpperDirectory, mtime_ns: int) -> None:
        """Set a directory's time."""
        self._times[directory.real] = mtime_ns

    def make_opaque(self, directory: UpperDirectory) -> None:
        """Hide everything that lies below a directory.

        Overlay ignores the mark on a root, so there every name below gets a whiteout.
        """
        if directory.path != b"/":
            set_opaque(directory.real, self._opaque_xattr)
        elif directory.below is not None:
            for name, _ in self._below.children(directory.below):
                self._hide_missing(directory, name)
        inside = join(directory.path, b"")
        for path, known in self._directories.items():
            if path.startswith(inside) or known is directory:
                known.below = None

    def _hide_missing(self, directory: UpperDirectory, name: bytes) -> None:
        real = directory.real + b"/" + name
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            make_whiteout(name, self.descriptor(directory))
        else:
            if modes.S_ISDIR(status.st_mode):
                set_opaque(real, self._opaque_xattr)

    def _enter(self, parent: UpperDirectory, name: bytes, node: Node) -> UpperDirectory:
        path = join(parent.path, name)
        known = self._directories.get(path)
        if known is not None:
            return known
        real = parent.real + b"/" + name
        below = parent.child_below(self._below, name)
        if below is not None and not below.is_dir:
            below = None
        if node.real != real:
            self._touch(parent)
            os.mkdir(real, 0o700)
            entered = UpperDirectory(path, real, below, None)
            self._directories[path] = entered
            self.set_directory(entered, node_attributes(node))
            return entered
        entered = UpperDirectory(path, real, below, inherited_gid(node.mode, node.gid))
        self._directories[path] = entered
        return entered

    def _touch(self, directory: UpperDirectory) -> None:
        """Remember the time of a directory before its first change."""
        if directory.real not in self._times:
            self._times[directory.real] = os.stat(directory.real).st_mtime_ns

    # -------------------------------------------------------------- entries
    def new_file(
        self, directory: UpperDirectory, name: bytes, mode: int, *, over_directory: bool = True
    ) -> int:
        """A descriptor of a new file in place of what is there.

        Raises CopyError for a directory there unless `over_directory`.
        """
        folder = self.descriptor(directory)
        if directory.below is not None and not over_directory:
            self.refuse_directory(directory, name)
        try:
            return os.open(name, _NEW_FILE, mode & 0o777, dir_fd=folder)
        except FileExistsError:
            if not over_directory:
                self.refuse_directory(directory, name)
            self.clear(directory, name)
            return os.open(name, _NEW_FILE, mode & 0o777, dir_fd=folder)

    def refuse_directory(self, directory: UpperDirectory, name: bytes) -> None:
        """Raise CopyError if a directory is visible under a name."""
        found = self.entry(directory, name)
        if found is not None and found.is_dir:
            shown = os.fsdecode(join(directory.path, name))
            raise CopyError(f"cannot replace to directory {shown} with file")

    def write_file(
        self, directory: UpperDirectory, name: bytes, wanted: Attributes, data: Iterable[bytes]
    ) -> None:
        """A regular file with that content."""
        descriptor = self.new_file(directory, name, wanted.mode)
        try:
            for piece in data:
                write_all(descriptor, piece)
            self.setter.finish_file(descriptor, wanted, directory.gid)
        finally:
            os.close(descriptor)

    def symlink(
        self, directory: UpperDirectory, name: bytes, target: bytes, wanted: Attributes
    ) -> None:
        """A symbolic link."""
        self.clear(directory, name)
        os.symlink(target, name, dir_fd=self.descriptor(directory))
        self.setter.finish_special(directory.real + b"/" + name, wanted, symlink=True)

    def node(
        self, directory: UpperDirectory, name: bytes, kind: int, device: int, wanted: Attributes
    ) -> None:
        """A device or a FIFO; `kind` is the type part of a mode."""
        self.clear(directory, name)
        folder = self.descriptor(directory)
        if self.setter.make_node(name, kind | 0o600, device, folder):
            self.setter.finish_special(directory.real + b"/" + name, wanted, symlink=False)

    def link(
        self, directory: UpperDirectory, name: bytes, origin: UpperDirectory, origin_name: bytes
    ) -> None:
        """A further name for a file that lies in the upper."""
        self.link_from(directory, name, origin.real + b"/" + origin_name)

    def link_from(
        self, directory: UpperDirectory, name: bytes, real: bytes, *, over_directory: bool = True
    ) -> None:
        """A further name for a file of the store; the store's files are never changed in place."""
        folder = self.descriptor(directory)
        if directory.below is not None and not over_directory:
            self.refuse_directory(directory, name)
        try:
            os.link(real, name, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            if not over_directory:
                self.refuse_directory(directory, name)
            self.clear(directory, name)
            os.link(real, name, dst_dir_fd=folder, follow_symlinks=False)

    def copy_up(self, path: bytes) -> tuple[UpperDirectory, bytes]:
        """Bring a file that lies below into the upper unchanged."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self.directory(parent_path or b"/")
        node = self.entry(parent, name)
        if node is None or node.is_dir:
            raise CopyError(f"{os.fsdecode(path)}: no such file")
        if node.real != parent.real + b"/" + name:
            if node.is_symlink:
                self.symlink(parent, name, os.readlink(node.real), node_attributes(node))
            elif node.is_file:
                with open(node.real, "rb") as file:
                    pieces = iter(lambda: file.read(1 << 20), b"")
                    self.write_file(parent, name, node_attributes(node), pieces)
            else:
                kind = modes.S_IFMT(node.mode)
                self.node(parent, name, kind, node.rdev, node_attributes(node))
        return parent, name

    # -------------------------------------------------------------- removing
    def clear(self, directory: UpperDirectory, name: bytes) -> None:
        """Take away what the upper holds under a name, since something takes its place."""
        self._touch(directory)
        real = directory.real + b"/" + name
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            return
        if modes.S_ISDIR(status.st_mode):
            self.generation += 1
            self._forget(join(directory.path, name))
            remove_directory(real)
        else:
            self.generation += modes.S_ISLNK(status.st_mode)
            os.unlink(real)

    def remove(self, directory: UpperDirectory, name: bytes) -> None:
        """Make a name vanish: out of the upper, and hidden if it lies below."""
        self.clear(directory, name)
        if directory.child_below(self._below, name) is not None:
            make_whiteout(name, self.descriptor(directory))

    def hide(self, directory: UpperDirectory, name: bytes) -> None:
        """A whiteout, whether anything is known below or not."""
        self.clear(directory, name)
        make_whiteout(name, self.descriptor(directory))

    # -------------------------------------------------------------- descriptors
    def descriptor(self, directory: UpperDirectory) -> int:
        """A descriptor of the directory, valid until some other directories were opened."""
        found = self._open.get(directory.real)
        if found is not None:
            return found
        self._touch(directory)
        if len(self._open) >= _MAX_OPEN:
            oldest = next(iter(self._open))
            os.close(self._open.pop(oldest))
        opened = os.open(directory.real, _DIRECTORY)
        self._open[directory.real] = opened
        return opened

    def _forget(self, path: bytes) -> None:
        inside = path + b"/"
        gone = [item for item in self._directories if item == path or item.startswith(inside)]
        for item in gone:
            real = self._directories.pop(item).real
            self._times.pop(real, None)
            self._modes.pop(real, None)
            if real in self._open:
                os.close(self._open.pop(real))
