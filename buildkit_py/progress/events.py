"""What happens during a build, as values. Solver, workers and engine send them to an EventSink.

Times are seconds of the engine's clock (`time.time`). A sink is called from several threads, one
call at a time (the engine serialises), and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from buildkit_py.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """One instruction of the plan, metadata instructions too (vertex None), in file order."""

    text: str  # as written, on one line: `RUN go build`
    vertex: Digest | None
    stage: str = ""
    name: str = ""  # vertex display name: `[stage 2/5] RUN go build`
    triggers: int = 0  # of a FROM: ONBUILD triggers that run after it
    needs: tuple[Digest, ...] = ()  # vertices of the steps whose results it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildStarted:
    """The graph is known. `total` counts its vertices, `steps` the instructions to show."""

    ref: str
    steps: tuple[StepInfo, ...] = ()
    total: int = 0
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexStarted:
    """A vertex is looked at or run for the first time."""

    vertex: Digest
    name: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexCached:
    """The result of a vertex was found; no VertexCompleted follows."""

    vertex: Digest
    name: str
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexLog:
    """Output of a step, as it came."""

    vertex: Digest
    stream: int  # 1 stdout, 2 stderr
    data: bytes
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexStatus:
    """Progress inside a vertex: a blob that is pulled, a layer that is pushed."""

    vertex: Digest
    id: str  # `sha256:abc…`, `transferring context`
    action: str  # `downloading`, `extracting`, `pushing`, …
    current: int
    total: int
    time: float
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexCompleted:
    """A vertex ended. `error` is None, a message, or `canceled`."""

    vertex: Digest
    name: str
    time: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexHeld:
    """A failed vertex is shown to a person (`held`), who may use the terminal until it is not."""

    vertex: Digest
    held: bool
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """Step `index` of BuildStarted.steps has its result; `id` names it (12 digits or more)."""

    index: int
    id: str
    cached: bool
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildWarning:
    """A finding of the linter or a warning of the engine, said after the build."""

    message: str
    rule: str = ""
    url: str = ""
    description: str = ""
    line: int = 0
    excerpt: str = ""
    vertex: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCompleted:
    """The end: what was made, or why not."""

    time: float
    image_id: str = ""
    names: tuple[str, ...] = ()
    error: str | None = None
    cancelled: bool = False
    warnings: tuple[BuildWarning, ...] = field(default=())


Event: TypeAlias = (
    BuildStarted
    | VertexStarted
    | VertexCached
    | VertexLog
    | VertexStatus
    | VertexCompleted
    | VertexHeld
    | StepCompleted
    | BuildWarning
    | BuildCompleted
)

EventSink: TypeAlias = Callable[[Event], None]
