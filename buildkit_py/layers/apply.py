"""A layer tar into an overlay upper directory, never outside it.

Names are taken relative to the directory whatever they look like; links on the way are followed
inside the tree only (the lower directories, where given, count). A directory over a directory
changes its attributes, anything else replaces what is there. `.wh.` entries become whiteouts,
unless the layer itself brings that name too: they concern lower layers only.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Sequence
from dataclasses import dataclass

from buildkit_py.digest import Digest
from buildkit_py.errors import CopyError, CorruptArchive
from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.copy import PathLike, TreeWriter
from buildkit_py.layers.hashing import HashingSource
from buildkit_py.layers.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    MAX_DEPTH,
    REGULAR,
    SYMLINK,
    TarEntry,
)
from buildkit_py.layers.tar_reader import LayerReader, Source, TarLimits
from buildkit_py.layers.tree import clean_path
from buildkit_py.layers.upper import UpperDirectory
from buildkit_py.layers.whiteout import META_PREFIX, OPAQUE_NAME, PREFIX

_IMPLIED = Attributes(mode=0o755)
_KINDS = {CHARACTER: modes.S_IFCHR, BLOCK_DEVICE: modes.S_IFBLK, FIFO: modes.S_IFIFO}
_SMALL = 1 << 20
_BAD_ENTRY = frozenset(
    (
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
        *(errno.EMLINK, errno.EFBIG, errno.E2BIG, errno.ERANGE),  # the last two of xattrs
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedLayer:
    """What was read: digest and length of the tar, and the size of the files in it."""

    diff_id: Digest
    size: int
    content_size: int
    squashed_owners: int = 0
    skipped_devices: int = 0


def apply_layer(
    stream: Source,
    directory: PathLike,
    *,
    lowers: Sequence[PathLike] = (),
    opaque_xattr: str | None = None,
    limits: TarLimits | None = None,
) -> AppliedLayer:
    """Unpack an uncompressed layer tar into a new, empty upper directory.

    `lowers` are the directories of the layers below, lowest first: entries may name files there
    through symbolic links or as hard link targets. Raises CorruptArchive.
    """
    source = HashingSource(stream)
    reader = LayerReader(source, limits)
    with TreeWriter(lowers, directory, opaque_xattr=opaque_xattr, blind=True) as writer:
        placer = EntryPlacer(writer, reader)
        for entry in reader:
            try:
                _apply_entry(placer, entry)
            except OSError as error:
                raise refused(entry, error) from error
        setter = writer.setter
    reader.drain()
    return AppliedLayer(
        diff_id=source.digest,
        size=source.size,
        content_size=reader.size,
        squashed_owners=setter.squashed_owners,
        skipped_devices=setter.skipped_devices,
    )


def _apply_entry(placer: EntryPlacer, entry: TarEntry) -> None:
    path = clean_path(entry.name)
    parent, _, name = path.rpartition(b"/")
    if not name.startswith(PREFIX):
        placer.place(path, entry, attributes_of(entry))
    elif name == OPAQUE_NAME:
        placer.writer.make_opaque(placer.parent(parent))
    elif name == PREFIX:
        raise CorruptArchive("a whiteout in the layer names no file")
    elif not name.startswith(META_PREFIX):
        hidden = name[len(PREFIX) :]
        if hidden in {b".", b".."}:
            raise CorruptArchive(f"a whiteout in the layer names {hidden!r}")
        placer.whiteout(parent, hidden)


def refused(entry: TarEntry, error: OSError) -> Exception:
    """Kernel errors that only a strange archive can cause are the archive's fault."""
    if error.errno not in _BAD_ENTRY:
        return error
    shown = os.fsdecode(entry.name[:200])
    if error.errno in {errno.E2BIG, errno.ERANGE}:
        return CorruptArchive(f"cannot unpack {shown}: an extended attribute is too large")
    return CorruptArchive(f"cannot unpack {shown}: {error.strerror}")


def attributes_of(entry: TarEntry) -> Attributes:
    """The attributes that an entry asks for."""
    return Attributes(
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        xattrs=entry.xattrs,
    )


