"""Texts for the page: escaped, clipped, with units."""

from __future__ import annotations

import html
import re

_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)
_COLORS = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
_STEP = 1000


def escape(text: object) -> str:
    """Text for the inside of an element or a quoted attribute; nothing unseen stays in it."""
    return html.escape(_UNSEEN.sub("\ufffd", _COLORS.sub("", str(text))), quote=True)


def clipped(text: str, limit: int) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def duration(seconds: float) -> str:
    """`12 ms`, `3.4 s`, `2 min 5 s`."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def byte_size(count: int) -> str:
    """`512 B`, `1.4 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < _STEP:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} TB"
