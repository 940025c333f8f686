"""Runs FileOp: WORKDIR's directories, heredoc files, and all of COPY and ADD.

Everything is written into the upper directory of a new snapshot; what lies below is only read.
Destinations are resolved inside the root, sources inside their own tree, so nothing leads out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import assert_never

from buildkit_py.cache.contenthash import (
    exclusion,
    match_pattern,
    not_found,
    pivot_matches,
    pivots,
)
from buildkit_py.errors import CopyError, CorruptArchive
from buildkit_py.graph import CopyFiles, FileOp, MakeDirectory, MakeFile, Owner
from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.copy import TreeWriter
from buildkit_py.layers.extract import ExtractOptions, extract_archive, is_archive
from buildkit_py.layers.tar_reader import TarLimits
from buildkit_py.layers.tree import MergedTree, Node, Tree, clean_path
from buildkit_py.layers.upper import UpperDirectory
from buildkit_py.worker.copy_mode import parse_mode
from buildkit_py.worker.copy_tree import (
    CopySettings,
    CopyTotals,
    PreviousCopy,
    Target,
    TreeCopier,
)
from buildkit_py.worker.owners import refuse, resolve_owner

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRun:
    """What a FileOp is carried out with.

    `base` are the directories of input 0, lowest first; `inputs` the trees of all inputs by index
    (0 is not looked at, None is an empty root). `made_at` (seconds) is the time of what has no
    source to take one from.
    """

    base: Sequence[Path]
    inputs: Sequence[Tree | None]
    upper: Path
    opaque_xattr: str | None = None
    made_at: int = 0
    previous: PreviousCopy | None = None
    cancelled: threading.Event | None = None
    archive_limits: TarLimits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What was done: files and bytes copied, files linked to an earlier result, and lacks.

    `warnings` are about this step; the two counts are lacks of the whole machine.
    """

    files: int
    size: int
    linked: int
    squashed_owners: int
    skipped_devices: int
    warnings: tuple[str, ...] = ()


def run_file_op(op: FileOp, run: FileRun) -> FileResult:
    """Carry out the actions in their order. Raises CopyError."""
    totals = CopyTotals()
    with TreeWriter(run.base, run.upper, opaque_xattr=run.opaque_xattr) as writer:
        for action in op.actions:
            if isinstance(action, MakeDirectory):
                _make_directory(action, writer, run, totals)
            elif isinstance(action, MakeFile):
                _make_file(action, writer, run)
                totals.files += 1
            elif isinstance(action, CopyFiles):
                _Copy(action, writer, run, totals).run()
            else:
                assert_never(action)
    return FileResult(
        files=totals.files,
        size=totals.size,
        linked=totals.linked,
        squashed_owners=writer.setter.squashed_owners,
        skipped_devices=writer.setter.skipped_devices,
        warnings=tuple(totals.warnings),
    )


def _owner_ids(owner: Owner | None, writer: TreeWriter) -> tuple[int, int] | None:
    return None if owner is None else resolve_owner(owner, writer.tree, refuse)


def _time(mtime: int | None, run: FileRun) -> int:
    return (run.made_at if mtime is None else mtime) * _SECOND


def _make_directory(
    action: MakeDirectory, writer: TreeWriter, run: FileRun, totals: CopyTotals
) -> None:
    owner = None
    if action.owner is not None:  # by USER, which is never checked: BuildKit builds these as well
        owner = resolve_owner(
            action.owner,
            writer.tree,
            lambda lack: totals.warnings.setdefault(f"{lack}: root is used instead"),
        )
    uid, gid = owner or (0, 0)
    wanted = Attributes(
        mode=action.mode & 0o777, uid=uid, gid=gid, mtime_ns=_time(action.mtime, run)
    )
    path = writer.resolve(action.path)
    if not action.parents and writer.lookup(path.rpartition(b"/")[0] or b"/") is None:
        raise CopyError(f"mkdir {action.path}: no such file or directory")
    writer.make_directories(path, wanted, born_here=True, owned=owner is not None)


