"""A blob that can be read while it is written: for sending it before its digest is known."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from buildkit_py.errors import ContentError

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit_py.store.content import BlobWriter

_WORTH = 8 << 20  # what is smaller waits for its digest: the other side may have it
_STEP = 1 << 20


class Growing:
    """The bytes of a blob so far. One thread writes, another reads."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._changed = threading.Condition()
        self._size = 0
        self._whole = self._given_up = False

    def grew(self, size: int, *, whole: bool = False) -> None:
        """So many bytes are in the file now."""
        with self._changed:
            self._size, self._whole = size, whole
            self._changed.notify_all()

    def give_up(self) -> None:
        """The reader need not wait any more: what it reads ends in an error."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def pieces(self) -> Iterator[bytes]:
        """All bytes, as they come. Raises ContentError when the blob is given up."""
        offset = 0
        while True:
            with self._changed:
                while not (self._size > offset or self._whole or self._given_up):
                    self._changed.wait()
                if self._given_up:
                    raise ContentError("a blob was not written to its end")
                size, whole = self._size, self._whole
            while offset < size:
                data = os.pread(self._file, min(_STEP, size - offset), offset)
                if not data:
                    raise ContentError("a blob that is being written is shorter than it was")
                offset += len(data)
                yield data
            if whole:
                return

    def close(self) -> None:
        """Let go of the file: the reader's to call."""
        os.close(self._file)


Follow = Callable[[Growing], None]
"""Begins to read a blob, in a thread of its own."""


class GrowingSink:
    """Writes a blob and tells who follows it. Use as `with` block around the writing."""

    def __init__(self, writer: BlobWriter, follow: Follow | None) -> None:
        self._writer = writer
        self._follow = follow
        self._growing: Growing | None = None
        self._told = 0

    def write(self, data: bytes, /) -> int:
        """Take all of the bytes."""
        count = self._writer.write(data)
        size = self._writer.size
        if self._follow is not None and size >= max(_WORTH, self._told + _STEP):
            self._writer.flush()
            if self._growing is None:
                self._growing = Growing(self._writer.path)
                self._follow(self._growing)
            self._growing.grew(size)
            self._told = size
        return count

    def end(self) -> None:
        """All is written."""
        if self._growing is not None:
            self._writer.flush()
            self._growing.grew(self._writer.size, whole=True)

    def __enter__(self) -> GrowingSink:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and self._growing is not None:
            self._growing.give_up()
