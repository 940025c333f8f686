"""Which tasks may run now: a state machine with no threads, clock or I/O in it.

A task is named by any hashable value. It is *waiting* until all tasks that it needs are done, then
*ready*, *running* once it is taken, and *done* when it is completed. `fail` stops everything that
has not been taken; what is running is waited for by the caller. Each task is taken exactly once,
never before what it needs, and `finished` becomes true for any order of completions.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping

Name = TypeVar("Name", bound="Hashable")


class TaskState(Enum):
    """Where a task is on its way."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    DROPPED = "dropped"


class Scheduler(Generic[Name]):
    """The tasks of one run. `needs` maps each task to those before it; order is kept as given."""

    def __init__(self, needs: Mapping[Name, Collection[Name]]) -> None:
        self._missing: dict[Name, set[Name]] = {}
        self._users: dict[Name, list[Name]] = {name: [] for name in needs}
        self._states: dict[Name, TaskState] = {}
        self._ready: deque[Name] = deque()
        self._open = len(needs)
        self._running = 0
        self.failed = False
        for name, before in needs.items():
            missing = set(before)
            for other in missing:
                if other not in needs:
                    raise ValueError(f"{name!r} needs {other!r}, which is no task")
                self._users[other].append(name)
            self._missing[name] = missing
            self._states[name] = TaskState.WAITING
            if not missing:
                self._make_ready(name)
        _refuse_cycles(needs)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing will."""
        return self._running == 0 and (self.failed or self._open == 0)

    @property
    def running(self) -> int:
        """How many tasks are taken and not ended."""
        return self._running

    def state(self, name: Name) -> TaskState:
        """Where a task is."""
        return self._states[name]

    def take(self) -> Name | None:
        """The next task to run, now marked as running; None when none is ready."""
        if not self._ready:
            return None
        name = self._ready.popleft()
        self._states[name] = TaskState.RUNNING
        self._running += 1
        return name

    def complete(self, name: Name) -> None:
        """A running task has its result; those that waited for it alone become ready."""
        self._end(name, TaskState.DONE)
        for user in self._users[name]:
            missing = self._missing[user]
            missing.discard(name)
            if not missing and not self.failed:
                self._make_ready(user)

    def follow(self, name: Name) -> Name | None:
        """Complete a task and take the only one that this makes ready.

        None, and nothing is done, when it makes ready several or none, or others are ready.
        """
        freed = [user for user in self._users[name] if self._missing[user] <= {name}]
        if self.failed or self._ready or len(freed) != 1:
            return None
        self.complete(name)
        return self.take()

    def fail(self, name: Name) -> None:
        """A running task has failed: nothing more is handed out."""
        self._end(name, TaskState.DROPPED)
        self.stop()

    def stop(self) -> None:
        """Hand out nothing more (a failure, an interrupt)."""
        self.failed = True
        self._ready.clear()
        for name, state in self._states.items():
            if state in {TaskState.WAITING, TaskState.READY}:
                self._states[name] = TaskState.DROPPED

    def _make_ready(self, name: Name) -> None:
        self._states[name] = TaskState.READY
        self._ready.append(name)

    def _end(self, name: Name, state: TaskState) -> None:
        if self._states[name] is not TaskState.RUNNING:
            raise ValueError(f"{name!r} is {self._states[name].value}, not running")
        self._states[name] = state
        self._running -= 1
        self._open -= 1


def _refuse_cycles(needs: Mapping[Name, Collection[Name]]) -> None:
    """Kahn's algorithm: what is never reached lies on a cycle or behind one."""
    missing = {name: len(set(before)) for name, before in needs.items()}
    users: dict[Name, list[Name]] = {name: [] for name in needs}
    for name, before in needs.items():
        for other in set(before):
            users[other].append(name)
    free = [name for name, count in missing.items() if count == 0]
    reached = 0
    while free:
        reached += 1
        for user in users[free.pop()]:
            missing[user] -= 1
            if missing[user] == 0:
                free.append(user)
    if reached != len(needs):
        raise ValueError("tasks need each other in a cycle")