def _make_file(action: MakeFile, writer: TreeWriter, run: FileRun) -> None:
    mode = None if action.mode is None else parse_mode(action.mode)
    owner = _owner_ids(action.owner, writer)
    settings = CopySettings(owner=owner, mode=mode, mtime_ns=_time(action.mtime, run))
    ends_in_slash = action.destination.endswith("/") or action.destination.endswith("/.")
    destination = _Destination(writer, action.destination, ends_in_slash, settings)
    directory, name = destination.for_file(os.fsencode(action.name))
    permissions = 0o644 if mode is None else mode.apply(0o100644)
    wanted = replace(settings.made(), mode=permissions)
    writer.refuse_directory(directory, name)
    content = action.content.encode("utf-8", "surrogateescape")
    writer.write_file(directory, name, wanted, (content,))


class _Destination:
    """Where a copy goes, by the rules for destinations; makes what is missing on the way."""

    def __init__(
        self, writer: TreeWriter, written: str, is_directory: bool, settings: CopySettings
    ) -> None:
        self._writer = writer
        self._settings = settings
        path = clean_path(written)
        self._make(writer.resolve(path if is_directory else path.rpartition(b"/")[0]))
        self.path = writer.resolve(path)

    def _make(self, path: bytes) -> None:
        owned = self._settings.owner is not None
        made = self._settings.made()
        self._writer.make_directories(path, made, born_here=True, owned=owned)

    def for_file(self, name: bytes) -> tuple[UpperDirectory, bytes]:
        """Directory and name of a single file: inside where the destination is a directory."""
        there = self._writer.lookup(self.path, follow=False)
        if there is not None and there.is_dir:
            return self._writer.directory(self.path), name
        parent, _, last = self.path.rpartition(b"/")
        self._make(parent)
        return self._writer.directory(parent or b"/"), last

    def for_contents(self) -> tuple[UpperDirectory, bool]:
        """The destination as a directory, and whether it was made now."""
        there = self._writer.lookup(self.path, follow=False)
        if there is not None and not there.is_dir:
            raise CopyError(f"cannot copy to non-directory: {os.fsdecode(self.path)}")
        if there is None:
            self._make(self.path)
        return self._writer.directory(self.path), there is None


