"""Limits of what a display shows of one step's output, and its parting into lines.

Only the screen is clipped: the build's record keeps every byte.
"""

from __future__ import annotations

from collections.abc import Mapping

_MAX_SIZE = 2 * 1024 * 1024
_MAX_SPEED = 200 * 1024


class LogClip:
    """Lets a step's output through up to a size, and a speed averaged over the step's time."""

    def __init__(self, *, max_size: int = _MAX_SIZE, max_speed: int = _MAX_SPEED) -> None:
        self._max_size = max_size
        self._max_speed = max_speed
        self._shown = 0
        self._began: float | None = None
        self._clipped = ""  # the limit that was named last

    def pass_on(self, data: bytes, time: float) -> bytes:
        """What may be shown of `data`, with a message where clipping begins."""
        if self._began is None:
            self._began = time
        allowed, reason = len(data), ""
        if self._max_speed >= 0:
            # The first second is free, as a burst of a quick step harms nobody.
            budget = int(self._max_speed * (1 + time - self._began)) - self._shown
            if budget < allowed:
                allowed, reason = max(0, budget), f"{_size(self._max_speed)}/s"
        if self._max_size >= 0 and self._max_size - self._shown < allowed:
            allowed, reason = max(0, self._max_size - self._shown), _size(self._max_size)
        shown = data[:allowed]
        self._shown += len(shown)
        if not reason:
            self._clipped = ""
            return shown
        if self._clipped == reason:
            return shown
        self._clipped = reason
        return shown + f"\n[output clipped, log limit {reason} reached]\n".encode()


def _size(count: int) -> str:
    for unit, factor in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if count >= factor:
            return f"{count / factor:g}{unit}"
    return f"{count}B"


class LineBuffer:
    """Bytes in, whole lines of text out; a carriage return starts a line anew."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [_text(line) for line in whole]

    def flush(self) -> list[str]:
        """The last line, if it has no line end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    """A line as a terminal would show it: what a carriage return overwrote is gone."""
    text = line.rstrip(b"\r").decode("utf-8", "replace")
    return text.rsplit("\r", 1)[-1]


def clip_from(environment: Mapping[str, str]) -> LogClip:
    """A clip with the limits of BUILDKIT_STEP_LOG_MAX_SIZE and …_SPEED; -1 turns one off."""
    return LogClip(
        max_size=_number(environment, "BUILDKIT_STEP_LOG_MAX_SIZE", _MAX_SIZE),
        max_speed=_number(environment, "BUILDKIT_STEP_LOG_MAX_SPEED", _MAX_SPEED),
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        return default
