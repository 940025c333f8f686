"""Which records of builds are listed (`--filter`), and as what (`--format`)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    from buildkit_py.store.builds import BuildRecord

Predicate = Callable[["BuildRecord"], bool]

_FILTER = re.compile(r"([A-Za-z]+)(==|=|!=|~=|>=|<=|>|<)(.*)", re.DOTALL)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def name_of(record: BuildRecord) -> str:
    """The first tag that was asked for, else the context."""
    request = record.data.get("request", {})
    tags = request.get("tags") or []
    return str(tags[0] if tags else request.get("context", ""))


def _repositories(record: BuildRecord) -> list[str]:
    """The repositories of all tags, as they were written and in full; the context's address."""
    from buildkit_py.oci.reference import parse_reference

    request = record.data.get("request", {})
    found = [str(request.get("context", ""))]
    for tag in request.get("tags") or []:
        reference = parse_reference(str(tag))
        found += [reference.familiar.rpartition(":")[0], f"{reference.domain}/{reference.path}"]
    return found


_TEXTS: Mapping[str, Callable[[BuildRecord], list[str]]] = {
    "ref": lambda record: [record.ref],
    "status": lambda record: [record.status],
    "name": lambda record: [name_of(record)],
    "repository": _repositories,
}
_NUMBERS: Mapping[str, Callable[[BuildRecord], float | None]] = {
    "startedAt": lambda record: record.started,
    "completedAt": lambda record: record.completed,
    "duration": lambda record: (
        None if record.completed is None else record.completed - record.started
    ),
}


# ------------------------------------------------------------------ filters
def build_filter(texts: Sequence[str], now: float) -> Predicate:
    """A predicate that all filters must agree to. Raises UsageError."""
    checks = [_one_filter(text, now) for text in texts]
    return lambda record: all(check(record) for check in checks)


def _one_filter(text: str, now: float) -> Predicate:
    match = _FILTER.fullmatch(text)
    key, sign, value = match.groups() if match else (text, "", "")
    if key in _TEXTS and sign in {"=", "==", "!=", "~="}:
        return _text_filter(_TEXTS[key], sign, value)
    if key in _NUMBERS and sign in _ORDER:
        number = _NUMBERS[key]
        limit = _seconds(value) if key == "duration" else _moment(value, now)
        compare = _ORDER[sign]
        return lambda record: (found := number(record)) is not None and compare(found, limit)
    raise UsageError(
        f'invalid filter "{text}"',
        hint="ref, repository, name, status with = != ~=;"
        " startedAt, completedAt, duration with > >= < <=",
    )


def _text_filter(field: Callable[[BuildRecord], list[str]], sign: str, value: str) -> Predicate:
    if sign == "~=":
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise UsageError(f'invalid filter pattern "{value}": {error}') from error
        return lambda record: any(pattern.search(text) for text in field(record))
    return lambda record: (value in field(record)) == (sign != "!=")


def _seconds(value: str) -> float:
    from argparse import ArgumentTypeError

    from buildkit_py.cli.options import seconds

    try:
        return seconds(value)
    except ArgumentTypeError as error:
        raise UsageError(f'invalid duration "{value}"', hint="500ms, 10s, 1h30m") from error


def _moment(value: str, now: float) -> float:
    from buildkit_py.cli.images import until_seconds

    return until_seconds(value + "T00:00:00Z" if _DAY.fullmatch(value) else value, now)


# ------------------------------------------------------------------ formats
COLUMNS: Mapping[str, str] = {
    "Ref": "BUILD ID",
    "Name": "NAME",
    "Status": "STATUS",
    "CreatedAt": "CREATED AT",
    "CompletedAt": "COMPLETED AT",
    "Duration": "DURATION",
    "Image": "IMAGE",
    "Context": "CONTEXT",
    "Dockerfile": "DOCKERFILE",
    "Target": "TARGET",
    "Tags": "TAGS",
    "TotalSteps": "STEPS",
    "CachedSteps": "CACHED",
    "Warnings": "WARNINGS",
    "Error": "ERROR",
    "Replay": "REPLAY",
}


def build_row(record: BuildRecord) -> dict[str, Any]:
    """What a template can name of a record."""
    request, summary = record.data.get("request", {}), record.data.get("summary", {})
    return {
        "Ref": record.ref,
        "Name": name_of(record),
        "Status": record.status,
        "CreatedAt": stamp(record.started),
        "CompletedAt": "" if record.completed is None else stamp(record.completed),
        "Duration": duration_of(record),
        "Image": record.image or "",
        "Context": request.get("context", ""),
        "Dockerfile": request.get("dockerfile") or "Dockerfile",
        "Target": request.get("target") or "",
        "Tags": list(request.get("tags") or ()),
        "TotalSteps": summary.get("total", 0),
        "CachedSteps": summary.get("cached", 0),
        "Warnings": list(summary.get("warnings") or ()),
        "Error": summary.get("error") or "",
        "Replay": summary.get("replay") or "",
    }


def duration_of(record: BuildRecord) -> str:
    """How long it took, if it has ended."""
    return "" if record.completed is None else f"{record.completed - record.started:.1f}s"


def stamp(seconds: float) -> str:
    """A time as ISO 8601 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
