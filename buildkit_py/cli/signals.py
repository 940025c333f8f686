"""SIGTERM and SIGHUP end a command like Ctrl-C does: by unwinding it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE = 3


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first signal into KeyboardInterrupt; leave at once on the third.

    A second signal is ignored, since the first one's clean-up is under way: it ends processes and
    unmounts. Whoever insists gets out, and the next command sweeps what is left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received = 0

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal received
        received += 1
        if received == 1:
            raise KeyboardInterrupt
        if received >= _PATIENCE:
            os._exit(130)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # A signal that our starter ignores (nohup) stays ignored.
    before = {
        number: signal.getsignal(number)
        for number in signals
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, previous)
