"""Copies files and directory trees into a layer: the inner loop of COPY and ADD.

What is new gets the attributes of its source (or those that were asked for); a directory that is
there already gets them too, unless it is the destination itself. Hard links within one copied
tree stay hard links. Files that an earlier result of the same step has alike are linked to it
inside the store instead of being written again.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from buildkit_py.errors import BuildCancelled, CopyError
from buildkit_py.layers import bytecode
from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.context import IgnoreRules
from buildkit_py.layers.copy import TreeWriter
from buildkit_py.layers.tree import Node, Tree, read_xattrs
from buildkit_py.layers.upper import UpperDirectory, write_all
from buildkit_py.worker.copy_mode import ModeChange
from buildkit_py.worker.link_known import (
    Entries,
    alike,
    link_files,
    real_directory,
    same_content,
)

_SMALL = 1 << 16
_CHUNK = 1 << 20
_RANGE = 1 << 30
_NO_XATTRS: dict[str, bytes] = {}
_NO_RANGE = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EIO)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviousCopy:
    """An earlier result of the same step: its upper directory.

    `unchanged(input, path)` says that a source file is known to be what it was then; without it
    contents are compared.
    """

    upper: Path
    unchanged: Callable[[int, bytes], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySettings:
    """How attributes of copies come about. `owner` None keeps the source's."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None
    mtime_ns: int | None = None  # of everything that is copied
    earliest: int | None = None  # seconds; older times become this
    made_at: int = 0  # ns; of what has no source to take a time from
    rules: IgnoreRules | None = None

    def attributes(self, node: Node, xattrs: dict[str, bytes]) -> Attributes:
        """What the copy of an entry gets."""
        uid, gid = self.owner or (node.uid, node.gid)
        mode = node.mode & 0o7777
        if self.mode is not None and not node.is_symlink:
            mode = self.mode.apply(node.mode)
        return Attributes(mode=mode, uid=uid, gid=gid, mtime_ns=self.time_of(node), xattrs=xattrs)

    def time_of(self, node: Node) -> int:
        """The time (ns) of the copy of an entry."""
        if self.mtime_ns is not None:
            return self.mtime_ns
        return max(node.mtime_ns, (self.earliest or 0) * 1_000_000_000)

    def made(self) -> Attributes:
        """What directories get that are made on the way."""
        uid, gid = self.owner or (0, 0)
        mode = 0o755 if self.mode is None else self.mode.made_directories
        mtime = self.made_at if self.mtime_ns is None else self.mtime_ns
        return Attributes(mode=mode, uid=uid, gid=gid, mtime_ns=mtime)


@dataclass(slots=True)
class CopyTotals:
    """What an op has done so far, and store files already linked in it."""

    files: int = 0
    size: int = 0
    linked: int = 0
    used: set[tuple[int, int]] = field(default_factory=set)
    warnings: dict[str, None] = field(default_factory=dict)


class Target:
    """A directory to copy into, made when the first thing lands in it, with those above it."""

    __slots__ = ("directory", "name", "node", "parent", "previous")

    def __init__(
        self,
        parent: Target | None,
        name: bytes,
        node: Node,
        directory: UpperDirectory | None = None,
        previous: bytes | None = None,
    ) -> None:
        self.parent = parent
        self.name = name
        self.node = node
        self.directory = directory
        self.previous = previous  # the same directory in the earlier result


