"""The text of docker's classic builder: `Step 1/7 : FROM golang`, ` ---> df6ac9d1bf64`.

Steps are shown in the file's order. Where independent stages run at the same time, what belongs
to a later step waits until its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from buildkit_py.digest import Digest
from buildkit_py.errors import UsageError
from buildkit_py.oci.reference import parse_reference
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    Event,
    StepCompleted,
    StepInfo,
    VertexLog,
    VertexStatus,
)

_SHORT = 12


@dataclass(slots=True)
class _Step:
    """What is known of one step and not yet shown."""

    info: StepInfo
    announced: bool = False
    introduced: bool = False  # `Running in` is written
    pending: list[bytes] = field(default_factory=list)
    done: StepCompleted | None = None


class ClassicDisplay:
    """Shows steps one after the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._steps: list[_Step] = []
        self._by_vertex: dict[Digest, _Step] = {}
        self._turn = 0
        self._open_line = False

    def __call__(self, event: Event, /) -> None:
        """Note an event, and show what is due."""
        match event:
            case BuildStarted():
                self._steps = [_Step(info=info) for info in event.steps]
                self._by_vertex = {}
                for step in self._steps:
                    if step.info.vertex is not None:
                        self._by_vertex.setdefault(step.info.vertex, step)
            case VertexLog(vertex=vertex, data=data) if vertex in self._by_vertex:
                self._by_vertex[vertex].pending.append(data)
            case StepCompleted(index=index):
                self._steps[index].done = event
            case VertexStatus(id="transferring context", done=True) if not self._steps:
                self._write(f"Sending build context to Docker daemon  {_size(event.current)}\n")
            case BuildCompleted():
                self._finish(event)
            case _:
                return
        self._advance()

    def close(self) -> None:
        """End an unfinished line of a step's output."""
        if self._open_line:
            self._write("\n")
        self._stream.flush()

    def _advance(self) -> None:
        while self._turn < len(self._steps):
            step = self._steps[self._turn]
            self._show(step)
            if step.done is None:
                break
            self._turn += 1
        self._stream.flush()

    def _show(self, step: _Step) -> None:
        done = step.done
        cached = done is not None and done.cached
        if not step.announced:
            step.announced = True
            number = f"Step {self._turn + 1}/{len(self._steps)}"
            self._line(f"{number} : {step.info.text}")
            if step.info.triggers:
                plural = "s" if step.info.triggers > 1 else ""
                self._line(f"# Executing {step.info.triggers} build trigger{plural}")
        identity = _short(str(step.info.vertex))
        # A vertex that starts may still be found in the cache; one that says something runs.
        ran = step.pending or (done is not None and not cached)
        if ran and not step.introduced and step.info.text[:4].upper() == "RUN ":
            step.introduced = True
            self._line(f" ---> Running in {identity}")
        for data in step.pending:
            self._write(data.decode("utf-8", "replace"))
        step.pending.clear()
        if done is None:
            return
        if cached and step.info.text[:5].upper() != "FROM ":
            self._line(" ---> Using cache")
        elif step.introduced:
            self._line(f" ---> Removed intermediate container {identity}")
        if done.id:
            self._line(f" ---> {_short(done.id)}")

    def _finish(self, event: BuildCompleted) -> None:
        for step in self._steps[self._turn :]:
            if step.announced:
                self._show(step)
        if event.error is not None or event.cancelled:
            return
        self._turn = len(self._steps)
        if event.image_id:
            self._line(f"Successfully built {_short(event.image_id)}")
        for name in event.names:
            self._line(f"Successfully tagged {_familiar(name)}")

    def _line(self, text: str) -> None:
        """Write a line of our own, below whatever a step left unfinished."""
        self._write(("\n" if self._open_line else "") + text + "\n")

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._open_line = not text.endswith("\n")


def _short(identity: str) -> str:
    return identity.rpartition(":")[2][:_SHORT]


def _familiar(name: str) -> str:
    try:
        return parse_reference(name).familiar
    except UsageError:
        return name


def _size(count: float) -> str:
    units = ["B", "kB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.4g}{units[0]}"


def open_display(stream: TextIO, environment: Mapping[str, str]) -> ClassicDisplay:  # noqa: ARG001
    """See `progress.open_display`."""
    return ClassicDisplay(stream)
