"""What the tar of a layer says of its plain files, remembered for the next layer like it.

A COPY that misses links most files from its earlier result, so most headers of the new tar are
those of the old one. They are kept beside the old layer by path and inode: the store's files are
never changed in place, and while the old layer is there no other file has one of its inodes. So
a file of which both are known needs no look at its metadata.
"""

from __future__ import annotations

import marshal
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import Struct

from buildkit_py.layers import bytecode
from buildkit_py.layers.tar import REGULAR, pack_header

INODE = 8
"""Bytes that an entry begins with. What of the header is not the same for all files follows."""

_NAME_END, _PLAIN_START = 100, 156
_SIZE = slice(INODE + 24, INODE + 35)
_TAIL = pack_header(b"", REGULAR, 0, 0, 0, 0, 0)[_PLAIN_START:]
_FORMAT = f"1 {sys.version_info[0]}.{sys.version_info[1]} {marshal.version}"
_WORTH = 200
pack_inode = Struct("<Q").pack


class Members:
    """Entries of an earlier layer (`known`), and those of the layer that is written (`made`)."""

    def __init__(self, known: dict[bytes, bytes] | None = None) -> None:
        self.known = known or {}
        self.made: dict[bytes, bytes] = {}

    def add(self, path: bytes, inode: int, header: bytes) -> None:
        """Remember a file's header, if it is a plain one."""
        if (
            len(header) == _PLAIN_START + len(_TAIL)
            and header[_PLAIN_START:] == _TAIL
            and header[:_NAME_END].rstrip(b"\0") == path
            and not path.endswith(bytecode.SUFFIX)  # its content depends on the clamp as well
        ):
            self.made[path] = pack_inode(inode) + header[_NAME_END:_PLAIN_START]


def header_of(path: bytes, entry: bytes) -> bytes:
    """The header block of a remembered file."""
    return path.ljust(_NAME_END, b"\0") + entry[INODE:] + _TAIL


def size_of(entry: bytes) -> int:
    """The length of a remembered file."""
    return int(entry[_SIZE], 8)


@contextmanager
def members_for(
    layer: Path, similar: Mapping[Path, Path | None], clamp: int | None
) -> Iterator[Members | None]:
    """What to write a layer with, and what was written is kept; None for one not in `similar`.

    `similar` names for each layer that is to be remembered an earlier one that is like it.
    """
    if layer not in similar:
        yield None
        return
    members = load_members(similar[layer], clamp)
    yield members
    save_members(layer, clamp, members)


def load_members(layer: Path | None, clamp: int | None) -> Members:
    """What is remembered of a layer's directory; nothing if its times were clamped otherwise."""
    if layer is None:
        return Members()
    try:
        wanted = _form(layer, clamp)
        data = _file(layer).read_bytes()
        if zlib.crc32(data[4:]).to_bytes(4, "little") != data[:4]:
            return Members()
        form, known = marshal.loads(data[4:])  # noqa: S302  # our own file
    except (OSError, ValueError, TypeError, EOFError):
        return Members()
    return Members(known if form == wanted else None)


def save_members(layer: Path, clamp: int | None, members: Members) -> None:
    """Keep what was written of a layer, if there are many files. Never fails."""
    if len(members.made) < _WORTH:
        return
    target = _file(layer)
    partial = target.with_name(f"members.{os.getpid()}")
    with suppress(OSError):
        data = marshal.dumps((_form(layer, clamp), members.made))
        partial.write_bytes(zlib.crc32(data).to_bytes(4, "little") + data)
        partial.replace(target)
    with suppress(OSError):
        partial.unlink(missing_ok=True)


def _form(layer: Path, clamp: int | None) -> tuple[str, int | None, int, int]:
    """What has to be the same: in a store that was copied or restored inodes mean nothing."""
    status = os.stat(layer)
    return (_FORMAT, clamp, status.st_ino, status.st_ctime_ns)


def _file(layer: Path) -> Path:
    return layer.with_name("members")
