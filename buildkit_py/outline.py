"""What a target takes (ARGs, secrets, SSH agents, cache mounts), and which targets a file has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.expansion import ExpansionError, expand
from buildkit_py.graph import CacheMount, ExecMount, SecretMount, SshMount
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.mounts import MountPlace, MountProblem, lower_mount
from buildkit_py.instructions.run import Run
from buildkit_py.scopes import StageScope
from buildkit_py.stage_plan import FromStage, PlannedStage, StagePlan

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineArg:
    """A build argument that the target uses, with its value in this build."""

    name: str
    value: str
    description: str
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineMount:
    """A secret or an SSH agent that the target asks for."""

    name: str
    required: bool
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a target takes from the caller."""

    name: str
    description: str
    args: tuple[OutlineArg, ...] = ()
    secrets: tuple[OutlineMount, ...] = ()
    ssh: tuple[OutlineMount, ...] = ()
    caches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A stage that can be asked for."""

    name: str
    description: str
    base: str
    platform: str
    default: bool
    span: Span


def list_targets(dockerfile: Dockerfile) -> tuple[Target, ...]:
    """All stages in file order; the last is the default."""
    last = len(dockerfile.stages) - 1
    return tuple(
        Target(
            name=stage.name or "",
            description=stage.from_.description(stage.name or ""),
            base=stage.from_.image,
            platform=stage.from_.platform or "",
            default=stage.index == last,
            span=stage.from_.span,
        )
        for stage in dockerfile.stages
    )


def outline(plan: StagePlan) -> Outline:
    """What the plan's target and the stages that it needs take, each name once."""
    collected = _Collected(plan=plan)
    for stage in _nearest_first(plan):
        collected.take_stage(stage)
    from_ = plan.stages[plan.target].stage.from_
    return Outline(
        name=from_.name or "",
        description=from_.description(from_.name or ""),
        args=tuple(sorted(collected.args.values(), key=_line)),
        secrets=tuple(sorted(collected.secrets.values(), key=_line)),
        ssh=tuple(sorted(collected.ssh.values(), key=_line)),
        caches=tuple(collected.caches),
    )


def _line(item: OutlineArg | OutlineMount) -> tuple[str, int, str]:
    return item.span.source.name, item.span.start.line, item.name


def _nearest_first(plan: StagePlan) -> Iterator[PlannedStage]:
    seen: set[int] = set()
    waiting = [plan.target]
    while waiting:
        index = waiting.pop(0)
        if index not in seen:
            seen.add(index)
            yield plan.stages[index]
            waiting.extend(plan.stages[index].dependencies)


@dataclass(slots=True, kw_only=True)
class _Collected:
    plan: StagePlan
    args: dict[str, OutlineArg] = field(default_factory=dict)
    secrets: dict[str, OutlineMount] = field(default_factory=dict)
    ssh: dict[str, OutlineMount] = field(default_factory=dict)
    caches: dict[str, None] = field(default_factory=dict)
    scopes: dict[int, StageScope] = field(default_factory=dict)

    def take_stage(self, stage: PlannedStage) -> None:
        """Collect what one stage uses: ARGs of its FROM, its own, and its mounts."""
        if not isinstance(stage.origin, FromStage):
            for text in (stage.stage.from_.image, stage.stage.from_.platform or ""):
                self._use_globals(self._used(text))
        scope = self._scope_before(stage)
        for item in stage.instructions:
            try:
                expander = scope.apply(item)
                if isinstance(item, Run):
                    self._take_mounts(item.expand(expander), item)
            except (ExpansionError, PybuildError):
                break  # the build stops there
            if isinstance(item, Arg):
                self._take_arg(item, scope)
        self.scopes[stage.index] = scope

    def _used(self, text: str) -> frozenset[str]:
        try:
            return expand(text, self.plan.scope.values, escape=self.plan.escape).used
        except ExpansionError:
            return frozenset()

    def _use_globals(self, names: frozenset[str]) -> None:
        for name in names:
            known = self.plan.scope.declared.get(name)
            if known is None or name in self.args:
                continue
            description = next(
                (
                    item.description
                    for arg in self.plan.dockerfile.global_args
                    for item in arg.items
                    if item.name == name and arg.span == known.span
                ),
                "",
            )
            self.args[name] = OutlineArg(
                name=name, value=known.value or "", description=description, span=known.span
            )
            self._use_globals(known.uses)

    def _scope_before(self, stage: PlannedStage) -> StageScope:
        if isinstance(stage.origin, FromStage):
            base = self.plan.stages[stage.origin.index]
            if base.index not in self.scopes:
                scope = self._scope_before(base)
                for item in base.instructions:
                    _apply(scope, item)
                self.scopes[base.index] = scope
            return self.scopes[base.index].child()
        return StageScope(
            globals=self.plan.scope.values,
            build_args=self.plan.build_args,
            escape=self.plan.escape,
        )

    def _take_arg(self, arg: Arg, scope: StageScope) -> None:
        for item in arg.items:
            declared = item.name in self.plan.scope.declared
            if item.default is None and item.name not in self.plan.build_args and declared:
                self._use_globals(frozenset({item.name}))
            elif item.name not in self.args:
                self.args[item.name] = OutlineArg(
                    name=item.name,
                    value=scope.args.get(item.name) or "",
                    description=item.description,
                    span=arg.span,
                )

    def _take_mounts(self, run: Run, written: Run) -> None:
        for spec in run.mounts:
            try:
                mount = lower_mount(spec, MountPlace(workdir="/"))
            except MountProblem:
                continue
            self._take_mount(mount, written)

    def _take_mount(self, mount: ExecMount, run: Run) -> None:
        match mount:
            case SecretMount():
                _merge(self.secrets, mount, run)
            case SshMount():
                _merge(self.ssh, mount, run)
            case CacheMount():
                self.caches.setdefault(mount.id)
            case _:
                pass


def _merge(known: dict[str, OutlineMount], mount: SecretMount | SshMount, run: Run) -> None:
    before = known.get(mount.id)
    known[mount.id] = OutlineMount(
        name=mount.id,
        required=mount.required or (before is not None and before.required),
        span=before.span if before else run.span,
    )


def _apply(scope: StageScope, item: Instruction) -> None:
    try:
        scope.apply(item)
    except ExpansionError:
        return