class _Copy:
    """One CopyFiles action."""

    def __init__(
        self, action: CopyFiles, writer: TreeWriter, run: FileRun, totals: CopyTotals
    ) -> None:
        self._action = action
        self._writer = writer
        self._run = run
        self._totals = totals
        self._tree: Tree = run.inputs[action.input] or MergedTree(())
        owner = _owner_ids(action.owner, writer)
        keeps = action.keep_owner or getattr(self._tree, "keeps_owners", False)  # of a context
        if owner is None and not keeps:
            owner = (0, 0)
        self._owner = None if action.owner is None else owner
        self._settings = CopySettings(
            owner=owner,
            mode=None if action.mode is None else parse_mode(action.mode),
            mtime_ns=None if action.mtime is None else action.mtime * _SECOND,
            earliest=action.earliest,
            made_at=run.made_at * _SECOND,
            rules=exclusion(action.exclude),
        )
        # directories on the way belong to root, whoever owns what is copied
        self._ways = replace(self._settings, owner=self._owner)

    def run(self) -> None:
        """Copy every match."""
        if self._action.parents:
            self._with_parents()
            return
        for node in self._sources():
            self._one(node)

    def _sources(self) -> list[Node]:
        action, tree = self._action, self._tree
        if not action.wildcard:
            found = tree.lookup(action.source, follow=False)
            return [self._exists(found, action.source)]
        rules = self._settings.rules
        matches = match_pattern(tree, os.fsencode(action.source))
        return [
            node
            for node in matches
            if rules is None or node.is_dir or not rules.excluded(os.fsdecode(node.name))
        ]

    def _exists(self, node: Node | None, path: str) -> Node:
        if node is None:
            raise not_found(self._tree, path)
        return node

    def _one(self, match: Node) -> None:
        node = match
        if match.is_symlink:
            shown = os.fsdecode(match.path)
            node = self._exists(self._tree.lookup(match.path), shown)
        if self._action.unpack and is_archive(self._tree, node):
            self._unpack(node)
            return
        action = self._action
        destination = _Destination(
            self._writer, action.destination, self._is_directory(), self._ways
        )
        if node.is_dir:
            directory, made = destination.for_contents()
            self._copier().copy_contents(node, directory)
            self._set_time(node, directory, made=made)
            return
        rename = None if action.rename is None else os.fsencode(action.rename)
        directory, name = destination.for_file(rename or match.name)
        self._copier().copy_entry(node, directory, name)

    def _is_directory(self) -> bool:
        written = self._action.destination
        return self._action.directory_destination or written.endswith(("/", "/."))

    def _set_time(self, node: Node, directory: UpperDirectory, *, made: bool) -> None:
        """A destination takes over the time of the directory copied; a root's says nothing."""
        if self._settings.mtime_ns is not None or node.path != b"/":
            self._writer.set_time(directory, self._settings.time_of(node))
        elif made:
            self._writer.set_time(directory, self._settings.made_at)

    def _copier(self) -> TreeCopier:
        return TreeCopier(
            self._writer,
            self._tree,
            self._settings,
            self._totals,
            previous=self._run.previous,
            input_index=self._action.input,
            cancelled=self._run.cancelled,
        )

    # -------------------------------------------------------------- archives
    def _unpack(self, node: Node) -> None:
        made = replace(self._ways.made(), mode=0o755)
        owned = self._owner is not None
        destination = self._writer.resolve(self._action.destination)
        self._writer.make_directories(destination, made, born_here=True, owned=owned)
        self._writer.directory(destination)
        options = ExtractOptions(
            owner=self._owner, made_at=made.mtime_ns, limits=self._run.archive_limits
        )
        with os.fdopen(self._tree.open(node), "rb", buffering=0) as file:
            try:
                self._totals.size += extract_archive(file, self._writer, destination, options)
            except CorruptArchive as error:
                shown = os.fsdecode(node.path)
                raise CopyError(f"cannot unpack {shown}: {error}", hint=error.hint) from error
        self._totals.files += 1

    # -------------------------------------------------------------- --parents
    def _with_parents(self) -> None:
        """Copy what matches below each pivot, with the directories between the two."""
        copier = self._copier()  # one for all: hard links hold between matches
        for found in pivots(self._tree, self._action.parents_pivot):
            base = self._exists(self._tree.lookup(found.path), os.fsdecode(found.path))
            if base.is_dir:
                self._below_pivot(base, copier)
            else:
                self._one(found)  # nothing is below it: it is copied itself

    def _below_pivot(self, base: Node, copier: TreeCopier) -> None:
        action = self._action
        destination = _Destination(
            self._writer, action.destination, self._is_directory(), self._ways
        )
        directory, made = destination.for_contents()
        top = base.path.rstrip(b"/")
        places = {top: copier.into(base, directory)}
        whole: set[bytes] = set()
        found = False
        for node in pivot_matches(
            self._tree, base, action.source, action.parents_pivot, wildcard=action.wildcard
        ):
            found = True
            if _is_below(node.path, whole):
                continue
            if node.is_dir:
                whole.add(node.path)
            if node.path == base.path:
                copier.copy_contents(node, directory)
            elif not self._left_out(node, node.path[len(top) + 1 :]):
                parent_path, _, name = node.path.rpartition(b"/")
                parent = self._place(parent_path, places)
                copier.copy_below(node, parent, name, os.fsdecode(node.path[len(top) + 1 :]))
        self._set_time(base, directory, made=made)
        if not found and not action.wildcard:
            path = action.source.lstrip("/")
            self._totals.warnings.setdefault(
                f"--parents copies nothing of {path}: a symbolic link is on the way"
            )

    def _left_out(self, node: Node, relative: bytes) -> bool:
        """Whether rules exclude a match, and everything below it."""
        rules, shown = self._settings.rules, os.fsdecode(relative)
        if rules is None or not rules.excluded(shown):
            return False
        return not (node.is_dir and rules.may_descend(shown))

    def _place(self, path: bytes, places: dict[bytes, Target]) -> Target:
        """Where a directory between pivot and matches goes to; made when it is needed."""
        if path not in places:
            above, _, name = path.rpartition(b"/")
            node = self._exists(self._tree.lookup(path), os.fsdecode(path))
            places[path] = Target(self._place(above, places), name, node)
        return places[path]


def _is_below(path: bytes, directories: set[bytes]) -> bool:
    parent = path.rpartition(b"/")[0]
    while parent:
        if parent in directories:
            return True
        parent = parent.rpartition(b"/")[0]
    return b"/" in directories and path != b"/"