class TreeCopier:
    """Copies one source (a file, or a directory with all below it). Made anew for each."""

    def __init__(
        self,
        writer: TreeWriter,
        tree: Tree,
        settings: CopySettings,
        totals: CopyTotals,
        *,
        previous: PreviousCopy | None = None,
        input_index: int = 0,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._writer = writer
        self._tree = tree
        self._settings = settings
        self._totals = totals
        self._previous = previous
        self._input = input_index
        self._cancelled = cancelled
        self._links: dict[tuple[int, int, int], bytes] = {}

    # -------------------------------------------------------------- directories
    def copy_contents(self, node: Node, directory: UpperDirectory) -> None:
        """Everything in a directory into an existing one."""
        self._run(self.into(node, directory), "")

    def into(self, node: Node, directory: UpperDirectory) -> Target:
        """A directory to copy into that is there."""
        return Target(None, b"", node, directory, self._previous_path(directory.path))

    def copy_below(self, node: Node, parent: Target, name: bytes, path: str) -> None:
        """An entry, with all below it, under a name; `path` is what rules know it by.

        A directory that the rules exclude is made if they let something through below it.
        """
        if not node.is_dir:
            self._entry(node, parent, name)
            return
        target = Target(parent, name, node)
        rules = self._settings.rules
        if rules is None or not path or not rules.excluded(path):
            self._make(target, full=True)
        self._run(target, path + "/")

    def _run(self, top: Target, prefix: str) -> None:
        rules = self._settings.rules
        stack = [(top, prefix)]
        while stack:
            target, prefix = stack.pop()
            if self._cancelled is not None and self._cancelled.is_set():
                raise BuildCancelled("the build was cancelled")
            below: list[tuple[Target, str]] = []
            entries: Entries = self._tree.children(target.node)
            if rules is None and target.previous is not None and entries:
                entries = self._link_many(entries, target, target.previous)
            for name, child in entries:
                hidden = False
                path = ""
                if rules is not None:
                    path = prefix + os.fsdecode(name)
                    hidden = rules.excluded(path)
                    if hidden and not (child.is_dir and rules.may_descend(path)):
                        continue
                if not child.is_dir:
                    self._entry(child, target, name)
                    continue
                inner = Target(target, name, child)
                if not hidden:
                    self._make(inner, full=True)
                below.append((inner, path + "/"))
            stack.extend(reversed(below))

    def _make(self, target: Target, *, full: bool = False) -> UpperDirectory:
        """The directory of a target; `full` gives an existing one all of the attributes."""
        if target.directory is not None:
            return target.directory
        assert target.parent is not None
        parent = self._make(target.parent)
        if target.parent.previous is not None:
            target.previous = real_directory(target.parent.previous + b"/" + target.name)
        node, name = target.node, target.name
        wanted = self._settings.attributes(node, self._tree.xattrs(node))
        there = self._writer.entry(parent, name)
        if there is None:
            target.directory = self._writer.make_directory(parent, name, wanted)
            return target.directory
        if not there.is_dir:
            raise CopyError(f"cannot copy to non-directory: {os.fsdecode(there.path)}")
        target.directory = self._writer.directory(there.path)
        if not full:
            wanted = Attributes(
                mode=node.mode & 0o7777, uid=there.uid, gid=there.gid, mtime_ns=there.mtime_ns
            )
        self._writer.set_directory(target.directory, wanted)
        return target.directory

    # -------------------------------------------------------------- entries
    def copy_entry(self, node: Node, directory: UpperDirectory, name: bytes) -> None:
        """Anything but a directory, under a name."""
        previous = self._previous_path(directory.path)
        self._entry(node, Target(None, b"", node, directory, previous), name)

    def _entry(self, node: Node, target: Target, name: bytes) -> None:
        directory = target.directory or self._make(target)
        first = None
        key = None
        if node.status.st_nlink > 1:
            key = self._tree.link_key(node)
            first = None if key is None else self._links.get(key)
        if first is not None:
            self._writer.link_from(directory, name, first, over_directory=False)
        elif node.is_file:
            self._file(node, target, directory, name)
        else:
            self._special(node, directory, name)
        if key is not None and first is None:
            self._links[key] = directory.real + b"/" + name
        self._totals.files += 1

    def _file(self, node: Node, target: Target, directory: UpperDirectory, name: bytes) -> None:
        self._totals.size += node.size
        previous = target.previous
        if previous is not None and self._link_known(node, previous, directory, name):
            return
        source = self._tree.open(node)
        try:
            wanted = self._settings.attributes(node, read_xattrs(source))
            if previous is not None and self._link_compared(
                node, source, wanted, previous + b"/" + name, directory
            ):
                return
            written = self._writer.new_file(directory, name, wanted.mode, over_directory=False)
            try:
                copy_content(source, written, node.size)
                if self._settings.earliest is not None and name.endswith(bytecode.SUFFIX):
                    _settle_bytecode(source, written, self._settings)
                self._writer.setter.finish_file(written, wanted, directory.gid)
            finally:
                os.close(written)
        finally:
            os.close(source)

    def _special(self, node: Node, directory: UpperDirectory, name: bytes) -> None:
        self._writer.refuse_directory(directory, name)
        wanted = self._settings.attributes(node, self._tree.xattrs(node))
        if node.is_symlink:
            self._writer.symlink(directory, name, self._tree.readlink(node), wanted)
            return
        # a stage's socket too: it is a socket for later steps, and in no layer
        self._writer.node(directory, name, modes.S_IFMT(node.mode), node.rdev, wanted)

    # -------------------------------------------------------------- earlier results
    def _previous_path(self, path: bytes) -> bytes | None:
        """A directory of the earlier result; None where a link stands in the way."""
        if self._previous is None:
            return None
        real: bytes | None = os.fsencode(self._previous.upper)
        for name in path.split(b"/"):
            if name and real is not None:
                real = real_directory(real + b"/" + name)
        return real

    def _link_many(self, entries: Entries, target: Target, previous: bytes) -> Entries:
        """Link what is known to be unchanged in a new directory; gives what is left to do."""
        directory = target.directory or self._make(target)
        known = None if self._previous is None else self._previous.unchanged
        if known is None or directory.below is not None:
            return entries
        return link_files(
            entries,
            partial(known, self._input),
            previous,
            self._writer.descriptor(directory),
            self._settings,
            self._totals,
        )

    def _link_known(
        self, node: Node, previous: bytes, directory: UpperDirectory, name: bytes
    ) -> bool:
        """Link a file that is known to be unchanged, without opening it.

        Extended attributes count as content, so they are unchanged as well.
        """
        assert self._previous is not None
        known = self._previous.unchanged
        if known is None or not known(self._input, node.path):
            return False
        wanted = self._settings.attributes(node, _NO_XATTRS)
        return self._link(previous + b"/" + name, node, wanted, directory)

    def _link_compared(
        self,
        node: Node,
        source: int,
        wanted: Attributes,
        real: bytes,
        directory: UpperDirectory,
    ) -> bool:
        """Link a file that turns out to be unchanged when it is read."""
        assert self._previous is not None
        if self._previous.unchanged is not None:
            return False
        try:
            status = os.lstat(real)
        except OSError:
            return False
        if (
            not alike(status, wanted, node.size)
            or read_xattrs(real) != wanted.xattrs
            or not same_content(source, real)
        ):
            return False
        return self._link(real, node, wanted, directory)

    def _link(
        self, real: bytes, node: Node, wanted: Attributes, directory: UpperDirectory
    ) -> bool:
        try:
            status = os.lstat(real)
        except OSError:
            return False
        identity = (status.st_dev, status.st_ino)
        if identity in self._totals.used or not alike(status, wanted, node.size):
            return False  # two names of one file would become a hard link
        name = real.rpartition(b"/")[2]
        try:
            self._writer.link_from(directory, name, real, over_directory=False)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EMLINK, errno.EPERM}:
                raise
            return False
        self._totals.used.add(identity)
        self._totals.linked += 1
        return True


def _settle_bytecode(source: int, written: int, settings: CopySettings) -> None:
    """Let bytecode follow its source, whose time may have been changed in the same way."""
    head = os.pread(source, bytecode.HEADER, 0)
    latest = None if settings.mtime_ns is None else settings.mtime_ns // 1_000_000_000
    changed = bytecode.settled(head, earliest=settings.earliest, latest=latest)
    if changed != head:
        os.pwrite(written, changed, 0)


def copy_content(source: int, target: int, size: int) -> None:
    """Copy a file's bytes: small ones by hand, large ones inside the kernel where it can."""
    if size <= _SMALL:
        data = os.read(source, _SMALL + 1)
        if len(data) <= _SMALL:
            if data:
                write_all(target, data)
            return
        write_all(target, data)
    else:
        try:
            while os.copy_file_range(source, target, _RANGE):
                pass
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
    while data := os.read(source, _CHUNK):
        write_all(target, data)
