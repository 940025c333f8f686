"""gzip on all cores, with the same bytes whatever the number of cores and the sizes of writes.

The input is cut into blocks of 1 MiB. Each is deflated on its own with the 32 KiB before it as
dictionary, ended by a sync flush, so the results join to one deflate stream. Memory holds a few
blocks. The header has no name, no time and "unknown" as system, as Go's writer leaves it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from buildkit_py.layers.tar import Sink

BLOCK_SIZE = 1 << 20
_WINDOW = 1 << 15
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"  # an empty final deflate block
# The highest level of isal whose bytes are the same on all x86-64 processors since SSE4.2 (2008);
# level 3 has code of its own, with other results, for AVX2 and for AVX-512.
_FAST_LEVEL = 2


def deflate_engine(level: int | None) -> tuple[Any, int]:
    """The module with zlib's interface to use, and its level."""
    if level is None:
        try:
            from isal import isal_zlib  # noqa: PLC0415 - optional
        except ImportError:
            return zlib, 6
        return isal_zlib, _FAST_LEVEL
    return zlib, level


class GzipWriter:
    """Compresses what is written to it; complete after its `with` block."""

    def __init__(self, out: Sink, level: int | None = None) -> None:
        self._out = out
        self._engine, self._level = deflate_engine(level)
        workers = max(1, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="gzip")
        self._waiting: deque[Future[bytes]] = deque()
        self._depth = 2 * workers
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._window = b""
        self._crc = 0
        self._size = 0
        out.write(_HEADER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, data: bytes) -> int:
        """Take all of the bytes."""
        self._crc = self._engine.crc32(data, self._crc)
        self._size += len(data)
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= BLOCK_SIZE:
            joined = b"".join(self._pending)
            whole = len(joined) - len(joined) % BLOCK_SIZE
            for start in range(0, whole, BLOCK_SIZE):
                self._submit(joined[start : start + BLOCK_SIZE])
            self._pending = [joined[whole:]]
            self._pending_size = len(joined) - whole
        return len(data)

    def _submit(self, block: bytes) -> None:
        self._waiting.append(self._pool.submit(self._deflate, block, self._window))
        self._window = block[-_WINDOW:]
        while len(self._waiting) > self._depth:
            self._out.write(self._waiting.popleft().result())

    def _deflate(self, block: bytes, window: bytes) -> bytes:
        engine = self._engine
        if window:
            packer = engine.compressobj(self._level, zlib.DEFLATED, -15, zdict=window)
        else:
            packer = engine.compressobj(self._level, zlib.DEFLATED, -15)
        return bytes(packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH))

    def _finish(self) -> None:
        rest = b"".join(self._pending)
        if rest:
            self._submit(rest)
        while self._waiting:
            self._out.write(self._waiting.popleft().result())
        trailer = struct.pack("<II", self._crc & 0xFFFFFFFF, self._size & 0xFFFFFFFF)
        self._out.write(_LAST_BLOCK + trailer)
