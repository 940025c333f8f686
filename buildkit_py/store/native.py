"""The root of a step where overlay cannot be used: a full copy, compared afterwards.

The copy is made before the step and walked beside the merged lower directories after it; what
differs goes to the upper directory in overlay format, so the snapshot is like any other.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.copy import TreeWriter
from buildkit_py.layers.materialise import copy_tree
from buildkit_py.layers.tree import MergedTree, Node, read_xattrs
from buildkit_py.store.trash import remove_tree

if TYPE_CHECKING:
    from buildkit_py.store.database import Database

_CHUNK = 1 << 20


class NativeRoot:
    """A copy of a stack of layers; `diff` records its changes in `upper`."""

    def __init__(self, lowers: Sequence[str], upper: Path, db: Database) -> None:
        self._lower = MergedTree(lowers)
        self._lowers = lowers
        self._upper = upper
        self._folder = db.scratch("n")
        self.path = self._folder / "root"
        self._before: dict[bytes, tuple[int, ...]] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(mode=0o711)
        self.path.mkdir(mode=0o755)
        if self._lowers:
            copy_tree(self._lower, self._lower.root(), self.path)
        self._before = {node.path: _state(node) for node in MergedTree([self.path]).walk()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        remove_tree(self._folder)

    def diff(self, *, same: Iterable[str] = ()) -> None:
        """Write every difference to the upper directory; `same` are paths that have none."""
        known = {os.fsencode(path) for path in same}
        now = MergedTree([self.path])
        links: dict[tuple[int, int, int], bytes] = {}
        seen: set[bytes] = set()
        with TreeWriter(self._lowers, self._upper) as writer:
            for node in now.walk():
                seen.add(node.path)
                if node.path not in known and self._before.get(node.path) != _state(node):
                    self._record(writer, now, node, links)
            gone = [path for path in self._before if path not in seen]
            for path in sorted(gone):
                parent, _, name = path.rpartition(b"/")
                above = now.lookup(parent or b"/", follow=False)
                if above is not None and above.is_dir:
                    directory = writer.directory(parent or b"/")
                    if writer.entry(directory, name) is not None:
                        writer.remove(directory, name)

    def _record(
        self,
        writer: TreeWriter,
        tree: MergedTree,
        node: Node,
        links: dict[tuple[int, int, int], bytes],
    ) -> None:
        if stat.S_ISSOCK(node.mode):
            return  # no layer can hold one
        wanted = Attributes(
            mode=stat.S_IMODE(node.mode),
            uid=node.uid,
            gid=node.gid,
            mtime_ns=node.mtime_ns,
            xattrs=read_xattrs(node.real),
        )
        if node.path == b"/":
            writer.set_directory(writer.directory(b"/"), wanted)
            return
        parent, _, name = node.path.rpartition(b"/")
        directory = writer.directory(parent or b"/")
        existing = writer.entry(directory, name)
        if node.is_dir:
            if existing is not None and not existing.is_dir:
                writer.remove(directory, name)
                existing = None
            if existing is None:
                writer.make_directory(directory, name, wanted)
            else:
                writer.set_directory(writer.directory(node.path), wanted)
            return
        if existing is not None:
            writer.clear(directory, name)
        key = tree.link_key(node)
        if key is not None and key in links:
            writer.link_from(directory, name, links[key])
            return
        if node.is_symlink:
            writer.symlink(directory, name, tree.readlink(node), wanted)
        elif node.is_file:
            source = tree.open(node)
            try:
                writer.write_file(directory, name, wanted, _chunks(source))
            finally:
                os.close(source)
        else:
            writer.node(directory, name, node.mode, node.rdev, wanted)
        if key is not None:
            links[key] = os.fsencode(self._upper) + node.path


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, _CHUNK):
        yield data


def _state(node: Node) -> tuple[int, ...]:
    """What tells a changed entry from an unchanged one; the change time cannot be forged."""
    status = node.status
    if node.is_dir:
        return (node.mode, node.uid, node.gid, status.st_mtime_ns)
    return (status.st_ino, node.mode, node.uid, node.gid, node.size, status.st_ctime_ns)
