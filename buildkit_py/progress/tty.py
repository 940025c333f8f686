"""The redrawn terminal view: `[+] Building 3.4s (5/9)` and a line a vertex.

Events change a small model; a thread of this display draws it ten times a second. rich is imported
by that thread, so a build that ends at once pays for one frame only.
"""

from __future__ import annotations

import re
import threading
import time as clock
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

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
from buildkit_py.progress.plain import decimal_size, status_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

_INTERVAL = 0.1
_LOG_LINES = 6
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)|[\x00-\x08\x0b-\x1f\x7f]"
)
_STYLES = {"run": "blue", "cancel": "yellow", "warning": "yellow", "error": "red"}


@dataclass(slots=True)
class Row:
    """A vertex on the screen."""

    name: str
    clip: LogClip
    logs: deque[str]
    began: float | None = None
    ended: float | None = None
    cached: bool = False
    error: str | None = None
    lines: LineBuffer = field(default_factory=LineBuffer)
    statuses: dict[str, tuple[VertexStatus, float]] = field(default_factory=dict)


class Screen:
    """What the terminal shall show, without a terminal."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        text = environment.get("BUILDKIT_TTY_LOG_LINES", "")
        self._log_lines = int(text) if text.isdigit() else _LOG_LINES
        self.rows: dict[Digest, Row] = {}
        self.began: float | None = None
        self.ended: float | None = None
        self.total = 0

    def update(self, event: Event) -> None:
        """Take an event into the model."""
        if self.began is None and not isinstance(event, BuildWarning):
            self.began = event.time
        match event:
            case BuildStarted():
                self.total = event.total
            case VertexStarted():
                row = self._row(event.vertex, event.name)
                row.began = event.time
            case VertexCached():
                row = self._row(event.vertex, event.name)
                row.cached = True
                row.began = row.ended = event.time
            case VertexLog():
                row = self._row(event.vertex)
                row.logs.extend(row.lines.feed(row.clip.pass_on(event.data, event.time)))
            case VertexStatus():
                row = self._row(event.vertex)
                _, began = row.statuses.get(event.id, (event, event.time))
                row.statuses[event.id] = (event, began)
            case VertexCompleted():
                row = self._row(event.vertex, event.name)
                row.logs.extend(row.lines.flush())
                row.ended, row.error = event.time, event.error
                row.began = event.time if row.began is None else row.began
            case BuildCompleted():
                self.ended = event.time
            case BuildWarning() | StepCompleted() | VertexHeld():
                pass

    def _row(self, digest: Digest, name: str = "") -> Row:
        row = self.rows.get(digest)
        if row is None:
            logs: deque[str] = deque(maxlen=self._log_lines)
            row = Row(name=name or str(digest), clip=clip_from(self._environment), logs=logs)
            self.rows[digest] = row
        return row

    def frame(self, now: float, height: int | None = None) -> list[tuple[str, str, str]]:
        """Lines as (left text, right text, style name), at most `height` of them."""
        done = sum(row.ended is not None for row in self.rows.values())
        took = (self.ended or now) - (self.began if self.began is not None else now)
        head = f"[+] Building {took:.1f}s ({done}/{max(self.total, len(self.rows))})"
        blocks = [(row, _block(row, now)) for row in self.rows.values()]
        # Too small a screen loses the oldest lines of what is done.
        spare = sum(len(block) for _, block in blocks) - (height - 1) if height else 0
        lines: list[tuple[str, str, str]] = []
        for row, block in blocks:
            if spare > 0 and row.ended is not None and row.error is None:
                spare -= len(block)
                continue
            lines.extend(block)
        if height:
            lines = lines[-(height - 1) :]
        return [(head + (" FINISHED" if self.ended is not None else ""), "", ""), *lines]


def _block(row: Row, now: float) -> list[tuple[str, str, str]]:
    style, mark = "", ""
    if row.cached:
        style, mark = "run", "CACHED "
    elif row.error == "canceled":
        style, mark = "cancel", "CANCELED "
    elif row.error is not None:
        style, mark = "error", "ERROR "
    elif row.ended is not None:
        style = "run"
    took = (row.ended if row.ended is not None else now) - (
        row.began if row.began is not None else now
    )
    lines = [(f" => {mark}{_clean(row.name)}", f"{max(0.0, took):.1f}s", style)]
    for status, began in row.statuses.values():
        spent = (status.time if status.done else now) - began
        lines.append((f" => => {_status(status)}", f"{max(0.0, spent):.1f}s", style))
    if row.ended is None or (row.error is not None and row.error != "canceled"):
        lines.extend((f" => => # {_clean(line)}", "", "log") for line in row.logs)
    return lines


def _status(status: VertexStatus) -> str:
    text = status_name(status)
    if status.total:
        return f"{text} {decimal_size(status.current)} / {decimal_size(status.total)}"
    return f"{text}: {decimal_size(status.current)}" if status.current else text


def _clean(text: str) -> str:
    """A line without anything that would move the cursor."""
    return _ESCAPES.sub("", text.replace("\t", "    "))


class TtyDisplay:
    """Draws a Screen until it is closed."""

    def __init__(
        self,
        stream: TextIO,
        environment: Mapping[str, str],
        now: Callable[[], float] = clock.time,
    ) -> None:
        self._stream = stream
        self._environment = environment
        self._now = now
        self._screen = Screen(environment)
        self._styles = _STYLES | _colours(environment)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._free, self._parked = threading.Event(), threading.Event()  # whose the terminal is
        self._free.set()
        self._thread: threading.Thread | None = None
        self._console: Console | None = None

    def __call__(self, event: Event, /) -> None:
        """Take an event into the model."""
        with self._lock:
            self._screen.update(event)
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
            self._thread.start()
        if isinstance(event, VertexHeld):
            self._hold(held=event.held)

    def _hold(self, *, held: bool) -> None:
        """Leave the terminal to somebody else, or take it back."""
        if not held:
            self._free.set()
            return
        self._parked.clear()
        self._free.clear()
        self._parked.wait()

    def close(self) -> None:
        """Draw the last frame, whole."""
        if self._thread is None or self._closed.is_set():
            return
        self._closed.set()
        self._free.set()
        self._thread.join()
        if self._console is None:
            console = self._open_console()
            console.print(self._text(console, whole=True), end="\n")
        self._stream.flush()

    def _draw(self) -> None:
        if self._closed.wait(_INTERVAL):
            return
        from rich.live import Live

        console = self._console = self._open_console()
        done = False
        while not done:
            live = Live(
                console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            with live:
                while self._free.is_set() and not self._closed.wait(_INTERVAL):
                    self._refresh(live, console, whole=False)
                done = self._free.is_set()
                self._refresh(live, console, whole=True)
            self._parked.set()
            self._free.wait()

    def _refresh(self, live: Live, console: Console, *, whole: bool) -> None:
        live.update(self._text(console, whole=whole), refresh=True)

    def _open_console(self) -> Console:
        from rich.console import Console

        return Console(
            file=self._stream,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=False,
            no_color=bool(self._environment.get("NO_COLOR")) or None,
            _environ=dict(self._environment),
        )

    def _text(self, console: Console, *, whole: bool) -> Text:
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        width = console.width
        with self._lock:
            lines = self._screen.frame(self._now(), None if whole else console.height)
        out = Text(no_wrap=True, overflow="crop", end="")
        for number, (left, right, style) in enumerate(lines):
            room = width - len(right) - (1 if right else 0)
            if cell_len(left) > room:
                left = set_cell_size(left, max(0, room - 1)) + "…"  # noqa: PLW2901
            if right:
                left = set_cell_size(left, room) + " "  # noqa: PLW2901
            look = "dim" if style == "log" else self._styles.get(style, "")
            out.append(("\n" if number else "") + left + right, style=look or None)
        return out


def _colours(environment: Mapping[str, str]) -> dict[str, str]:
    """BUILDKIT_COLORS=run=green:error=255,0,0 as rich styles; what is not understood is left."""
    styles: dict[str, str] = {}
    for part in environment.get("BUILDKIT_COLORS", "").split(":"):
        name, _, value = part.partition("=")
        if name not in _STYLES:
            continue
        if re.fullmatch(r"\d{1,3},\d{1,3},\d{1,3}", value):
            styles[name] = f"rgb({value})"
        elif value in {"black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"}:
            styles[name] = value
    return styles


def open_display(stream: TextIO, environment: Mapping[str, str]) -> TtyDisplay:
    """See `progress.open_display`."""
    return TtyDisplay(stream, environment)
