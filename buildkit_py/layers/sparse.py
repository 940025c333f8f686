"""Sparse files of GNU tar: which bytes of a file an archive holds, and the holes between them.

There are four forms: the old one with the map in the header and in blocks behind it (type S), and
three of PAX: 0.0 with a record for every number, 0.1 with one list, 1.0 with the map in front of
the data. Layers that we write are never sparse; these are read only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from buildkit_py.errors import CorruptArchive
from buildkit_py.layers.tar import BATCH, BLOCK

_MAX_PARTS = 1 << 20
_ZEROS = bytes(BATCH)
_OLD_IN_HEADER = 4
_OLD_IN_BLOCK = 21
_NUMBER = re.compile(rb"[0-9]{1,19}\Z")

Take = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseMap:
    """`parts` are offset and length of what is stored, in order; `size` is the file's."""

    size: int
    parts: tuple[tuple[int, int], ...]

    @property
    def stored(self) -> int:
        """How many bytes of content the archive holds."""
        return sum(length for _, length in self.parts)


def old_map(header: bytes, number: Callable[[bytes, str], int], take: Take) -> SparseMap:
    """The map of type S: four parts in the header, 21 in each block that may follow."""
    parts: list[tuple[int, int]] = []

    def read(block: bytes, start: int, count: int) -> None:
        for place in range(start, start + 24 * count, 24):
            offset, length = block[place : place + 12], block[place + 12 : place + 24]
            if not length.strip(b" \0"):
                break
            parts.append((number(offset, "sparse map"), number(length, "sparse map")))

    read(header, 386, _OLD_IN_HEADER)
    more = header[482:483] not in {b"\0", b"0"}
    while more:
        block = take(BLOCK)
        read(block, 0, _OLD_IN_BLOCK)
        more = block[504:505] not in {b"\0", b"0"}
        _limit(parts)
    return _checked(number(header[483:495], "sparse size"), parts)


def pax_map(records: dict[bytes, bytes], take: Take) -> tuple[SparseMap, int] | None:
    """The map that PAX records give, and how many bytes of the content it took; None for none."""
    if b"GNU.sparse.major" in records:
        version = (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor"))
        if version != (b"1", b"0"):
            raise CorruptArchive("a sparse file of a format that is not known")
        numbers, used = _numbers_in_front(take)
        return _checked(_size(records, b"GNU.sparse.realsize"), _pairs(numbers)), used
    text = records.get(b"GNU.sparse.map")
    if text is None:
        return None
    return _checked(
        _size(records, b"GNU.sparse.size"), _pairs(text.split(b",") if text else [])
    ), 0


def _numbers_in_front(take: Take) -> tuple[list[bytes], int]:
    """Decimal numbers, one a line, the first their count; whole blocks of them."""
    text, used = b"", 0
    wanted = None
    while wanted is None or text.count(b"\n") <= wanted:
        text += take(BLOCK)
        used += BLOCK
        if wanted is None and b"\n" in text:
            wanted = 2 * _number(text.partition(b"\n")[0])
        if used > 64 * _MAX_PARTS or (wanted or 0) > 2 * _MAX_PARTS:
            raise CorruptArchive("a sparse file has too many parts")
    return text.split(b"\n")[1 : wanted + 1], used


def _pairs(numbers: Sequence[bytes]) -> list[tuple[int, int]]:
    if len(numbers) % 2:
        raise CorruptArchive("a sparse file's map is malformed")
    values = [_number(text) for text in numbers]
    return list(zip(values[::2], values[1::2], strict=True))


def _number(text: bytes) -> int:
    if not _NUMBER.match(text):
        raise CorruptArchive("a sparse file's map is malformed")
    return int(text)


def _size(records: dict[bytes, bytes], key: bytes) -> int:
    return _number(records.get(key) or records.get(b"GNU.sparse.size") or b"")


def _limit(parts: Sequence[object]) -> None:
    if len(parts) > _MAX_PARTS:
        raise CorruptArchive("a sparse file has too many parts")


def _checked(size: int, parts: Sequence[tuple[int, int]]) -> SparseMap:
    _limit(parts)
    end = 0
    for offset, length in parts:
        if offset < end or length < 0:
            raise CorruptArchive("a sparse file's map is not in order")
        end = offset + length
    if size < end:
        raise CorruptArchive("a sparse file's map goes past its end")
    return SparseMap(size=size, parts=tuple(parts))


def filled(found: SparseMap, some: Callable[[int], bytes]) -> Iterator[bytes]:
    """The whole content, zeros where the holes are; `some` gives stored bytes, at least one."""
    position = 0
    for offset, length in (*found.parts, (found.size, 0)):
        while position < offset:
            piece = _ZEROS[: offset - position]
            position += len(piece)
            yield piece
        left = length
        while left:
            data = some(left)
            left -= len(data)
            position += len(data)
            yield data
