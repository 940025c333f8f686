"""Go's spellings, which users compare: quoted strings, durations, booleans, sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST = (1 << 63) - 1
_DURATION_PART = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp])?(?:i?b)?\Z", re.IGNORECASE)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def quoted(text: str) -> str:
    """A string as `%q` prints it."""
    out = []
    for character in text:
        code = ord(character)
        if character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            out.append(character)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def quoted_list(items: Iterable[str]) -> str:
    """A list of strings as `%q` prints it: `["a" "b"]`."""
    return "[" + " ".join(quoted(item) for item in items) + "]"


def plain_list(items: Iterable[str]) -> str:
    """A list of strings as `%v` prints it: `[a b]`."""
    return "[" + " ".join(items) + "]"


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as `1m30s`. Raises ValueError with Go's text."""
    sign, rest = (text[:1], text[1:]) if text[:1] in {"+", "-"} else ("", text)
    if rest == "0":
        return 0
    total = position = 0
    while position < len(rest):
        match = _DURATION_PART.match(rest, position)
        if not match or not (match.group(1) or match.group(2)):
            raise ValueError(_duration_problem(text, rest, position))
        unit = _UNITS[match.group(3)]
        fraction = match.group(2) or ""
        total += int(match.group(1) or 0) * unit
        total += int(fraction or 0) * unit // 10 ** len(fraction)
        position = match.end()
        if total > _LONGEST:
            break
    if not rest or total > _LONGEST:
        raise ValueError(f"time: invalid duration {quoted(text)}")
    return -total if sign == "-" else total


def _duration_problem(text: str, rest: str, position: int) -> str:
    number = re.compile(r"\d*\.?\d*").match(rest, position)
    end = number.end() if number else position
    if number is None or not any(c.isdigit() for c in number.group()):
        return f"time: invalid duration {quoted(text)}"
    unit = re.compile(r"[^.\d]*").match(rest, end)
    name = unit.group() if unit else ""
    if not name:
        return f"time: missing unit in duration {quoted(text)}"
    return f"time: unknown unit {quoted(name)} in duration {quoted(text)}"


def duration_text(nanoseconds: int) -> str:
    """A duration as Go prints it: `5m0s`, `1.5s`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, left = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if left < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if left >= size:
                return sign + _decimal(left, size) + unit
    hours, left = divmod(left, _UNITS["h"])
    minutes, left = divmod(left, _UNITS["m"])
    text = _decimal(left, _UNITS["s"]) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return sign + (f"{hours}h{text}" if hours else text)


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if fraction else str(whole)


def parse_bool(text: str) -> bool:
    """Go's `strconv.ParseBool`. Raises ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def parse_size(text: str) -> int:
    """Bytes of `128m`, in units of 1024. Raises ValueError."""
    match = _SIZE.match(text.strip())
    if not match:
        raise ValueError(text)
    power = " kmgtp".index((match.group(2) or " ").lower())
    return int(float(match.group(1)) * 1024**power)
