"""One JSON object an event, in the form of BuildKit's solve status."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO, TypeAlias

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

_Fields: TypeAlias = dict[str, object]


class JsonDisplay:
    """Writes each event as it comes; a line is complete JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[str, str] = {}
        self._statuses: dict[tuple[str, str], str] = {}

    def __call__(self, event: Event, /) -> None:
        """Write an event, if BuildKit's form has a place for it."""
        fields = self._encode(event)
        if fields:
            self._stream.write(json.dumps(fields, separators=(",", ":")) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is pending."""

    def _encode(self, event: Event) -> _Fields:
        match event:
            case VertexStarted():
                self._started[str(event.vertex)] = _time(event.time)
                return {"vertexes": [self._vertex(event)]}
            case VertexCached():
                now = _time(event.time)
                self._started.setdefault(str(event.vertex), now)
                return {"vertexes": [self._vertex(event) | {"completed": now, "cached": True}]}
            case VertexCompleted():
                ended: _Fields = {"completed": _time(event.time)}
                if event.error is not None:
                    ended["error"] = event.error
                return {"vertexes": [self._vertex(event) | ended]}
            case VertexLog():
                return {
                    "logs": [
                        {
                            "vertex": str(event.vertex),
                            "stream": event.stream,
                            "data": base64.b64encode(event.data).decode(),
                            "timestamp": _time(event.time),
                        }
                    ]
                }
            case VertexStatus():
                return {"statuses": [self._status(event)]}
            case BuildWarning():
                return {"warnings": [warning_json(event)]}
            case BuildStarted() | BuildCompleted() | StepCompleted() | VertexHeld():
                return {}

    def _vertex(self, event: VertexStarted | VertexCached | VertexCompleted) -> _Fields:
        digest = str(event.vertex)
        fields: _Fields = {"digest": digest, "name": event.name}
        if digest in self._started:
            fields["started"] = self._started[digest]
        return fields

    def _status(self, event: VertexStatus) -> _Fields:
        now = _time(event.time)
        key = (str(event.vertex), event.id)
        fields: _Fields = {
            "id": event.id,
            "vertex": str(event.vertex),
            "name": event.action,
            "current": event.current,
            "total": event.total,
            "timestamp": now,
            "started": self._statuses.setdefault(key, now),
        }
        return fields | ({"completed": now} if event.done else {})


def warning_json(event: BuildWarning) -> dict[str, object]:
    """A warning as BuildKit's clients encode it: texts are base64."""
    fields: _Fields = {
        "level": 1,
        "short": base64.b64encode(
            (f"{event.rule}: " if event.rule else "").encode() + event.message.encode()
        ).decode(),
    }
    if event.vertex is not None:
        fields["vertex"] = str(event.vertex)
    if event.description:
        fields["detail"] = [base64.b64encode(event.description.encode()).decode()]
    if event.url:
        fields["url"] = event.url
    if event.line:
        fields["range"] = [{"start": {"line": event.line}, "end": {"line": event.line}}]
    return fields


def _time(seconds: float) -> str:
    stamp = datetime.fromtimestamp(seconds, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


def open_display(stream: TextIO, environment: Mapping[str, str]) -> JsonDisplay:  # noqa: ARG001
    """See `progress.open_display`."""
    return JsonDisplay(stream)
