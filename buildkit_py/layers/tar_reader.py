"""Reads tars of any origin: ustar, PAX, GNU and v7, with limits, raising only CorruptArchive.

Names come out as they stand in the archive. Nothing here trusts them: `apply.py` and
`extract.py` place them inside a root.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from buildkit_py.errors import CorruptArchive
from buildkit_py.layers.sparse import SparseMap, filled, old_map, pax_map
from buildkit_py.layers.tar import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    XATTR_PREFIX,
    TarEntry,
)

_READ_AHEAD = 1 << 20
_ZERO = bytes(BLOCK)
_SPARSE = b"S"
_SPECIAL = frozenset((b"x", b"X", b"g", b"L", b"K"))
_SAME = {b"\0": REGULAR, b"7": REGULAR, b"D": DIRECTORY}  # v7, contiguous, GNU's dump
_VOLUME_LABEL = b"V"
_SPARSE_00 = frozenset((b"GNU.sparse.offset", b"GNU.sparse.numbytes"))
_KINDS = frozenset((REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
_FIELDS = {b"size": "size", b"uid": "uid", b"gid": "gid"}
_MAX_TIME_NS = (1 << 63) - 1
_BOMB = "it may be a decompression bomb"


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, empty at the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TarLimits:
    """What an archive may grow to before it is refused."""

    total_size: int = 1 << 40
    entries: int = 5_000_000
    special_size: int = 1 << 20  # of a PAX header or a GNU long name
    special_total: int = 4 << 20  # of all such headers before one entry, and of global ones
    tail: int = 1 << 30  # of whatever follows the archive; tapes were padded
    holes: int = 64 << 30  # zeros that sparse files stand for
    name_size: int = 4096  # PATH_MAX


class LayerReader:
    """Iterates over entries; `chunks` gives the content of the entry that came last.

    `size` counts the bytes of content announced so far.
    """

    def __init__(self, stream: Source, limits: TarLimits | None = None) -> None:
        self._stream = stream
        self._limits = limits or TarLimits()
        self._buffer = b""
        self._position = 0
        self._left = 0  # unread content of the current entry
        self._padding = 0
        self._begun = False
        self._globals: dict[bytes, bytes] = {}
        self._global_size = 0
        self._sparse: SparseMap | None = None
        self._holes = 0
        self.size = 0

    def __iter__(self) -> Iterator[TarEntry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._limits.entries:
                raise CorruptArchive(f"archive has more than {self._limits.entries} entries")
            yield entry

    def read_all(self) -> bytes:
        """The whole content of the current entry; for small ones."""
        if self._sparse is not None:
            return b"".join(self.chunks())
        size, self._left = self._left, 0
        return self._take(size)

    def chunks(self) -> Iterator[bytes]:
        """The content of the current entry in pieces."""
        if self._sparse is not None:
            found, self._sparse = self._sparse, None
            yield from filled(found, self._stored)
            return
        while self._left:
            yield self._stored(self._left)

    def _stored(self, limit: int) -> bytes:
        piece = self._some(min(limit, self._left))
        self._left -= len(piece)
        return piece

    def drain(self) -> None:
        """Read the stream to its end, so that whoever counts or hashes it sees all of it."""
        self._buffer = b""
        size = 0
        while data := self._stream.read(_READ_AHEAD):
            size += len(data)
            if size > self._limits.tail:
                raise CorruptArchive(f"more than {size} bytes follow the archive", hint=_BOMB)

    # ---------------------------------------------------------------- headers
    def _next(self) -> TarEntry | None:
        local: dict[bytes, bytes] = {}
        special = 0
        while True:
            self._skip(self._left)
            self._take(self._padding, end_allowed=True, short=True)
            self._left = self._padding = 0
            self._sparse = None
            header = self._header(end_allowed=not local)
            if header is None:
                return None
            kind = header[156:157]
            if kind == _VOLUME_LABEL:
                continue
            if kind not in _SPECIAL:
                return self._entry(header, kind, {**self._globals, **local})
            size = self._special_size(header)
            special += BLOCK + size
            if special > self._limits.special_total:
                raise CorruptArchive("a tar entry has too many headers")
            body = self._take(size)
            self._padding = -size % BLOCK
            if kind == b"g":
                self._add_globals(body)
            elif kind in {b"x", b"X"}:
                local.update(_parse_pax(body))
            else:
                local[b"path" if kind == b"L" else b"linkpath"] = body.rstrip(b"\0")

    def _add_globals(self, body: bytes) -> None:
        self._global_size += len(body)
        if self._global_size > self._limits.special_total:
            raise CorruptArchive("an archive has too many global headers")
        self._globals.update(_parse_pax(body))

    def _header(self, *, end_allowed: bool) -> bytes | None:
        header = self._take(BLOCK, end_allowed=end_allowed, short=True)
        if not header or header == _ZERO:
            return None
        if len(header) < BLOCK:
            raise CorruptArchive(
                "archive ends in the middle of an entry" if self._begun else "not a tar archive"
            )
        self._begun = True
        stored = _number(header[148:156], "checksum")
        unsigned = sum(header.translate(None, b"\0")) - sum(header[148:156]) + 8 * 0x20
        if stored != unsigned and stored != _signed_sum(header):
            raise CorruptArchive("not a tar archive: a header's checksum is wrong")
        return header

    def _special_size(self, header: bytes) -> int:
        size = _number(header[124:136], "size")
        if not 0 <= size <= self._limits.special_size:
            raise CorruptArchive(f"a tar header of {size} bytes is not accepted")
        return size

    def _entry(self, header: bytes, kind: bytes, records: dict[bytes, bytes]) -> TarEntry:
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or _header_name(header)
        if kind == b"\0" and name.endswith(b"/"):
            kind = DIRECTORY
        stored = self._stored_size(header, kind, records)
        kind = _SAME.get(kind, kind)
        if kind not in _KINDS and kind != _SPARSE:
            shown = os.fsdecode(name)
            raise CorruptArchive(f"tar entry {shown} of an unsupported kind (type {kind!r})")
        if not name or len(name) > self._limits.name_size or b"\0" in name:
            raise CorruptArchive("a tar entry's name is empty, too long or holds a NUL byte")
        if stored < 0:
            raise CorruptArchive(f"tar entry {os.fsdecode(name)} has a negative size")
        self._left = stored
        self._padding = -stored % BLOCK
        size = self._real_size(header, kind, records, stored)
        kind = REGULAR if kind == _SPARSE else kind
        device = kind in {CHARACTER, BLOCK_DEVICE}
        return TarEntry(
            name=name,
            kind=kind,
            mode=_number(header[100:108], "mode") & 0o7777,
            uid=_identity(records, b"uid", header[108:116]),
            gid=_identity(records, b"gid", header[116:124]),
            size=size,
            mtime_ns=_time(records, header[136:148]),
            link=records.get(b"linkpath") or header[157:257].partition(b"\0")[0],
            major=_number(header[329:337], "device") & 0xFFF if device else 0,
            minor=_number(header[337:345], "device") & 0xFFFFF if device else 0,
            xattrs=_xattrs(records),
        )

    @staticmethod
    def _stored_size(header: bytes, kind: bytes, records: dict[bytes, bytes]) -> int:
        if kind in {REGULAR, b"\0", b"7", _SPARSE, b"D"}:
            return _pax_number(records, b"size", header[124:136])
        return 0  # whatever the header says: links and the like have no content

    def _real_size(
        self, header: bytes, kind: bytes, records: dict[bytes, bytes], stored: int
    ) -> int:
        """The size of the file, which is more than what is stored if it is sparse."""
        found = None
        if kind == _SPARSE:
            found = old_map(header, _number, self._take)
        elif kind == REGULAR:
            mapped = pax_map(records, self._take_content)
            found = None if mapped is None else mapped[0]
            stored -= 0 if mapped is None else mapped[1]
        size = stored if kind in {REGULAR, _SPARSE} else 0
        if found is not None:
            if found.stored != stored:
                raise CorruptArchive("a sparse file's map does not fit its content")
            size = found.size
            self._holes += size - stored
            self._sparse = found
        self.size += size
        if self.size > self._limits.total_size:
            raise CorruptArchive(
                f"archive holds more than {self._limits.total_size} bytes", hint=_BOMB
            )
        if self._holes > self._limits.holes:
            raise CorruptArchive(
                f"sparse files stand for more than {self._limits.holes} bytes", hint=_BOMB
            )
        return size

    def _take_content(self, size: int) -> bytes:
        if size > self._left:
            raise CorruptArchive("a sparse file's map does not fit its content")
        self._left -= size
        return self._take(size)

    # ---------------------------------------------------------------- bytes
    def _take(self, size: int, *, end_allowed: bool = False, short: bool = False) -> bytes:
        """So many bytes; none at all where an end is allowed, or fewer as well if `short`."""
        end = self._position + size
        if end <= len(self._buffer):
            data = self._buffer[self._position : end]
            self._position = end
            return data
        pieces = []
        left = size
        while left:
            piece = self._some(left, end_allowed=end_allowed and (short or left == size))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _some(self, limit: int, *, end_allowed: bool = False) -> bytes:
        if self._position >= len(self._buffer):
            self._buffer = self._stream.read(_READ_AHEAD)
            self._position = 0
            if not self._buffer:
                if end_allowed:
                    return b""
                raise CorruptArchive("archive ends in the middle of an entry")
        piece = self._buffer[self._position : self._position + limit]
        self._position += len(piece)
        return piece

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))


def _header_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
        if prefix:
            return prefix + b"/" + name
    return name


@functools.lru_cache(maxsize=8192)
def _number(field: bytes, what: str) -> int:
    if field[:1] and field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 2)) * 2 if field[0] & 0x40 else value
    text = field.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise CorruptArchive(f"not a tar archive: a header's {what} is no number") from None


def _signed_sum(header: bytes) -> int:
    """The checksum as some old programs make it, of signed bytes."""
    counted = header[:148] + b" " * 8 + header[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in counted)


def _pax_number(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    text = records.get(key) if records else None
    if not text:
        return _number(field, _FIELDS[key])
    try:
        return int(text)
    except ValueError:
        raise CorruptArchive(f"a PAX record's {key.decode()} is no number") from None


def _identity(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    value = _pax_number(records, key, field)
    if not 0 <= value < (1 << 32) - 1:
        raise CorruptArchive(f"a tar entry's {key.decode()} {value} is out of range")
    return value


def _time(records: dict[bytes, bytes], field: bytes) -> int:
    text = records.get(b"mtime")
    if not text:
        nanoseconds = _number(field, "mtime") * 1_000_000_000
    else:
        whole, _, fraction = text.partition(b".")
        try:
            nanoseconds = int(whole or b"0") * 1_000_000_000
            part = int((fraction[:9] or b"0").ljust(9, b"0"))
        except ValueError:
            raise CorruptArchive("a PAX record's mtime is no number") from None
        nanoseconds += -part if whole.startswith(b"-") else part
    return max(-_MAX_TIME_NS, min(nanoseconds, _MAX_TIME_NS))


def _xattrs(records: dict[bytes, bytes]) -> dict[str, bytes]:
    if not records:
        return {}
    return {
        key[len(XATTR_PREFIX) :].decode("utf-8", "surrogateescape"): value
        for key, value in records.items()
        if key.startswith(XATTR_PREFIX) and b"\0" not in key
    }


def _parse_pax(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        digits, space, _ = body[position : position + 20].partition(b" ")
        if not space or not digits.isdigit():
            if not body[position:].strip(b"\0"):
                break
            raise CorruptArchive("a PAX header is malformed")
        end = position + int(digits)
        start = position + len(digits) + 1
        if end > len(body) or end <= start or body[end - 1 : end] != b"\n":
            raise CorruptArchive("a PAX header is malformed")
        key, equals, value = body[start : end - 1].partition(b"=")
        if not equals:
            raise CorruptArchive("a PAX header is malformed")
        if key in _SPARSE_00:  # form 0.0 repeats them: joined they are what form 0.1 has
            key, value = (
                b"GNU.sparse.map",
                b",".join(filter(None, (records.get(b"GNU.sparse.map"), value))),
            )
        records[key] = value
        position = end
    return records
