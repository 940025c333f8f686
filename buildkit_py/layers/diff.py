"""From directories to layers: an overlay upper directory as a tar, and two trees as an upper.

`write_layer` walks an upper directory in the order of its names' bytes, a directory before what
it holds, whiteouts as `.wh.` files before other names of their directory. The bytes depend on
the files alone. Without a sink the tar is only hashed, which is all that an unexported layer
needs.
"""

from __future__ import annotations

import os
import stat as modes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from buildkit_py.digest import Digest
from buildkit_py.errors import StoreError
from buildkit_py.layers import bytecode
from buildkit_py.layers.hashing import HashingSink
from buildkit_py.layers.members import INODE, Members, header_of, pack_inode, size_of
from buildkit_py.layers.tar import (
    BATCH,
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    MAX_DEPTH,
    REGULAR,
    SYMLINK,
    LayerWriter,
    Sink,
    pack_header,
)
from buildkit_py.layers.tree import read_xattrs
from buildkit_py.layers.whiteout import (
    OPAQUE_NAME,
    PREFIX,
    is_whiteout,
    is_xattr_whiteout,
    opaque_mark,
)

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_QUIET = _READ | os.O_NOATIME
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_SMALL = 1 << 19
_ENCODING = sys.getfilesystemencoding()
_NAME = itemgetter(0)
_NO_XATTRS: Mapping[str, bytes] = {}
_Entries: TypeAlias = "list[tuple[bytes, os.stat_result | None]]"
_KINDS = {modes.S_IFBLK: BLOCK_DEVICE, modes.S_IFCHR: CHARACTER, modes.S_IFIFO: FIFO}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenLayer:
    """What a layer tar is known by: digest and length, and how much of it is files' content."""

    diff_id: Digest
    size: int
    content_size: int
    entries: int


def write_layer(
    upper: str | bytes | Path,
    out: Sink | None = None,
    *,
    clamp_mtime: int | None = None,
    members: Members | None = None,
) -> WrittenLayer:
    """An upper directory as a layer tar; times after `clamp_mtime` (seconds) become that.

    So do the times of sources that Python bytecode records. `members` has what is known of files,
    and gets what is written of them.
    """
    sink = HashingSink(out)
    walker = _Walker(LayerWriter(sink, sink.borrow), sink, clamp_mtime, members)
    with sink:
        walker.walk(os.fsencode(upper))
        walker.writer.finish()
    return WrittenLayer(
        diff_id=sink.digest,
        size=sink.size,
        content_size=walker.content_size,
        entries=walker.entries,
    )


