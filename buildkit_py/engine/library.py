"""`buildkit_py.build`: one build, without an engine of one's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Unpack

from buildkit_py.engine import Engine

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildOptions, BuildResult
    from buildkit_py.progress.events import EventSink


def build(
    context: str | os.PathLike[str] = ".",
    *,
    root: str | os.PathLike[str] | None = None,
    on_event: EventSink | None = None,
    **options: Unpack[BuildOptions],
) -> BuildResult:
    """Build an image from a context directory; the options of `pybuild` as keyword arguments.

    Prints nothing. Raises BuildError, with the source line and the end of the log where it has
    them.
    """
    with Engine(root) as engine:
        return engine.build(context, on_event=on_event, **options)
