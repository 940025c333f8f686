"""Shows a recalled build as its display would: the texts were made when it was recorded."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONTEXT_TIME = "\0"  # stands where the time of scanning the context goes
_STYLE = {"run": "\x1b[34m"}


def kind_of(found: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """The display: that asked for, or the one that fits standard error."""
    kind: str = found["display"]
    if kind == "auto":
        terminal = sys.stderr.isatty() and environment.get("TERM") != "dumb"
        kind = "tty" if terminal else "plain"
    return kind


def can_show(found: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether that display's text is at hand, and fits the terminal without measuring glyphs."""
    kind = kind_of(found, environment)
    if kind in {"quiet", "none"}:
        return True
    if kind != "tty":
        return kind in found["texts"]
    plain = all(left.isascii() for left, _, _ in found["frame"])
    return plain and not environment.get("BUILDKIT_COLORS")


def show(found: Mapping[str, Any], scanned: float, environment: Mapping[str, str]) -> None:
    """Print what the display and the command print of a build that is all cached."""
    kind = kind_of(found, environment)
    if kind == "quiet":
        sys.stdout.write(found["image"] + "\n")
        return
    if kind == "none":
        return
    if kind == "tty":
        sys.stderr.write(_frame(found["frame"], scanned, environment))
    elif kind == "classic":
        sys.stdout.write(found["texts"][kind])
        sys.stdout.flush()
    else:
        sys.stderr.write(found["texts"][kind].replace(CONTEXT_TIME, f"{scanned:.1f}s"))
    sys.stderr.write(found["warnings"])


def _frame(
    lines: list[tuple[str, str, str]], scanned: float, environment: Mapping[str, str]
) -> str:
    width = _width(environment)
    colours = not environment.get("NO_COLOR")
    out = []
    for left, right, style in lines:
        took = right.replace(CONTEXT_TIME, f"{scanned:.1f}s")
        room = width - len(took) - (1 if took else 0)
        text = left.replace(CONTEXT_TIME, f"{scanned:.1f}s")
        if len(text) > room:
            text = text[: max(0, room - 1)] + "…"
        if took:
            text = f"{text:<{room}} {took}"
        look = _STYLE.get(style, "") if colours else ""
        out.append(f"{look}{text}\x1b[0m\n" if look else f"{text}\n")
    return "".join(out)


def _width(environment: Mapping[str, str]) -> int:
    columns = environment.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
