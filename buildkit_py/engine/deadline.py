"""`--timeout`: calls something when a build has taken too long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float, expire: Callable[[], None]) -> Iterator[None]:
    """Call `expire` when the block lasts longer than `seconds`; 0 is for ever."""
    if seconds <= 0:
        yield
        return
    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
