"""Hash and length of what passes by, in a second thread where that pays.

Hashing and writing leave the interpreter's lock alone, so for large content the next piece is
read while the last one is hashed.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from buildkit_py.digest import Digest
from buildkit_py.layers.tar import Sink
from buildkit_py.layers.tar_reader import Source

_DEPTH = 6  # pieces of about 1 MiB that may wait


class HashingSink:
    """Hashes and counts what goes through it, on to another sink if there is one.

    In a `with` block it may run beside its caller; `digest` is complete after the block.
    """

    def __init__(self, out: Sink | None = None) -> None:
        self._hash = hashlib.sha256()
        self._out = out
        self._queue: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None and self._queue is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if error is None and self._failure is not None:
            raise self._failure

    def run_beside(self) -> None:
        """From now on hash in a second thread."""
        if self._thread is None:
            self._queue = queue.Queue(_DEPTH)
            self._thread = threading.Thread(target=self._run, name="layer-hash", daemon=True)
            self._thread.start()

    def write(self, data: bytes) -> int:
        """Take all of the bytes."""
        self.size += len(data)
        if self._thread is None or self._queue is None:
            self._take(data)
        else:
            if self._failure is not None:
                raise self._failure
            self._queue.put(data)
        return len(data)

    def borrow(self, data: memoryview) -> None:
        """Take all of the bytes, which are the caller's again when this returns."""
        if self._thread is None and self._out is None:
            self.size += len(data)
            self._hash.update(data)
        else:
            self.write(bytes(data))

    @property
    def digest(self) -> Digest:
        """The digest of all bytes so far."""
        return Digest("sha256:" + self._hash.hexdigest())

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        if self._out is not None:
            self._out.write(data)

    def _run(self) -> None:
        assert self._queue is not None
        while (data := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._take(data)
                except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                    self._failure = error


class HashingSource:
    """Hashes and counts what is read through it."""

    def __init__(self, stream: Source) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        data = self._stream.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    @property
    def digest(self) -> Digest:
        """The digest of all bytes so far."""
        return Digest("sha256:" + self._hash.hexdigest())


class WatchedSink:
    """A sink that calls `watch` before each piece; what it raises ends the writing."""

    def __init__(self, out: Sink, watch: Callable[[], None]) -> None:
        self._out = out
        self._watch = watch

    def write(self, data: bytes, /) -> int:
        """Take all of the bytes."""
        self._watch()
        self._out.write(data)
        return len(data)