class EntryPlacer:
    """Puts tar entries into a tree; remembers where parents are and what it has placed."""

    def __init__(
        self,
        writer: TreeWriter,
        reader: LayerReader,
        *,
        base: bytes = b"/",
        implied: Attributes = _IMPLIED,
        born_here: bool = False,
    ) -> None:
        self.writer = writer
        self._reader = reader
        self._base = base
        self._implied = implied
        self._born_here = born_here
        self._parents: dict[bytes, UpperDirectory] = {}
        self._generation = 0
        self._placed: set[bytes] = set()

    def parent(self, path: bytes) -> UpperDirectory:
        """The directory at a path of the archive, made if it is missing."""
        if self._generation != self.writer.generation:
            self._generation = self.writer.generation
            self._parents.clear()
        known = self._parents.get(path)
        if known is not None:
            return known
        try:
            resolved = self.writer.resolve(path, top=self._base)
            if resolved.count(b"/") > MAX_DEPTH:
                raise CorruptArchive(
                    f"cannot unpack into {os.fsdecode(path[:80])}…: "
                    f"more than {MAX_DEPTH} directories inside each other"
                )
            made = self.writer.make_directories(
                resolved, self._implied, born_here=self._born_here, owned=True
            )
            self._placed.update(directory.real for directory in made)
            found = self.writer.directory(resolved)
        except CopyError as error:
            raise CorruptArchive(f"cannot unpack into {os.fsdecode(path)}: {error}") from error
        self._parents[path] = found
        return found

    def place(self, path: bytes, entry: TarEntry, wanted: Attributes) -> None:
        """Make one entry. Path is clean and absolute within the archive."""
        parent_path, _, name = path.rpartition(b"/")
        if not name:
            self._root(entry, wanted)
            return
        parent = self.parent(parent_path)
        kind = entry.kind
        if kind == REGULAR:
            self._file(parent, name, entry, wanted)
        elif kind == DIRECTORY:
            self._directory(parent, name, wanted)
        elif kind == SYMLINK:
            self._make_way(parent, name)
            self.writer.symlink(parent, name, _link_target(entry), wanted)
        elif kind == HARD_LINK:
            self._link(parent, name, entry, wanted)
        else:
            self._make_way(parent, name)
            device = os.makedev(entry.major, entry.minor) if kind != FIFO else 0
            if not (kind == CHARACTER and device == 0):  # that would be a whiteout
                self.writer.node(parent, name, _KINDS[kind], device, wanted)
        self._placed.add(parent.real + b"/" + name)

    def whiteout(self, path: bytes, name: bytes) -> None:
        """Hide a name of the layers below, unless this archive has placed it.

        Some tools also write whiteouts for what was in a directory that this archive replaces by
        a file: there is nothing left to hide then.
        """
        above = self.writer.lookup(path, top=self._base)
        if above is not None and not above.is_dir:
            return
        parent = self.parent(path)
        real = parent.real + b"/" + name
        if real not in self._placed:
            self.writer.generation += 1
            self.writer.hide(parent, name)
            return
        placed = self.writer.entry(parent, name)
        if placed is not None and placed.is_dir:
            self.writer.make_opaque(self.writer.directory(placed.path))

    def _root(self, entry: TarEntry, wanted: Attributes) -> None:
        if entry.kind == DIRECTORY:
            self.writer.set_directory(self.writer.directory(b"/"), wanted)

    def _file(
        self, parent: UpperDirectory, name: bytes, entry: TarEntry, wanted: Attributes
    ) -> None:
        self._make_way(parent, name)
        if entry.size <= _SMALL:
            self.writer.write_file(parent, name, wanted, (self._reader.read_all(),))
        else:
            self.writer.write_file(parent, name, wanted, self._reader.chunks())

    def _directory(self, parent: UpperDirectory, name: bytes, wanted: Attributes) -> None:
        found = self.writer.entry(parent, name)
        if found is not None and found.is_dir:
            self.writer.set_directory(self.writer.directory(found.path), wanted)
            return
        if found is not None:
            self.writer.generation += 1
            self.writer.remove(parent, name)
        self.writer.make_directory(parent, name, wanted)

    def _link(
        self, parent: UpperDirectory, name: bytes, entry: TarEntry, wanted: Attributes
    ) -> None:
        target = clean_path(entry.link)
        target_name = target.rpartition(b"/")[2]
        found = None
        if target_name:
            try:
                found = self.writer.lookup(target, follow=False, top=self._base)
            except CopyError as error:
                raise CorruptArchive(f"hard link {os.fsdecode(entry.name)}: {error}") from error
        if found is None or found.is_dir:
            raise CorruptArchive(
                f"hard link {os.fsdecode(entry.name)} points to {os.fsdecode(entry.link)}, "
                "which is no file of the archive"
            )
        if found.path == parent.path.rstrip(b"/") + b"/" + name:
            return  # a link to itself
        origin, origin_name = self.writer.copy_up(found.path)
        self._make_way(parent, name)
        self.writer.link(parent, name, origin, origin_name)
        if origin.real + b"/" + origin_name in self._placed:
            # the last header says what the file is like; one that was there may be shared
            self.writer.setter.change(parent.real + b"/" + name, wanted)

    def _make_way(self, parent: UpperDirectory, name: bytes) -> None:
        """Say that resolved paths are stale when something below that they use gets hidden."""
        if parent.below is not None:
            found = self.writer.entry(parent, name)
            if found is not None and not found.is_file:
                self.writer.generation += 1


def _link_target(entry: TarEntry) -> bytes:
    if not entry.link or b"\0" in entry.link:
        raise CorruptArchive(f"symbolic link {os.fsdecode(entry.name)} has no target")
    return entry.link
