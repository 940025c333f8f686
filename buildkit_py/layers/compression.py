"""Compressed streams in and out: gzip, zstd, estargz and none out; bzip2 and xz in as well.

Input is recognised by its content, never by a name. Output is deterministic for a given version
of the library behind it: see `gzip_blocks.py` for gzip; zstd always runs in its multi-threaded
form, whose bytes do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from buildkit_py.errors import CorruptArchive, UsageError
from buildkit_py.layers.tar import Sink
from buildkit_py.layers.tar_reader import Source

KINDS = ("uncompressed", "gzip", "estargz", "zstd")
_LEVELS = {"gzip": (0, 9), "estargz": (0, 9), "zstd": (0, 22), "uncompressed": (0, 22)}
_CHUNK = 1 << 18
_CODECS = frozenset(("zlib", "lzma", "_lzma", "isal", "igzip_lib"))
_HEAD = 512
_MAGICS = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a layer leaves. `level` None is the default of the kind, at the machine's speed.

    A gzip level of 1 to 9 asks for zlib; without one a faster deflate is used where installed.
    """

    kind: str = "gzip"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(
                f"unsupported compression type {self.kind}", hint="one of " + ", ".join(KINDS)
            )
        low, high = _LEVELS[self.kind]
        if self.level is not None and not low <= self.level <= high:
            raise UsageError(f"compression level of {self.kind} must be in {low}-{high}")


class Compressor(Protocol):
    """Takes a tar; complete after its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, data: bytes, /) -> int:
        """Take all of the bytes."""
        ...


def open_compressor(out: Sink, compression: Compression) -> Compressor:
    """A sink for tar bytes that writes them to `out` compressed."""
    if compression.kind == "uncompressed":
        return _Plain(out)
    if compression.kind == "zstd":
        return _Zstandard(out, compression.level)
    if compression.kind == "estargz":
        from buildkit_py.layers.estargz import EstargzWriter  # noqa: PLC0415 - rarely used

        writer: Compressor = EstargzWriter(out, compression.level)
        return writer
    from buildkit_py.layers.gzip_blocks import GzipWriter  # noqa: PLC0415 - not in cached builds

    return GzipWriter(out, compression.level)


class _Plain:
    def __init__(self, out: Sink) -> None:
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is kept back."""

    def write(self, data: bytes) -> int:
        self._out.write(data)
        return len(data)


class _Zstandard(_Plain):
    def __init__(self, out: Sink, level: int | None) -> None:
        import zstandard

        super().__init__(out)
        # The frame differs between no threads and any number of them, not between numbers.
        threads = max(1, os.cpu_count() or 1)
        made = zstandard.ZstdCompressor(
            level=level or 3, threads=threads, write_content_size=False
        )
        self._compressor = made.compressobj()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._out.write(self._compressor.flush())

    def write(self, data: bytes) -> int:
        packed = self._compressor.compress(data)
        if packed:
            self._out.write(packed)
        return len(data)


# ------------------------------------------------------------------ reading
def detect(head: bytes) -> str:
    """The compression that a stream's first bytes show: a name, or `uncompressed`."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    # a skippable zstd frame, as seekable variants begin
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return "uncompressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much may come out of a compressed stream: `base` bytes, and `factor` times its size.

    What people put into images shrinks to a twentieth at best; zeros shrink by gzip to a
    thousandth, by zstd to less than a ten-thousandth.
    """

    base: int = 16 << 30
    factor: int = 250


