"""The display that shows nothing: the command prints the image id itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from buildkit_py.progress.events import Event


class QuietDisplay:
    """Takes events and keeps silent."""

    def __call__(self, event: Event, /) -> None:
        """Ignore an event."""

    def close(self) -> None:
        """Nothing is pending."""


def open_display(stream: TextIO, environment: Mapping[str, str]) -> QuietDisplay:  # noqa: ARG001
    """See `progress.open_display`."""
    return QuietDisplay()
