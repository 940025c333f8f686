"""One line an event, a block a step: the text of `--progress=plain`.

`#N` numbers the vertices in the order of their first mention. A block is headed by the vertex's
name, and left by `#N ...` when another one takes over. A vertex that ends is shown at once; of
those that run, one is current, and the others wait until it ends or has talked for long enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from buildkit_py.digest import Digest
from buildkit_py.progress.clip import LineBuffer, LogClip, clip_from
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    StepCompleted,
    VertexCached,
    VertexCompleted,
    VertexHeld,
    VertexLog,
    VertexStarted,
    VertexStatus,
)

_ANTI_FLICKER = 5.0  # seconds that a talking vertex keeps the screen at least
_MAX_DELAY = 10.0  # seconds that another one's output waits at most
_STATUS_INTERVAL = 5.0
_STATUS_SHARE = 0.05


@dataclass(slots=True)
class _Status:
    """What was last said of one transfer."""

    began: float
    time: float
    current: int


@dataclass(slots=True)
class _Vertex:
    """A vertex and the lines of it that are not shown yet."""

    number: int
    name: str
    clip: LogClip
    began: float | None = None
    waiting_since: float | None = None
    ended: bool = False
    pending: list[str] = field(default_factory=list)
    lines: LineBuffer = field(default_factory=LineBuffer)
    statuses: dict[str, _Status] = field(default_factory=dict)


class PlainDisplay:
    """Shows vertices block by block."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str]) -> None:
        self._stream = stream
        self._environment = environment
        self._vertices: dict[Digest, _Vertex] = {}
        self._current: _Vertex | None = None
        self._current_since = 0.0
        self._first = True

    def __call__(self, event: Event, /) -> None:
        """Note an event, and show what is due."""
        vertex: _Vertex | None = None
        match event:
            case VertexStarted():
                vertex = self._vertex(event.vertex, event.name)
                vertex.began = event.time
            case VertexCached():
                vertex = self._vertex(event.vertex, event.name)
                vertex.pending.append("CACHED")
                vertex.ended = True
            case VertexLog():
                vertex = self._vertex(event.vertex)
                self._log(vertex, event)
            case VertexStatus():
                vertex = self._vertex(event.vertex)
                self._status(vertex, event)
            case VertexCompleted():
                vertex = self._vertex(event.vertex, event.name)
                self._complete(vertex, event)
            case BuildWarning(vertex=digest) if digest in self._vertices:
                vertex = self._vertices[digest]
                vertex.pending.append(f"WARN: {event.message}")
            case (
                BuildStarted() | BuildWarning() | StepCompleted() | VertexHeld() | BuildCompleted()
            ):
                return
        self._schedule(vertex, getattr(event, "time", 0.0))
        self._stream.flush()

    def close(self) -> None:
        """Show what still waits."""
        for vertex in self._vertices.values():
            if vertex.pending:
                self._show(vertex, self._current_since)
        self._stream.flush()

    def _vertex(self, digest: Digest, name: str = "") -> _Vertex:
        vertex = self._vertices.get(digest)
        if vertex is None:
            number = len(self._vertices) + 1
            vertex = _Vertex(
                number=number, name=name or str(digest), clip=clip_from(self._environment)
            )
            self._vertices[digest] = vertex
        return vertex

    def _log(self, vertex: _Vertex, event: VertexLog) -> None:
        stamp = seconds(event.time - (event.time if vertex.began is None else vertex.began))
        shown = vertex.clip.pass_on(event.data, event.time)
        vertex.pending.extend(f"{stamp} {line}" for line in vertex.lines.feed(shown))

    def _status(self, vertex: _Vertex, event: VertexStatus) -> None:
        known = vertex.statuses.get(event.id)
        if known is None:
            known = _Status(began=event.time, time=event.time, current=event.current)
            vertex.statuses[event.id] = known
        elif not event.done and (
            event.time - known.time < _STATUS_INTERVAL
            or event.current - known.current < _STATUS_SHARE * event.total
        ):
            return
        known.time, known.current = event.time, event.current
        vertex.pending.append(status_line(event, began=known.began))

    def _complete(self, vertex: _Vertex, event: VertexCompleted) -> None:
        took = event.time - (vertex.began if vertex.began is not None else event.time)
        vertex.pending.extend(f"{seconds(took)} {line}" for line in vertex.lines.flush())
        if event.error is None:
            vertex.pending.append(f"DONE {took:.1f}s")
        elif event.error == "canceled":
            vertex.pending.append("CANCELED")
        else:
            vertex.pending.append(f"ERROR: {' '.join(event.error.split())}")
        vertex.ended = True

    def _schedule(self, vertex: _Vertex, now: float) -> None:
        """Decide whether `vertex` is shown now, and which one is next."""
        if vertex.ended and not vertex.pending:
            return  # a layer of an image that is fetched later: not every piece is told
        if vertex.waiting_since is None:
            vertex.waiting_since = now
        current = self._current
        free = current is None or current.ended or current is vertex
        if free or vertex.ended or self._may_take_over(vertex, now):
            self._show(vertex, now)
        if self._current is not None and self._current.ended:
            waiting = [other for other in self._vertices.values() if not other.ended]
            if waiting:
                self._show(max(waiting, key=lambda other: len(other.pending)), now)

    def _may_take_over(self, vertex: _Vertex, now: float) -> bool:
        if not vertex.pending or vertex.waiting_since is None:
            return False
        held = now - self._current_since
        return held > _ANTI_FLICKER and now - vertex.waiting_since > _MAX_DELAY

    def _show(self, vertex: _Vertex, now: float) -> None:
        write = self._stream.write
        if vertex is not self._current:
            if self._current is not None and not self._current.ended:
                write(f"#{self._current.number} ...\n")
            if not self._first:
                write("\n")
            self._first = False
            write(f"#{vertex.number} {vertex.name}\n")
            self._current, self._current_since = vertex, now
        for line in vertex.pending:
            write(f"#{vertex.number} {line}\n")
        vertex.pending.clear()
        vertex.waiting_since = None


def status_line(event: VertexStatus, *, began: float) -> str:
    """`transferring context: 2B done`, `sha256:abc… 1.05MB / 3.10MB 0.2s`."""
    text = status_name(event)
    if event.total:
        text += f" {decimal_size(event.current)} / {decimal_size(event.total)}"
        text += f" {event.time - began:.1f}s"
    elif event.current:
        text += f": {decimal_size(event.current)}"
    elif event.time > began:
        text += f" {event.time - began:.1f}s"
    return text + (" done" if event.done else "")


def status_name(event: VertexStatus) -> str:
    """What is under way: a bare digest needs its verb, unless it is a plain download."""
    if event.id.startswith(("sha256:", "sha512:")) and event.action not in {"", "downloading"}:
        return f"{event.action} {event.id}"
    return event.id


def decimal_size(count: float) -> str:
    """`2B`, `1.05MB`: two decimals from kilobytes on."""
    if count < 1000:
        return f"{count:.0f}B"
    units = ["kB", "MB", "GB"]
    count /= 1000
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{count:.2f}{units[0]}"


def seconds(time: float) -> str:
    """A time with five characters: `0.372`, `12.85`, `100.3`."""
    text = f"{max(0.0, time):.5f}"
    return text[:5].rstrip(".") if time < 100000 else text.partition(".")[0]


def open_display(stream: TextIO, environment: Mapping[str, str]) -> PlainDisplay:
    """See `progress.open_display`."""
    return PlainDisplay(stream, environment)
