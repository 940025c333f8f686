"""Layer tars: entries, and a writer whose output depends on nothing but what it is given.

The format is PAX as other builders write it: a ustar header, with a PAX header before it only
where ustar cannot hold a value (a name over 100 bytes that does not split or is not ASCII, a
size of 8 GiB, an id over 2097151, a time before 1970, extended attributes). No user names, no
access times, fixed names for PAX headers. Headers are made by hand: `tarfile` needs six times
as long. The reader is in `tar_reader.py`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from buildkit_py.errors import CorruptArchive

BLOCK = 512
BATCH = 1 << 20
MAX_DEPTH = 1024
"""Directories inside each other: a tar with more takes for ever to unpack, name by name."""

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"

XATTR_PREFIX = b"SCHILY.xattr."
_NO_XATTRS: Mapping[str, bytes] = {}
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_PAX_NAME = b"PaxHeaders.0/entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """One member of a tar. `name` has no leading slash; directories end in a slash or not."""

    name: bytes
    kind: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take all of the bytes."""
        ...


def pack_entry(entry: TarEntry) -> bytes:
    """All header blocks of an entry."""
    return pack_header(
        entry.name,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime_ns // 1_000_000_000,
        entry.link,
        (entry.major, entry.minor),
        entry.xattrs,
    )


def pack_header(  # noqa: PLR0913, PLR0917 - called for every file; a value object costs as much again
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, bytes] = _NO_XATTRS,
) -> bytes:
    """Header blocks: a ustar header, and before it a PAX header if one is needed."""
    if not (
        len(name) <= 100
        and name.isascii()
        and not xattrs
        and not link
        and 0 <= mtime <= _MAX_SIZE
        and uid <= _MAX_ID
        and gid <= _MAX_ID
        and size <= _MAX_SIZE
        and device == (0, 0)
    ):
        return _pack_special(name, kind, (mode, uid, gid, size, mtime), link, device, xattrs)
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, uid, gid, size, mtime)
    tail, tail_sum = _plain_tail(kind)
    checksum = sum(name) + sum(numbers) + tail_sum
    return name.ljust(100, b"\0") + numbers + (b"%06o\0 " % checksum) + tail


@functools.cache
def _plain_tail(kind: bytes) -> tuple[bytes, int]:
    tail = _tail(kind, b"", (0, 0), b"")
    return tail, sum(tail) + 8 * 0x20


def _tail(kind: bytes, link: bytes, device: tuple[int, int], prefix: bytes) -> bytes:
    return b"".join(
        (
            kind,
            link.ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % device,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )


def _ustar(
    name: bytes,
    kind: bytes,
    numbers: tuple[int, int, int, int, int],
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
) -> bytes:
    mode, uid, gid, size, mtime = numbers
    head = name.ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        mode & 0o7777,
        uid,
        gid,
        size,
        mtime,
    )
    tail = _tail(kind, link, device, prefix)
    return head + (b"%06o\0 " % (sum(head) + sum(tail) + 8 * 0x20)) + tail


def _pack_special(
    name: bytes,
    kind: bytes,
    numbers: tuple[int, int, int, int, int],
    link: bytes,
    device: tuple[int, int],
    xattrs: Mapping[str, bytes],
) -> bytes:
    mode, uid, gid, size, mtime = numbers
    records: dict[bytes, bytes] = {}
    prefix = b""
    if len(name) > 100 or not name.isascii():
        split = _split_name(name)
        if split is None:
            records[b"path"] = name
            name = name[:100]
        else:
            prefix, name = split
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
        link = link[:100]
    for key, value, limit in (
        (b"uid", uid, _MAX_ID),
        (b"gid", gid, _MAX_ID),
        (b"size", size, _MAX_SIZE),
        (b"mtime", mtime, _MAX_SIZE),
    ):
        if not 0 <= value <= limit:
            records[key] = b"%d" % value
    for key_text, value_bytes in xattrs.items():
        if "=" not in key_text:
            records[XATTR_PREFIX + key_text.encode("utf-8", "surrogateescape")] = value_bytes
    plain = (
        mode,
        0 if b"uid" in records else uid,
        0 if b"gid" in records else gid,
        0 if b"size" in records else size,
        0 if b"mtime" in records else mtime,
    )
    device = (min(device[0], _MAX_ID), min(device[1], _MAX_ID))
    header = _ustar(name, kind, plain, link, device, prefix)
    return (_pack_pax(records) + header) if records else header


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """A long name as ustar's prefix and name, if it splits at a slash."""
    if len(name) > 256 or not name.isascii():
        return None
    cut = name.rfind(b"/", 1, 156)
    if cut < 0 or len(name) - cut - 1 > 100 or cut == len(name) - 1:
        return None
    return name[:cut], name[cut + 1 :]


