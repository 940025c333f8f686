"""The functions of templates: Go's own, and those that docker's command line adds."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

from buildkit_py.errors import UsageError

_VERB = re.compile(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])")


class Record(dict[str, Any]):
    """A mapping with known fields: another name is an error, an absent one has its zero value."""

    def __init__(self, values: Mapping[str, Any], zero: Mapping[str, Any] | None = None) -> None:
        super().__init__(values)
        self.zero = dict(zero or {})


def go_text(value: Any) -> str:
    """A value as Go's `%v` prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{k}:{go_text(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(go_text, value)) + "]"
    return str(value)


class NilList(list[Any]):
    """No list: prints as an empty one, and is null in JSON."""


class NilMap(dict[str, Any]):
    """No mapping: prints as an empty one, and is null in JSON."""


def to_json(value: Any) -> str:
    """A value as compact JSON."""
    if isinstance(value, (NilList, NilMap)):
        return "null"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, Mapping) else _at(value, key)
    return value


def _at(items: Any, number: Any) -> Any:
    if not isinstance(number, int) or isinstance(items, (int, float)) or items is None:
        raise TypeError(f"cannot index {go_text(items)} with {go_text(number)}")
    if not 0 <= number < len(items):
        raise IndexError(f"index out of range: {number}")
    return items[number]


def _slice(value: Any, *bounds: int) -> Any:
    first, last = (*bounds, 0)[0], bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= first <= last <= len(value):
        raise IndexError(f"slice bounds out of range: {first}:{last}")
    return value[first:last]


def _printf(form: str, *values: Any) -> str:
    waiting = list(values)

    def put(match: re.Match[str]) -> str:
        flags, verb = match.groups()
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        value = waiting.pop(0)
        if verb in "dxXofeEgG" and isinstance(value, (int, float)):
            return f"%{flags}{verb}" % value
        if verb == "q":
            value = json.dumps(go_text(value), ensure_ascii=False)
        elif verb not in "svt":
            return f"%!{verb}({go_text(value)})"
        return f"%{flags.lstrip('0')}s" % go_text(value)

    return _VERB.sub(put, form)


def _equal(left: Any, *right: Any) -> bool:
    if not right:
        raise TypeError("missing argument for comparison")
    return any(left == item and isinstance(left, bool) == isinstance(item, bool) for item in right)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def checked(left: Any, right: Any) -> bool:
        if isinstance(left, str) != isinstance(right, str):
            raise TypeError("incompatible types for comparison")
        return compare(left, right)

    return checked


def _join(items: Any, separator: str) -> str:
    return separator.join(map(go_text, items or ()))


def _print(items: Sequence[Any]) -> str:
    """As Go's Print: blanks between operands of which neither is a string."""
    out = ""
    for before, item in zip((None, *items), items, strict=False):
        apart = before is not None and not isinstance(before, str) and not isinstance(item, str)
        out += " " * apart + go_text(item)
    return out


def _pad(text: str, before: int, after: int) -> str:
    return " " * before + text + " " * after if text else text


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "index": _index,
    "slice": _slice,
    "len": len,
    "join": _join,
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: str(text).lower(),
    "upper": lambda text: str(text).upper(),
    "title": lambda text: str(text).title(),
    "pad": _pad,
    "truncate": lambda text, count: str(text)[:count],
    "print": lambda *items: _print(items),
    "println": lambda *items: " ".join(map(go_text, items)) + "\n",
    "printf": _printf,
    "html": lambda *items: html.escape("".join(map(go_text, items))),
    "js": lambda *items: json.dumps("".join(map(go_text, items)))[1:-1],
    "urlquery": lambda *items: quote_plus("".join(map(go_text, items))),
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": _ordered(lambda left, right: left < right),
    "le": _ordered(lambda left, right: left <= right),
    "gt": _ordered(lambda left, right: left > right),
    "ge": _ordered(lambda left, right: left >= right),
    "not": lambda item: not item,
    "and": lambda *items: next((item for item in items if not item), items[-1]),
    "or": lambda *items: next((item for item in items if item), items[-1]),
}


def field_of(value: Any, name: str) -> Any:
    """A field of a value. Raises UsageError where there can be none of that name."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise UsageError(f"template error: can't evaluate field {name} in {go_text(value)!r}")
    zero = value.zero if isinstance(value, Record) else {}
    if name in value and (value[name] is not None or name not in zero):
        return value[name]
    if name in zero:
        return zero[name]
    if not isinstance(value, Record):
        return ""
    known = {*value, *zero}
    close = next((key for key in known if key.lower() == name.lower()), None)
    raise UsageError(
        f'template error: there is no field "{name}"',
        hint=f"did you mean .{close}?" if close else f"there are: {', '.join(sorted(known))}",
    )
