"""A recorded build as one HTML page: a pure function of its record and events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit_py.progress.events import Event
    from buildkit_py.store.builds import BuildRecord

__all__ = ["render_report"]


def render_report(record: BuildRecord, events: Iterable[Event]) -> str:
    """The page. It loads nothing, runs no script, and holds every text escaped."""
    from buildkit_py.report.model import collect  # noqa: PLC0415
    from buildkit_py.report.page import page  # noqa: PLC0415

    return page(collect(record, events))
