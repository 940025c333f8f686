"""What is still to be said of a finished vertex, put off until its thread has nothing to do.

To tell displays, records and exporters of a step takes a part of a millisecond, and while a
program runs in a sandbox the thread only waits for it. So what came before is said then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Later:
    """The calls that one thread has put off, in order. Each is made once."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()

    def add(self, call: Callable[[], None]) -> None:
        """Make a call at the next `catch_up`."""
        self._calls.append(call)

    def catch_up(self) -> None:
        """Make all calls. An error of one is raised, and those behind it are left for then."""
        while self._calls:
            self._calls.popleft()()
