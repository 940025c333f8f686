"""Modules that a Go program was built from, as its linker recorded them (Go 1.18 and later).

The section `.go.buildinfo` of an ELF file holds a header of 32 bytes and two strings with their
lengths before them: Go's version, and lines of `path`, `mod`, `dep` and `=>` between two markers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_MAGIC = b"\xff Go buildinf:"
_SECTION = b".go.buildinfo"
_INLINE = 2
_HEADER = 32
_MARKER = 16
_LIMIT = 8 << 20
_MOST_SECTIONS = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """A module with its version, as `go version -m` shows it."""

    path: str
    version: str


def read_modules(file: BinaryIO) -> list[GoModule]:
    """The modules of a program, the standard library first; none of what Go has not linked."""
    found = _section(file)
    if not found.startswith(_MAGIC) or len(found) < _HEADER or not found[15] & _INLINE:
        return []
    version, rest = _text(found[_HEADER:])
    lines, _ = _text(rest)
    text = lines[_MARKER:-_MARKER].decode("utf-8", "replace")
    out = []
    if version.startswith(b"go"):
        number = version[2:].partition(b" ")[0].decode("utf-8", "replace")
        out.append(GoModule(path="stdlib", version=number))
    out.extend(_modules(text))
    return out


def _modules(text: str) -> Iterator[GoModule]:
    last: GoModule | None = None
    for line in text.split("\n"):
        kind, *fields = line.split("\t")
        if kind == "=>" and len(fields) >= 2:
            last = GoModule(path=fields[0], version=fields[1])  # it replaces the one before
            continue
        if last is not None:
            yield last
        known = kind in {"mod", "dep"} and len(fields) >= 2
        last = GoModule(path=fields[0], version=fields[1]) if known else None
    if last is not None:
        yield last


def _text(data: bytes) -> tuple[bytes, bytes]:
    """A string behind its length, and what follows it."""
    size = shift = 0
    for index, byte in enumerate(data[:10]):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            start = index + 1
            return data[start : start + size], data[start + size :]
    return b"", b""


def _section(file: BinaryIO) -> bytes:
    """The content of `.go.buildinfo`, empty if there is none."""
    head = file.read(64)
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in {1, 2} or head[5] not in {1, 2}:
        return b""
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 40 if wide else 32)
    size, count, names = struct.unpack_from(f"{order}HHH", head, 58 if wide else 46)
    if not 0 < count <= _MOST_SECTIONS or names >= count or size < (64 if wide else 40):
        return b""
    rows = _at(file, table, size * count)
    if len(rows) < size * count:
        return b""
    form, place = (f"{order}QQ", 24) if wide else (f"{order}II", 16)
    text = _at(file, *struct.unpack_from(form, rows, size * names + place))
    for start in range(0, size * count, size):
        (name,) = struct.unpack_from(f"{order}I", rows, start)
        if text[name : name + len(_SECTION) + 1] == _SECTION + b"\0":
            return _at(file, *struct.unpack_from(form, rows, start + place))
    return b""


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset >= 1 << 62:
        return b""
    file.seek(offset)
    return file.read(min(size, _LIMIT))
