"""What a report shows, collected from a build's record and events."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from buildkit_py.progress.events import (
    BuildCompleted,
    BuildStarted,
    BuildWarning,
    Event,
    StepCompleted,
    StepInfo,
    VertexCached,
    VertexCompleted,
    VertexLog,
    VertexStarted,
)

if TYPE_CHECKING:
    from buildkit_py.store.builds import BuildRecord

_LOG_BYTES = 6000
_PLATFORM = re.compile(r"\[([a-z0-9]+/[^ \]]+) ")
RAN, CACHED, FAILED, CANCELED, WAITING = "ran", "cached", "failed", "canceled", "not reached"
RUNNING = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One line of the timeline: when something ran, in seconds since the build began."""

    label: str
    status: str
    start: float
    seconds: float
    step: int | None = None  # the number of the instruction, None for the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStep:
    """One instruction. `timed` says that it does something; the others only change metadata."""

    number: int
    text: str
    stage: str
    status: str
    timed: bool
    seconds: float = 0.0
    size: int = 0
    reason: str = ""
    line: int = 0
    log: str = ""
    vertex: str | None = None  # steps of one vertex have one result


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStage:
    """A stage, and the stages whose results it takes."""

    name: str
    base: str
    steps: tuple[ReportStep, ...]
    needs: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """The time of its steps, one after the other."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A build, ready to be shown."""

    name: str
    ref: str
    status: str
    started: float
    seconds: float
    image: str
    error: str
    request: Mapping[str, Any]
    stages: tuple[ReportStage, ...]
    bars: tuple[Bar, ...]
    warnings: tuple[BuildWarning, ...]

    @property
    def steps(self) -> tuple[ReportStep, ...]:
        """All instructions."""
        return tuple(step for stage in self.stages for step in stage.steps)

    @property
    def layers(self) -> tuple[ReportStep, ...]:
        """A step for each layer that has a size, the largest first."""
        found = {step.vertex: step for step in reversed(self.timed_steps) if step.size}
        return tuple(sorted(found.values(), key=lambda step: (-step.size, step.number)))

    @property
    def timed_steps(self) -> tuple[ReportStep, ...]:
        """The instructions that do something."""
        return tuple(step for step in self.steps if step.timed)


@dataclass(slots=True, kw_only=True)
class _Vertex:
    name: str
    started: float
    ended: float | None = None
    cached: bool = False
    error: str | None = None
    log: bytearray = field(default_factory=bytearray)

    @property
    def status(self) -> str:
        if self.cached:
            return CACHED
        if self.error == "canceled":
            return CANCELED
        if self.ended is None:
            return RUNNING
        return RAN if self.error is None else FAILED


@dataclass(slots=True)
class _Events:
    """The events, sorted by what they are about."""

    steps: tuple[StepInfo, ...] = ()
    vertices: dict[str, _Vertex] = field(default_factory=dict)
    done: dict[int, bool] = field(default_factory=dict)  # step → cached
    warnings: list[BuildWarning] = field(default_factory=list)
    last: float = 0.0

    def interrupt(self) -> None:
        """What has not ended never will."""
        for vertex in self.vertices.values():
            if vertex.ended is None:
                vertex.error = "canceled"

    def take(self, event: Event) -> None:
        match event:
            case BuildStarted(steps=steps):
                self.steps = steps
            case VertexStarted(vertex=vertex, name=name, time=now):
                self.vertices.setdefault(vertex, _Vertex(name=name, started=now))
            case VertexCached(vertex=vertex, name=name, time=now):
                found = self.vertices.setdefault(vertex, _Vertex(name=name, started=now))
                found.cached, found.ended = True, now
            case VertexCompleted(vertex=vertex, name=name, time=now, error=error):
                found = self.vertices.setdefault(vertex, _Vertex(name=name, started=now))
                found.ended, found.error = now, error
            case VertexLog(vertex=vertex, data=data):
                if vertex in self.vertices:
                    log = self.vertices[vertex].log
                    log += data
                    del log[:-_LOG_BYTES]
            case StepCompleted(index=index, cached=cached):
                self.done[index] = cached
            case BuildCompleted(warnings=warnings):
                self.warnings = list(warnings)
            case BuildWarning():
                pass  # all of them come again at the end
            case _:
                pass
        if not isinstance(event, BuildWarning):
            self.last = max(self.last, event.time)


