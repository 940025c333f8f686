"""The record of a build: every event on disk, and a summary in the database."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from buildkit_py.errors import PybuildError
from buildkit_py.progress.events import BuildCompleted, Event
from buildkit_py.store.builds import BuildRecords

if TYPE_CHECKING:
    from buildkit_py.digest import Digest
    from buildkit_py.engine.request import BuildRequest, BuildResult, StepResult
    from buildkit_py.engine.steps import StepTracker
    from buildkit_py.progress.events import BuildWarning
    from buildkit_py.store import Store

_PRIVATE = frozenset({"secrets", "ssh"})
# attributes of caches that prove who asks
_SECRET = re.compile(r"\b(secret_access_key|access_key_id|session_token|token|ghtoken)=[^,]*")


class Recording:
    """An EventSink into the store; its failures (a full disk) end the build like any other."""

    def __init__(self, store: Store, ref: str, request: BuildRequest, started: float) -> None:
        self._recorder = BuildRecords(store.paths, store.db).begin(
            ref, request=request_to_json(request), started=started
        )
        self._broken = False

    def __call__(self, event: Event) -> None:
        """Write an event. After a failure only the first error is raised."""
        if self._broken:
            return
        try:
            self._recorder(event)
        except Exception:
            self._broken = True
            if not isinstance(event, BuildCompleted):
                raise

    def finish(
        self,
        status: str,
        completed: float,
        image: Digest | None,
        summary: Mapping[str, object],
    ) -> None:
        """Say how the build ended."""
        from buildkit_py.errors import StoreError  # noqa: PLC0415

        try:
            self._recorder.finish(status=status, completed=completed, image=image, summary=summary)
        except StoreError:
            if status == "completed":
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._recorder.__exit__(kind, error, trace)
        except OSError:
            if error is None:
                raise


def request_to_json(request: BuildRequest) -> dict[str, Any]:
    """What was asked, without values of secrets; options left at their default are left out."""
    default = type(request)()
    out: dict[str, Any] = {}
    for item in fields(request):
        value = getattr(request, item.name)
        if item.name in _PRIVATE:
            value = [entry.id for entry in value]
        elif isinstance(value, Mapping):
            value = dict(value)
        elif item.name in {"cache_from", "cache_to"}:
            value = [_SECRET.sub(r"\1=…", entry) for entry in value]
        elif isinstance(value, tuple):
            value = list(value)
        if value and getattr(request, item.name) != getattr(default, item.name):
            out[item.name] = value
    context = request.context
    out["context"] = os.path.abspath(context) if os.path.isdir(context) else context
    return out


def summary_of(result: BuildResult) -> dict[str, Any]:
    """The summary of a finished build."""
    return {
        "image": result.image_id,
        "digest": result.digest,
        "names": list(result.names),
        "seconds": round(result.seconds, 3),
        **_steps_summary(result.steps, result.warnings),
    }


def failure_of(
    store: Store,
    error: BaseException,
    message: str,
    tracker: StepTracker | None,
    warnings: Sequence[BuildWarning],
    *,
    measure: bool = False,
) -> dict[str, Any]:
    """The summary of a build that failed. Without a tracker it did not come to its steps."""
    from buildkit_py.engine.aftermath import step_sizes  # noqa: PLC0415
    from buildkit_py.engine.steps import steps_so_far  # noqa: PLC0415

    out: dict[str, Any] = {"error": message, "replay": getattr(error, "replay", None)}
    if tracker is None:
        return out | {"warnings": [warning.message for warning in warnings]}
    sizes: dict[int, int] = {}
    with suppress(PybuildError):  # the store itself may be what has failed
        sizes = step_sizes(store, tracker.outcomes_of_steps(), measure=measure)
    return out | _steps_summary(steps_so_far(tracker, sizes), warnings)


def _steps_summary(
    steps: Sequence[StepResult], warnings: Sequence[BuildWarning]
) -> dict[str, Any]:
    """`total` and `cached` count what displays number: no metadata."""
    return {
        "cached": sum(step.cached and not step.metadata for step in steps),
        "total": sum(not step.metadata for step in steps),
        "warnings": [warning.message for warning in warnings],
        "steps": [
            {
                "text": step.text,
                "id": step.id,
                "stage": step.stage,
                "cached": step.cached,
                "metadata": step.metadata,
                "seconds": round(step.seconds, 3),
                "size": step.size,
                "reason": step.reason,
                "line": step.span_line,
            }
            for step in steps
        ],
    }
