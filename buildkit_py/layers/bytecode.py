"""The time inside a Python bytecode file, which must go with that of its source.

A `.pyc` that is checked by time holds the source's mtime in its header, and Python ignores the
file when the two differ. When times are settled, the header's goes through the same function as
those of files; so what was valid stays valid, and what was not does not become so.
"""

from __future__ import annotations

SUFFIX = b".pyc"
HEADER = 16
_OLD = range(3000, 3390)  # magic numbers of 3.0 to 3.6, whose headers have no flags (PEP 552)
_PYTHON_2 = 20000


def settled(data: bytes, *, earliest: int | None = None, latest: int | None = None) -> bytes:
    """The file (or its first bytes) with the source's time moved into the limits (seconds)."""
    if len(data) < HEADER or data[2:4] != b"\r\n":
        return data
    magic = int.from_bytes(data[:2], "little")
    place = 4 if magic in _OLD or magic > _PYTHON_2 else 8
    if place == 8 and data[4:8] != bytes(4):  # checked by the source's hash
        return data
    before = int.from_bytes(data[place : place + 4], "little")
    after = before if earliest is None else max(before, earliest)
    after = after if latest is None else min(after, latest)
    if after == before:
        return data
    return data[:place] + (after & 0xFFFFFFFF).to_bytes(4, "little") + data[place + 4 :]