def _pack_pax(records: Mapping[bytes, bytes]) -> bytes:
    body = b"".join(_pax_record(key, records[key]) for key in sorted(records))
    header = _ustar(_PAX_NAME, b"x", (0o644, 0, 0, len(body), 0))
    return header + body + bytes(-len(body) % BLOCK)


def _pax_record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    if len(str(total)) != len(str(size)):
        total = size + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


class LayerWriter:
    """Writes entries to a sink in batches of at most 1 MiB. `finish` ends the archive.

    All that is small goes through one buffer, as new memory for each batch costs as much as
    hashing it. `lend` is for a sink that takes a batch out of the buffer itself, instead of bytes.
    """

    def __init__(self, out: Sink, lend: Callable[[memoryview], object] | None = None) -> None:
        self._out = out
        self._lend = lend
        self._buffer = memoryview(bytearray(BATCH))
        self._used = 0

    def add(self, entry: TarEntry, data: bytes = b"") -> None:
        """Write an entry whose content is at hand."""
        if len(data) != (entry.size if entry.kind == REGULAR else 0):
            raise CorruptArchive(f"content of {entry.name!r} does not have the size announced")
        self.put(pack_entry(entry), data)

    def add_stream(self, entry: TarEntry, read: Callable[[int], bytes]) -> None:
        """Write an entry whose content comes in pieces; exactly `entry.size` bytes are read."""
        self.put(pack_entry(entry))
        left = entry.size
        while left:
            piece = read(min(left, BATCH))
            if not piece:
                raise CorruptArchive(f"{entry.name!r} became shorter while it was read")
            self.put_raw(piece)
            left -= len(piece)
        self.put_raw(bytes(-entry.size % BLOCK))

    def put(self, header: bytes, data: bytes = b"") -> None:
        """Write a packed header and the whole content, padded."""
        self.put_raw(header)
        if data:
            self.put_raw(data)
            if tail := len(data) % BLOCK:
                self.put_raw(_PADDING[tail])

    def put_raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        start = self._used
        end = start + len(data)
        if end > BATCH:
            self.flush()
            start, end = 0, len(data)
            if end > BATCH // 2:
                self._out.write(data)
                return
        self._buffer[start:end] = data
        self._used = end

    def put_file(self, header: bytes, descriptor: int, size: int) -> int:
        """Write a header and what one read gives of a file, which is to have `size` bytes.

        Gives how many there were; with all of them the entry is complete. The size is half a
        batch at most.
        """
        if len(header) > BATCH // 4:
            self.put_raw(header)
            header = b""
        start = self._used + len(header)
        end = start + size
        padded = end + -size % BLOCK
        if padded > BATCH:
            self.flush()
            return self.put_file(header, descriptor, size)
        buffer = self._buffer
        buffer[start - len(header) : start] = header
        found = os.readv(descriptor, (buffer[start:end],)) if size else 0
        if found == size:
            buffer[end:padded] = _PADDING[size % BLOCK]
            self._used = padded
        else:
            self._used = start + found
        return found

    def flush(self) -> None:
        """Hand everything over to the sink."""
        if self._used:
            batch = self._buffer[: self._used]
            self._used = 0
            if self._lend is None:
                self._out.write(bytes(batch))
            else:
                self._lend(batch)

    def finish(self) -> None:
        """End the archive by two empty blocks."""
        self.put_raw(bytes(2 * BLOCK))
        self.flush()


_PADDING = [bytes(-size % BLOCK) for size in range(BLOCK)]