def collect(record: BuildRecord, events: Iterable[Event]) -> Report:
    """A report of a build that ended, failed, or still runs."""
    seen = _Events()
    for event in events:
        seen.take(event)
    if record.status == RUNNING:
        seen.last = time.time()
    else:
        seen.interrupt()
    request = record.data.get("request", {})
    summary = record.data.get("summary", {})
    steps = _steps(seen, summary.get("steps", ()))
    tags = request.get("tags") or []
    end = record.completed or seen.last or record.started
    return Report(
        name=str(tags[0] if tags else request.get("context", "")),
        ref=record.ref,
        status=record.status,
        started=record.started,
        seconds=max(0.0, end - record.started),
        image=record.image or "",
        error=str(summary.get("error", "")),
        request=request,
        stages=_stages(seen.steps, steps),
        bars=_bars(seen, steps, record.started, max(0.0, end - record.started)),
        warnings=tuple(seen.warnings),
    )


def _steps(seen: _Events, known: Sequence[Mapping[str, Any]]) -> tuple[ReportStep, ...]:
    out = []
    for index, info in enumerate(seen.steps):
        facts = known[index] if index < len(known) else {}
        vertex = seen.vertices.get(info.vertex) if info.vertex else None
        out.append(
            ReportStep(
                number=index + 1,
                text=info.text,
                stage=info.stage,
                status=_status(seen, index, vertex),
                timed=info.vertex is not None,
                seconds=_seconds(vertex),
                size=int(facts.get("size", 0)),
                reason=str(facts.get("reason", "")),
                line=int(facts.get("line", 0)),
                vertex=info.vertex,
                log="" if vertex is None else _log(bytes(vertex.log)),
            )
        )
    return tuple(out)


def _stage_name(infos: Sequence[StepInfo]) -> str:
    """A stage by its steps, with its platform where the build has several."""
    found = next(filter(None, (_PLATFORM.match(info.name) for info in infos)), None)
    return f"{infos[0].stage} {found[1]}".lstrip() if found else infos[0].stage


def _status(seen: _Events, index: int, vertex: _Vertex | None) -> str:
    if vertex is not None:
        return vertex.status
    cached = seen.done.get(index)
    if cached is None:
        return WAITING
    return CACHED if cached else RAN


def _seconds(vertex: _Vertex | None) -> float:
    if vertex is None or vertex.ended is None or vertex.cached:
        return 0.0
    return max(0.0, vertex.ended - vertex.started)


def _log(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if len(data) >= _LOG_BYTES:
        text = "…\n" + text.partition("\n")[2]
    return "\n".join(line.rpartition("\r")[2] for line in text.rstrip().split("\n"))


def _stages(infos: Sequence[StepInfo], steps: Sequence[ReportStep]) -> tuple[ReportStage, ...]:
    """Steps in runs of one stage; several platforms repeat the names, so names are no keys."""
    runs: list[list[int]] = []
    for index, info in enumerate(infos):
        begins = info.text.split(" ", 1)[0].upper() == "FROM"
        if not runs or begins or infos[runs[-1][0]].stage != info.stage:
            runs.append([])
        runs[-1].append(index)
    home: dict[str, int] = {}
    for number, run in enumerate(runs):
        for i in run:
            home.setdefault(infos[i].vertex or "", number)
    out = []
    for number, run in enumerate(runs):
        first = infos[run[0]]
        name = _stage_name([infos[i] for i in run])
        own = {infos[i].vertex for i in run}  # two stages may stand on one image
        needs = {home[need] for i in run for need in infos[i].needs if need in home.keys() - own}
        out.append(
            ReportStage(
                name=name,
                base=first.text,
                steps=tuple(replace(steps[i], stage=name) for i in run),
                needs=tuple(sorted(needs - {number})),
            )
        )
    return tuple(out)


def _bars(
    seen: _Events, steps: Sequence[ReportStep], began: float, length: float
) -> tuple[Bar, ...]:
    bars: list[Bar] = []
    of_steps = set()
    for info, step in zip(seen.steps, steps, strict=True):
        if info.vertex is None:
            continue
        vertex = seen.vertices.get(info.vertex)
        label = info.name or step.text
        of_steps.add(info.vertex)
        bars.append(_bar(label, step.status, vertex, began, length, step.number))
    bars += [
        _bar(vertex.name, vertex.status, vertex, began, length, None)
        for digest, vertex in seen.vertices.items()
        if digest not in of_steps
    ]
    return tuple(sorted(bars, key=lambda bar: bar.start))


def _bar(
    label: str,
    status: str,
    vertex: _Vertex | None,
    began: float,
    length: float,
    step: int | None,
) -> Bar:
    if vertex is None:
        return Bar(label=label, status=status, start=length, seconds=0.0, step=step)
    start = min(max(0.0, vertex.started - began), length)
    seconds = _seconds(vertex) if vertex.ended is not None else length - start
    return Bar(label=label, status=status, start=start, seconds=seconds, step=step)
