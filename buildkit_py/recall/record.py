"""Keeps a build so that it can be recalled: what it read, what it gave, and what was shown.

The data are plain values in one `marshal` string; `lookup` and `show` say what each is for.
"""

from __future__ import annotations

import io
import json
import marshal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from buildkit_py.progress import open_display
from buildkit_py.progress.codec import encode
from buildkit_py.progress.events import VertexCompleted
from buildkit_py.progress.tty import Screen
from buildkit_py.recall.show import CONTEXT_TIME

if TYPE_CHECKING:
    from buildkit_py.progress.events import BuildWarning, Event
    from buildkit_py.store.database import Database

_MOST_RECALLS = 32
_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallKey:
    """The command to recall a build by (`keys.command_key`), and the display it asks for.

    `render` turns the warnings of a build into the text behind it.
    """

    key: bytes
    display: str
    render: Callable[[Sequence[BuildWarning]], str]


def shown_texts(events: Sequence[Event], contexts: frozenset[str]) -> dict[str, Any]:
    """What displays make of the events of a build that is all cached, all at time 0.

    `contexts` are the names of the vertices whose time is that of scanning a context.
    """
    texts = {}
    for kind in ("plain", "classic"):
        stream = io.StringIO()
        display = open_display(kind, stream, environment={})
        for event in events:
            display(event)
        display.close()
        texts[kind] = stream.getvalue()
    texts["plain"] = _with_context_times(texts["plain"], events, contexts)
    screen = Screen({})
    for event in events:
        screen.update(event)
    frame = [
        (left, CONTEXT_TIME if left.removeprefix(" => ") in contexts else right, style)
        for left, right, style in screen.frame(0.0)
    ]
    head = frame[0][0].replace("Building 0.0s", f"Building {CONTEXT_TIME}")
    frame[0] = (head, *frame[0][1:])
    return {"texts": texts, "frame": frame}


def _with_context_times(text: str, events: Sequence[Event], contexts: frozenset[str]) -> str:
    """The plain text, with the mark in place of the time that scanning took."""
    numbers: dict[str, int] = {}
    for event in events:
        vertex = getattr(event, "vertex", None)
        if vertex is not None:
            numbers.setdefault(vertex, len(numbers) + 1)
    for event in events:
        if isinstance(event, VertexCompleted) and event.name in contexts:
            head = f"#{numbers[event.vertex]} DONE "
            text = text.replace(f"\n{head}0.0s\n", f"\n{head}{CONTEXT_TIME}\n", 1)
    return text


def event_log(events: Sequence[Event]) -> str:
    """The events as the build's record keeps them."""
    return "".join(encode(event) + "\n" for event in events)


def build_data(request: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[str, str]:
    """The row of the build's record, in two parts: process and time go between them."""
    head = json.dumps({"request": dict(request)})[:-1]
    rest = {name: value for name, value in summary.items() if name != "seconds"}
    return head, json.dumps(rest)[1:] + "}"


def save(db: Database, key: bytes, data: Mapping[str, Any], now: float) -> None:
    """Keep a build under its key; those not asked for longest go. Very large ones are not kept."""
    packed = marshal.dumps(dict(data))
    if len(packed) > _MOST_BYTES:
        return
    with db.transaction() as connection:
        connection.execute(
            "REPLACE INTO recalls (key, data, last_used) VALUES (?, ?, ?)", (key, packed, now)
        )
        connection.execute(
            "DELETE FROM recalls WHERE key IN (SELECT key FROM recalls ORDER BY last_used DESC"
            " LIMIT -1 OFFSET ?)",
            (_MOST_RECALLS,),
        )
