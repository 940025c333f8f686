"""Stat data that stands for a file's content and metadata, and when it may be relied upon.

No imports but `os` and `struct`: this is on the path of a build in which nothing changed.
"""

from __future__ import annotations

import os
import struct

STAMP = 48  # bytes
_FINE_GRAIN, _COARSE_GRAIN = 100_000_000, 2_000_000_000
_CHUNK = 2_000

_pack = struct.Struct("<QQqqqQ").pack


def stamp_of(status: os.stat_result) -> bytes:
    """Device, inode, size, both times and mode, packed.

    One bytes object for each file, where a tuple would keep the garbage collector busy.
    """
    return _pack(
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
    )


def is_settled(ctime_ns: int, read_at_ns: int) -> bool:
    """Whether any change after the reading must show in ctime.

    ctime decides, as nobody can set it; one without fractions comes from a file system that
    counts whole seconds.
    """
    grain = _FINE_GRAIN if ctime_ns % 1_000_000_000 else _COARSE_GRAIN
    return ctime_ns < read_at_ns - grain


def same_stamps(directory: bytes, names: list[bytes], stamps: bytes) -> bool:
    """Whether all entries are what they were: one lstat each, and an early end."""
    lstat = os.lstat
    try:
        for start in range(0, len(names), _CHUNK):
            chunk = [stamp_of(lstat(directory + name)) for name in names[start : start + _CHUNK]]
            if b"".join(chunk) != stamps[start * STAMP : (start + len(chunk)) * STAMP]:
                return False
    except OSError:
        return False
    return len(stamps) == len(names) * STAMP
