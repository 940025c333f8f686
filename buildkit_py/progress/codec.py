"""Events as lines of JSON and back, so that a finished build can be shown again."""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from typing import Any

from buildkit_py.errors import ContentError
from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    StepCompleted,
    StepInfo,
    VertexCached,
    VertexCompleted,
    VertexHeld,
    VertexLog,
    VertexStarted,
    VertexStatus,
)

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        BuildStarted,
        VertexStarted,
        VertexCached,
        VertexLog,
        VertexStatus,
        VertexCompleted,
        VertexHeld,
        StepCompleted,
        BuildWarning,
        BuildCompleted,
        StepInfo,
    )
}


def encode(event: Event) -> str:
    """One line without its end."""
    return json.dumps(_plain(event), separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    kind = type(value).__name__
    if kind in _KINDS:
        return {"event": kind} | {
            entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)
        }
    return value


def decode(line: str) -> Event:
    """The event of a line. Raises ContentError."""
    try:
        event = _rich(json.loads(line))
    except (ValueError, TypeError, KeyError) as error:
        raise ContentError(f"damaged event in a build's log: {line[:60]!r}") from error
    if type(event).__name__ not in _KINDS:
        raise ContentError(f"damaged event in a build's log: {line[:60]!r}")
    return event  # type: ignore[no-any-return]  # the kind was checked


def _rich(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_rich(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "b64" in value:
        return base64.b64decode(value["b64"], validate=True)
    kind = _KINDS[value["event"]]
    return kind(**{name: _rich(item) for name, item in value.items() if name != "event"})