class Decompressor:
    """Reads a stream decompressed, whatever its format. Raises CorruptArchive.

    `kind` is what was found. `limit` bounds what comes out; without one, `growth` does.
    """

    def __init__(
        self, stream: Source, *, limit: int | None = None, growth: Growth | None = None
    ) -> None:
        head = b""
        while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
            head += more
        self.kind = detect(head)
        self._source = _Rejoined(head, stream)
        self._read = _reader(self.kind, self._source)
        self._pending = b""
        self._limit = limit
        self._growth = growth or _GROWTH
        self._size = 0
        self._checked = limit is not None or self.kind != "uncompressed"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The underlying stream belongs to the caller."""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, all that is left if it is negative, empty at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._pending:
            self._pending = self._read()
            self._size += len(self._pending)
            if self._checked and self._size > self._allowed():
                raise CorruptArchive(
                    f"compressed data grows past the limit of {self._allowed()} bytes",
                    hint="it may be a decompression bomb: if not, hand it over uncompressed",
                )
        if len(self._pending) <= size:
            data, self._pending = self._pending, b""
        else:
            data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _allowed(self) -> int:
        if self._limit is not None:
            return self._limit
        return self._growth.base + self._growth.factor * self._source.given


_GROWTH = Growth()


def open_decompressor(stream: Source, *, limit: int | None = None) -> Decompressor:
    """A reader of the decompressed bytes of a stream."""
    return Decompressor(stream, limit=limit)


class _Rejoined:
    def __init__(self, head: bytes, stream: Source) -> None:
        self._head = head
        self._stream = stream
        self.given = 0

    def read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._stream.read(size)
        self.given += len(data)
        return data


def _reader(kind: str, stream: Source) -> Callable[[], bytes]:
    if kind == "uncompressed":
        return lambda: stream.read(_CHUNK)
    if kind == "zstd":
        return _zstd_reader(stream)
    if kind == "gzip":
        return _Members(stream, _gzip_object, "gzip").read
    if kind == "bzip2":
        import bz2  # noqa: PLC0415 - rare

        return _Members(stream, bz2.BZ2Decompressor, "bzip2").read
    import lzma  # noqa: PLC0415 - rare

    return _Members(stream, lambda: lzma.LZMADecompressor(memlimit=1 << 28), "xz").read


def _gzip_object() -> Any:
    try:
        from isal import isal_zlib  # noqa: PLC0415 - optional, twice as fast
    except ImportError:
        import zlib  # noqa: PLC0415

        return zlib.decompressobj(31)
    return isal_zlib.decompressobj(31)


def _zstd_reader(stream: Source) -> Callable[[], bytes]:
    import zstandard

    opened = zstandard.ZstdDecompressor().stream_reader(
        stream,  # type: ignore[arg-type]  # it needs no more than `read`
        read_across_frames=True,
    )

    def read() -> bytes:
        try:
            return opened.read(_CHUNK)
        except zstandard.ZstdError as error:
            raise CorruptArchive(f"corrupt zstd data: {error}") from error

    return read


class _Members:
    """A stream of compressed members one after another, as gzip, bzip2 and xz allow.

    Output of one step is bounded, so that a bomb meets the limit before it fills the memory.
    """

    def __init__(self, stream: Source, make: Callable[[], Any], name: str) -> None:
        self._stream = stream
        self._make = make
        self._name = name
        self._object = make()
        self._input = b""
        self._begun = False

    def read(self) -> bytes:
        while True:
            if self._object.eof and not self._next_member():
                return b""
            if not self._input and self._wants_input():
                self._input = self._stream.read(_CHUNK)
                if not self._input:
                    if self._begun:
                        raise CorruptArchive(f"{self._name} data ends too early")
                    return b""
            data = self._step()
            if data:
                return data

    def _wants_input(self) -> bool:
        return bool(getattr(self._object, "needs_input", True))

    def _step(self) -> bytes:
        self._begun = True
        data, self._input = self._input, b""
        try:
            out: bytes = self._object.decompress(data, 4 * _CHUNK)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptArchive(f"corrupt {self._name} data: {error}") from error
        except Exception as error:  # zlib.error and lzma.LZMAError derive from Exception alone
            if type(error).__module__.partition(".")[0] not in _CODECS:
                raise
            raise CorruptArchive(f"corrupt {self._name} data: {error}") from error
        self._input = getattr(self._object, "unconsumed_tail", b"")
        return out

    def _next_member(self) -> bool:
        rest = self._object.unused_data + self._input
        rest = rest or self._stream.read(_CHUNK)
        while rest and not rest.strip(b"\0"):  # padding after the last member
            rest = self._stream.read(_CHUNK)
        if not rest:
            return False
        self._object = self._make()
        self._input = rest.lstrip(b"\0") if self._name != "xz" else rest
        self._begun = False
        return True
