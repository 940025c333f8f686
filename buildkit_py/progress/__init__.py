"""Displays: what a build's events look like to the user. Each is one module, imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TextIO, cast

if TYPE_CHECKING:
    from buildkit_py.progress.events import Event

# `debug` words the choice as docker's clients do; `none` says nothing, not even an image id.
_DISPLAYS = {
    "classic": "classic",
    "none": "quiet",
    "plain": "plain",
    "quiet": "quiet",
    "rawjson": "rawjson",
    "tty": "tty",
}
KINDS = ("auto", *sorted(_DISPLAYS))


class Display(Protocol):
    """An EventSink that shows what it is told; calls come one at a time."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        ...

    def close(self) -> None:
        """Show what is still pending. The stream stays open."""
        ...


def open_display(kind: str, stream: TextIO, *, environment: Mapping[str, str]) -> Display:
    """The display of that kind on `stream`; `auto` is `tty` on a terminal, else `plain`."""
    if kind == "auto":
        kind = "tty" if stream.isatty() and environment.get("TERM") != "dumb" else "plain"
    module = import_module(f"buildkit_py.progress.{_DISPLAYS[kind]}")
    return cast("Display", module.open_display(stream, environment))