class _Walker:
    def __init__(
        self, writer: LayerWriter, sink: HashingSink, clamp: int | None, members: Members | None
    ) -> None:
        self.writer = writer
        self._members = members
        self._known = {} if members is None else members.known
        self.content_size = 0
        self.entries = 0
        self._sink = sink
        self._clamp = clamp
        self._links: dict[tuple[int, int], bytes] = {}

    def walk(self, upper: bytes) -> None:
        """Write everything below a directory."""
        stack = [(upper, b"")]
        while stack:
            real, prefix = stack.pop()
            if prefix.count(b"/") > MAX_DEPTH:
                raise StoreError(
                    f"/{os.fsdecode(prefix[:80])}… cannot be stored in a layer: more than"
                    f" {MAX_DEPTH} directories inside each other"
                )
            below = self._directory(real, prefix)
            stack.extend((real + b"/" + name, prefix + name + b"/") for name in reversed(below))

    def _directory(self, real: bytes, prefix: bytes) -> list[bytes]:
        """Write a directory's own entry and its files; gives the names of its directories."""
        folder = os.open(real, _FOLDER)
        try:
            status = os.fstat(folder)
            if prefix:
                self._put(prefix, DIRECTORY, status, xattrs=layer_xattrs(folder))
            mark = opaque_mark(folder)
            if mark == b"y":
                self._whiteout(prefix + OPAQUE_NAME)
            device = status.st_dev
            entries = self._entries(folder, prefix)
            entries = self._put_whiteouts(entries, prefix, real if mark == b"x" else None)
            below = []
            for name, found in entries:
                if found is None:
                    self._known_file(folder, name, prefix + name, device)
                    continue
                status = found
                kind = status.st_mode & 0o170000
                if kind == 0o100000:
                    self._file(folder, name, prefix + name, status)
                elif kind == 0o040000:
                    below.append(name)
                elif kind != 0o140000:  # a socket belongs into no layer
                    self._special(real, name, prefix + name, status)
            return below
        finally:
            os.close(folder)

    def _entries(self, folder: int, prefix: bytes) -> _Entries:
        """Names in a directory, sorted, with their status; None for a file that is known."""
        entries: _Entries = []
        known = self._known
        with os.scandir(folder) as found:
            for entry in found:
                name = entry.name.encode(_ENCODING, "surrogateescape")
                if known:
                    path = prefix + name
                    inode = entry.inode()
                    kept = known.get(path)
                    if kept is not None and kept[:INODE] == pack_inode(inode):
                        entries.append((name, None))
                        continue
                entries.append((name, entry.stat(follow_symlinks=False)))
        entries.sort(key=_NAME)
        return entries

    def _put_whiteouts(self, entries: _Entries, prefix: bytes, marked: bytes | None) -> _Entries:
        """Write the whiteouts, which stand before other names; gives what is left."""
        left = []
        for item in entries:
            name, status = item
            if status is None:
                left.append(item)
            elif (status.st_mode & 0o170000 == 0o020000 and is_whiteout(status)) or (
                marked is not None and is_xattr_whiteout(marked + b"/" + name, status)
            ):
                self._whiteout(prefix + PREFIX + name)
            elif name[:4] == PREFIX:
                shown = os.fsdecode(b"/" + prefix + name)
                raise StoreError(
                    f"{shown} cannot be stored in a layer",
                    hint="names that begin with .wh. mark deleted files there",
                )
            else:
                left.append(item)
        return left

    def _known_file(self, folder: int, name: bytes, path: bytes, device: int) -> None:
        """Write a file whose header is known; all that is looked at is its content."""
        kept = self._known[path]
        key = (device, int.from_bytes(kept[:INODE], "little"))
        if self._links.setdefault(key, path) is not path:  # of a file that has another name, too
            self._file(folder, name, path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            return
        descriptor = _open(name, folder)
        try:
            size = size_of(kept)
            self._put_file(header_of(path, kept), descriptor, size, path)
        finally:
            os.close(descriptor)
        self.entries += 1
        self.content_size += size
        if self._members is not None:
            self._members.made[path] = kept

    def _file(self, folder: int, name: bytes, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            first = self._links.setdefault(key, path)
            if first is not path:
                self._put(path, HARD_LINK, status, link=first)
                return
        size = status.st_size
        descriptor = _open(name, folder)
        try:
            header = self._header(path, REGULAR, status, size, xattrs=layer_xattrs(descriptor))
            if size > _SMALL:
                self.writer.put(header)
                self._sink.run_beside()
                self._stream(descriptor, size, path)
            elif self._clamp is not None and name.endswith(bytecode.SUFFIX):
                data = bytecode.settled(_read(descriptor, size, path), latest=self._clamp)
                self.writer.put(header, data)
            else:
                self._put_file(header, descriptor, size, path)
                if self._members is not None:
                    self._members.add(path, status.st_ino, header)
        finally:
            os.close(descriptor)
        self.content_size += size

    def _put_file(self, header: bytes, descriptor: int, size: int, path: bytes) -> None:
        left = size - self.writer.put_file(header, descriptor, size)
        if left:
            self.writer.put_raw(_read(descriptor, left, path) + bytes(-size % BLOCK))

    def _stream(self, descriptor: int, size: int, path: bytes) -> None:
        self.writer.flush()
        left = size
        while left:
            data = _more(os.read(descriptor, min(BATCH, left)), path)
            if left == size and self._clamp is not None and path.endswith(bytecode.SUFFIX):
                data = bytecode.settled(data, latest=self._clamp)
            self.writer.put_raw(data)
            left -= len(data)
        self.writer.put_raw(bytes(-size % BLOCK))

    def _special(self, real: bytes, name: bytes, path: bytes, status: os.stat_result) -> None:
        full = real + b"/" + name
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                self._put(path, HARD_LINK, status, link=first)
                return
        xattrs = layer_xattrs(full)
        if modes.S_ISLNK(status.st_mode):
            self._put(path, SYMLINK, status, link=os.readlink(full), xattrs=xattrs)
            return
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        kind = _KINDS[modes.S_IFMT(status.st_mode)]
        self._put(path, kind, status, device=(0, 0) if kind == FIFO else device, xattrs=xattrs)

    def _whiteout(self, path: bytes) -> None:
        self.entries += 1
        self.writer.put(pack_header(path, REGULAR, 0, 0, 0, 0, 0))

    def _put(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        link: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: Mapping[str, bytes] = _NO_XATTRS,
    ) -> None:
        self.writer.put(self._header(path, kind, status, 0, link, device, xattrs))

    def _header(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        size: int,
        link: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: Mapping[str, bytes] = _NO_XATTRS,
    ) -> bytes:
        self.entries += 1
        mtime = status.st_mtime_ns // 1_000_000_000
        if self._clamp is not None and mtime > self._clamp:
            mtime = self._clamp
        return pack_header(
            path,
            kind,
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            size,
            mtime,
            link,
            device,
            xattrs,
        )


def raise_times(upper: str | bytes | Path, earliest: int) -> None:
    """Give everything in an upper directory that is older than `earliest` (seconds) that time.

    Bytecode follows the sources beside it.
    """
    limit = earliest * 1_000_000_000
    for folder, directories, files in os.walk(os.fsencode(upper), topdown=False):
        names = set(files)
        for name in (*files, *directories):
            path = folder + b"/" + name
            status = os.lstat(path)
            if is_whiteout(status):
                continue
            if name.endswith(bytecode.SUFFIX) and modes.S_ISREG(status.st_mode):
                _raise_bytecode(path, names, earliest)
            when = max(status.st_mtime_ns, limit)
            os.utime(path, ns=(when, when), follow_symlinks=False)


def _raise_bytecode(path: bytes, beside: set[bytes], earliest: int) -> None:
    folder, _, name = path.rpartition(b"/")
    source = name.partition(b".")[0] + b".py"
    if source not in beside and not (
        folder.endswith(b"/__pycache__") and os.path.exists(folder[:-11] + source)
    ):
        return
    with open(path, "r+b") as file:
        head = file.read(bytecode.HEADER)
        changed = bytecode.settled(head, earliest=earliest)
        if changed != head:
            file.seek(0)
            file.write(changed)


def layer_xattrs(target: bytes | int) -> Mapping[str, bytes]:
    """The xattrs that travel in a layer: capabilities, `user.` and `trusted.` ones.

    Labels of a host's security modules and access lists belong to the host.
    """
    found = read_xattrs(target)
    if not found:
        return _NO_XATTRS
    return {
        name: value
        for name, value in found.items()
        if name == "security.capability" or name.startswith(("user.", "trusted."))
    }


def _open(name: bytes, folder: int) -> int:
    try:
        return os.open(name, _QUIET, dir_fd=folder)
    except PermissionError:  # O_NOATIME is for a file's owner
        return os.open(name, _READ, dir_fd=folder)


def _read(descriptor: int, size: int, path: bytes) -> bytes:
    data = b""
    while len(data) < size:
        data += _more(os.read(descriptor, size - len(data)), path)
    return data


def _more(data: bytes, path: bytes) -> bytes:
    if not data:
        raise StoreError(f"/{os.fsdecode(path)} became shorter while its layer was written")
    return data
