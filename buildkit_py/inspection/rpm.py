"""The database of rpm, in its three formats: SQLite, rpm's own `ndb`, and Berkeley DB hashes.

Each holds one header a package: an index of tags and a store of values, both big-endian (rpm's
`docs/manual/format.md`). Berkeley DB is what RHEL 8 and older have; its hash pages are read as its
`db_page.h` describes them, overflow chains included. No format is written, and nothing of rpm is
needed.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME, _VERSION, _RELEASE, _EPOCH, _LICENSE, _ARCH = 1000, 1001, 1002, 1003, 1014, 1022
_INT32, _STRING, _STRINGS, _I18N = 4, 6, 8, 9
_MOST_TAGS = 1 << 16
_MOST_WORK = 100_000_000  # instructions of SQLite's machine: some seconds

_NDB_MAGIC, _NDB_SLOT, _NDB_BLOB = b"RpmP", b"Slot", b"BlbS"
_NDB_PAGE, _NDB_ENTRY = 4096, 16

_BDB_HASH = 0x00061561
_BDB_HEADER = 26
_BDB_HASH_PAGES = frozenset((2, 13))
_BDB_KEYDATA, _BDB_OFFPAGE = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmPackage:
    """What the header of an installed package says of it."""

    name: str
    version: str
    release: str
    epoch: int | None
    architecture: str
    license: str


def read_sqlite(path: Path) -> list[RpmPackage]:
    """Packages of a `rpmdb.sqlite`, which is a copy: its WAL, if there is one, lies beside it.

    The file comes out of an image, so that nothing in it may run for long.
    """
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.set_progress_handler(lambda: 1, _MOST_WORK)
        rows = connection.execute("SELECT blob FROM Packages").fetchall()
    except (sqlite3.Error, OverflowError):
        return []
    finally:
        connection.close()
    return [item for (blob,) in rows if (item := _header(blob)) is not None]


def read_packages_db(data: bytes) -> list[RpmPackage]:
    """Packages of a `Packages.db` (ndb)."""
    return [item for blob in _ndb_blobs(data) if (item := _header(blob)) is not None]


def read_packages(data: bytes) -> list[RpmPackage]:
    """Packages of a `Packages` (Berkeley DB)."""
    return [item for blob in _bdb_values(data) if (item := _header(blob)) is not None]


# ------------------------------------------------------------------ headers
def _header(blob: object) -> RpmPackage | None:
    if not isinstance(blob, bytes) or len(blob) < 8:
        return None
    count, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * count
    if count > _MOST_TAGS or start + size > len(blob):
        return None
    store = blob[start : start + size]
    found: dict[int, str | int] = {}
    for place in range(8, start, 16):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, place)
        if kind in {_STRING, _STRINGS, _I18N} and 0 <= offset < size:
            found[tag] = store[offset:].partition(b"\0")[0].decode("utf-8", "replace")
        elif kind == _INT32 and 0 <= offset <= size - 4:
            found[tag] = struct.unpack_from(">I", store, offset)[0]
    name, version = found.get(_NAME), found.get(_VERSION)
    if not isinstance(name, str) or not isinstance(version, str):
        return None
    epoch = found.get(_EPOCH)
    return RpmPackage(
        name=name,
        version=version,
        release=str(found.get(_RELEASE, "")),
        epoch=epoch if isinstance(epoch, int) else None,
        architecture=str(found.get(_ARCH, "")),
        license=str(found.get(_LICENSE, "")),
    )


# ------------------------------------------------------------------ ndb
def _ndb_blobs(data: bytes) -> Iterator[bytes]:
    if data[:4] != _NDB_MAGIC or len(data) < 32:
        return
    (pages,) = struct.unpack_from("<I", data, 12)
    end = min(pages * _NDB_PAGE, len(data))
    for place in range(2 * _NDB_ENTRY, end - _NDB_ENTRY + 1, _NDB_ENTRY):
        magic, number, offset, _ = struct.unpack_from("<4sIII", data, place)
        if magic != _NDB_SLOT or not number:
            continue
        start = offset * _NDB_ENTRY
        if start + _NDB_ENTRY > len(data):
            continue
        magic, owner, _, size = struct.unpack_from("<4sIII", data, start)
        if magic == _NDB_BLOB and owner == number:
            yield data[start + _NDB_ENTRY : start + _NDB_ENTRY + size]


# ------------------------------------------------------------------ Berkeley DB
def _bdb_values(data: bytes) -> Iterator[bytes]:
    for order in "<", ">":
        if len(data) >= 512 and struct.unpack_from(f"{order}I", data, 12)[0] == _BDB_HASH:
            yield from _BerkeleyHash(data, order).values()


class _BerkeleyHash:
    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._order = order
        self._size: int = struct.unpack_from(f"{order}I", data, 20)[0]

    def values(self) -> Iterator[bytes]:
        """The second of each pair of items on hash pages."""
        if not 512 <= self._size <= 1 << 16:
            return
        for start in range(self._size, len(self._data) - self._size + 1, self._size):
            page = self._data[start : start + self._size]
            if page[25] not in _BDB_HASH_PAGES:
                continue
            (entries,) = struct.unpack_from(f"{self._order}H", page, 20)
            if _BDB_HEADER + 2 * entries > self._size:
                continue
            places = struct.unpack_from(f"{self._order}{entries}H", page, _BDB_HEADER)
            for index in range(1, entries, 2):
                yield self._item(page, places[index], places[index - 1])

    def _item(self, page: bytes, place: int, end: int) -> bytes:
        """One item: items lie from the end of the page down, so it ends where the last began."""
        kind = page[place] if place < len(page) else 0
        if kind == _BDB_KEYDATA:
            return page[place + 1 : end]
        if kind == _BDB_OFFPAGE and place + 12 <= len(page):
            number, length = struct.unpack_from(f"{self._order}II", page, place + 4)
            return self._overflow(number, length)
        return b""

    def _overflow(self, number: int, length: int) -> bytes:
        parts: list[bytes] = []
        got = 0
        while number and got < length:
            start = number * self._size
            page = self._data[start : start + self._size]
            if len(page) < self._size:
                break
            (number,) = struct.unpack_from(f"{self._order}I", page, 16)
            (used,) = struct.unpack_from(f"{self._order}H", page, 22)
            if not used:
                break
            parts.append(page[_BDB_HEADER : _BDB_HEADER + used])
            got += used
        return b"".join(parts)[:length]
