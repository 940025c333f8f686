"""From a parsed Dockerfile to a stage plan: FROM evaluated, dependencies known, the rest dropped.

`plan` is pure and re-entrant. The engine resolves `StagePlan.bases`; if a base's config holds
ONBUILD triggers, `triggers_of` gives them, and `plan(..., triggers=...)` adds them to their
stages, which may ask for further bases, until nothing new appears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.contexts import ContextKind, NamedContext, find_context, parse_contexts
from buildkit_py.errors import InvalidArgument, PlanError, UnknownTarget, UsageError
from buildkit_py.expansion import Expansion, ExpansionError, expand
from buildkit_py.instructions.base import located
from buildkit_py.instructions.onbuild import OnBuild
from buildkit_py.oci.reference import parse_reference
from buildkit_py.platforms import parse_platform
from buildkit_py.scopes import (
    EPOCH_ARG,
    GlobalScope,
    StageScope,
    epoch_seconds,
    evaluate_globals,
    given_args,
    predefined_args,
    replace_epoch,
)
from buildkit_py.stage_links import (
    bases_of,
    check_cycles,
    check_order,
    edges_of,
    from_names,
    has_outside,
    with_from_names,
)
from buildkit_py.stage_plan import (
    SCRATCH,
    BaseKey,
    BaseWanted,
    BuildOptions,
    FromContext,
    FromImage,
    FromScratch,
    FromStage,
    Origin,
    PlannedStage,
    StagePlan,
    triggers_of,
)
from buildkit_py.suggest import nearest

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile, Stage
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.platforms import Platform
    from buildkit_py.source import Span

__all__ = [
    "BaseKey",
    "BaseWanted",
    "BuildOptions",
    "FromContext",
    "FromImage",
    "FromScratch",
    "FromStage",
    "Origin",
    "PlannedStage",
    "StagePlan",
    "plan",
    "triggers_of",
]


def plan(
    dockerfile: Dockerfile,
    options: BuildOptions,
    platform: Platform | None = None,
    *,
    triggers: Mapping[int, tuple[str, ...]] | None = None,
) -> StagePlan:
    """Plan the stages of one platform. Raises PlanError, DockerfileError or UsageError."""
    return _Planner(dockerfile, options, platform, triggers or {}).plan()


class _Planner:
    def __init__(
        self,
        dockerfile: Dockerfile,
        options: BuildOptions,
        platform: Platform | None,
        triggers: Mapping[int, tuple[str, ...]],
    ) -> None:
        self.dockerfile = dockerfile
        self.options = options
        self.triggers = triggers
        self.escape = dockerfile.directives.escape
        self.platform = platform or next(iter(options.platforms), options.build_platform)
        self.contexts = parse_contexts(options.build_contexts)
        self.build_args = given_args(options.build_args, options.environment)
        self.by_name: dict[str, int] = {}
        self.sources: dict[str, Origin] = {}
        self.scopes: dict[int, StageScope] = {}
        self.stages: list[PlannedStage] = []
        self.scope = self._global_scope()
        self.epoch, self.epoch_source = self._epoch()

    def plan(self) -> StagePlan:
        if not self.dockerfile.stages:
            raise PlanError("dockerfile contains no stages to build")
        for stage in self.dockerfile.stages:
            self.stages.append(self._plan_from(stage))
            if stage.name:
                self.by_name[stage.name.lower()] = stage.index
        target = self._target()
        for index in range(len(self.stages)):
            self.stages[index] = self._link(self.stages[index])
        names = [stage.name for stage in self.stages]
        check_cycles([edges_of(stage, self.sources) for stage in self.stages], names)
        self._mark(target)
        for planned in self.stages:
            if planned.reachable:
                check_order(planned.instructions, planned.index, planned.name, self._index_of)
        if len(self.stages) == 1 and not has_outside(self.stages[0], self.sources):
            self.stages[0] = replace(self.stages[0], name="")
        return StagePlan(
            dockerfile=self.dockerfile,
            options=self.options,
            platform=self.platform,
            stages=tuple(self.stages),
            target=target,
            bases=bases_of(self.stages, self.sources),
            sources=self.sources,
            scope=self.scope,
            build_args=self.build_args,
            contexts=self.contexts,
            epoch=self.epoch,
            epoch_source=self.epoch_source,
        )

    # ---------------------------------------------------------- variables
    def _global_scope(self) -> GlobalScope:
        last = self.dockerfile.stages[-1].name if self.dockerfile.stages else ""
        predefined = predefined_args(
            self.platform,
            self.options.build_platform,
            self.options.target or last or "",
            self.build_args,
        )
        return evaluate_globals(
            self.dockerfile.global_args, predefined, self.build_args, self.escape
        )

    def _epoch(self) -> tuple[int | None, str | None]:
        text = self.build_args.get(EPOCH_ARG, self.scope.values.get(EPOCH_ARG, ""))
        if self.options.epoch is not None:
            text = str(self.options.epoch)
        elif text and epoch_seconds(text) is None:
            self._check_epoch_source(text)
            return None, text
        self.scope = replace_epoch(self.scope, self.build_args, text)
        return epoch_seconds(text), None

    def _check_epoch_source(self, text: str) -> None:
        known = text == "context" or find_context(self.contexts, text, self.platform) is not None
        names = [(stage.name or "").lower() for stage in self.dockerfile.stages]
        if not known and text.lower() not in names:
            raise UsageError(
                f"invalid {EPOCH_ARG}: {text}",
                hint="expected seconds since 1970, `context`, a named context, or a stage",
            )

    def _stage_scope(self, index: int) -> StageScope:
        """The scope at the end of a stage, as far as the file tells."""
        if index not in self.scopes:
            scope = self._first_scope(index)
            for instruction in self.stages[index].instructions:
                try:
                    scope.apply(instruction)
                except ExpansionError as error:
                    raise located(error, instruction.line) from error
            self.scopes[index] = scope
        return self.scopes[index]

    def _first_scope(self, index: int) -> StageScope:
        origin = self.stages[index].origin
        if isinstance(origin, FromStage):
            return self._stage_scope(origin.index).child()
        return StageScope(
            globals=self.scope.values, build_args=self.build_args, escape=self.escape
        )

    # ---------------------------------------------------------- FROM
    def _plan_from(self, stage: Stage) -> PlannedStage:
        span = stage.from_.span
        base = self._expand(stage.from_.image, stage).text
        if not base:
            raise PlanError(f"base name ({stage.from_.image}) should not be blank", span=span)
        asked = self._stage_platform(stage)
        platform = asked or self.platform
        replacement = (
            find_context(self.contexts, stage.name, platform) if stage.name is not None else None
        )
        if replacement is not None:
            origin = self._context_origin(replacement, platform, span, stage.index)
        else:
            origin = self._origin(base, platform, span, stage.index)
        if isinstance(origin, FromStage):
            platform = self.stages[origin.index].platform
        elif isinstance(origin, FromScratch):
            platform = self.platform
        return PlannedStage(
            index=stage.index,
            stage=stage,
            name=stage.name or f"stage-{stage.index}",
            origin=origin,
            platform=platform,
            explicit_platform=asked is not None,
            instructions=() if replacement else stage.instructions,
            replaced=replacement is not None,
            no_cache=self.options.skips_cache(stage.name, stage.index),
            base_name=base,
        )

    def _expand(self, text: str, stage: Stage) -> Expansion:
        try:
            return expand(text, self.scope.values, escape=self.escape)
        except ExpansionError as error:
            raise located(error, stage.from_.line) from error

    def _stage_platform(self, stage: Stage) -> Platform | None:
        written, span = stage.from_.platform, stage.from_.span
        if not written:
            return None
        result = self._expand(written, stage)
        hints = (nearest(name, self.scope.names) for name in sorted(result.unset))
        guess = next((name for name in hints if name), None)
        meant = f" (did you mean {guess}?)" if guess else ""
        if not result.text:
            raise InvalidArgument(
                f"empty platform value from expression {written}{meant}",
                span=span,
                hint=f"did you mean {guess}?" if guess else None,
            )
        try:
            return parse_platform(result.text, self.options.build_platform)
        except UsageError as error:
            raise InvalidArgument(
                f"failed to parse platform {written}: {error.message}{meant}",
                span=span,
                hint=error.hint,
            ) from error

    def _origin(self, base: str, platform: Platform, span: Span, stage: int | None) -> Origin:
        if base in self.by_name:
            return FromStage(index=self.by_name[base])
        if base == SCRATCH:
            return FromScratch()
        context = find_context(self.contexts, base, platform)
        if context is not None:
            return self._context_origin(context, platform, span, stage)
        try:
            reference = str(parse_reference(base))
        except UsageError as error:
            lower = f"stages are named in lower case: FROM {base.lower()}"
            hint = lower if base.lower() in self.by_name else error.hint
            message = f'failed to parse stage name "{base}": {error.message}'
            raise PlanError(message, span=span, hint=hint) from error
        wanted = BaseWanted(
            reference=reference, platform=platform, span=span, written=base, stage=stage
        )
        return FromImage(wanted=wanted)

    def _context_origin(
        self, context: NamedContext, platform: Platform, span: Span, stage: int | None
    ) -> Origin:
        if context.kind is ContextKind.SCRATCH:
            return FromScratch()
        if context.kind not in {ContextKind.IMAGE, ContextKind.LAYOUT}:
            return FromContext(context=context)
        layout = context.value if context.kind is ContextKind.LAYOUT else None
        wanted = BaseWanted(
            reference=context.reference if layout else str(parse_reference(context.value)),
            platform=platform,
            span=span,
            written=context.value,
            stage=stage,
            layout=layout,
            context=context.name,
        )
        return FromImage(wanted=wanted)

    # ---------------------------------------------------------- links
    def _link(self, stage: PlannedStage) -> PlannedStage:
        """The stage with its triggers, and its `--from` names looked up."""
        if stage.replaced:
            return stage
        triggers = self._triggers(stage)
        named: list[Instruction] = []
        dependencies: dict[int, None] = {}
        if isinstance(stage.origin, FromStage):
            dependencies[stage.origin.index] = None
        scope: StageScope | None = None
        if any(
            "$" in name for item in (*triggers, *stage.instructions) for name in from_names(item)
        ):
            scope = self._first_scope(stage.index)
        for written in (*triggers, *stage.instructions):
            item = written if scope is None else self._expand_from(written, scope)
            for name in from_names(item):
                origin = self._source(name, item.span)
                if isinstance(origin, FromStage):
                    dependencies[origin.index] = None
            named.append(item)
        return replace(
            stage,
            instructions=tuple(named),
            trigger_count=len(triggers),
            dependencies=tuple(dependencies),
        )

    def _triggers(self, stage: PlannedStage) -> tuple[Instruction, ...]:
        texts = list(self.triggers.get(stage.index, ()))
        if isinstance(stage.origin, FromStage):
            base = self.stages[stage.origin.index]
            texts += [item.body for item in base.instructions if isinstance(item, OnBuild)]
        if not texts:
            return ()
        from buildkit_py.dockerfile import parse_onbuild  # noqa: PLC0415  (rare)

        name = f"ONBUILD trigger of {stage.base_name}"
        return tuple(parse_onbuild(text, name=name) for text in texts)

    def _expand_from(self, item: Instruction, scope: StageScope) -> Instruction:
        names = from_names(item)
        expanded: list[str] = []
        try:
            for name in names:
                word = scope.expander().word(name) if "$" in name else name
                if not word:
                    raise InvalidArgument(
                        f"--from={name} is empty: the variable has no value here",
                        span=item.span,
                        hint="declare it by ARG in this stage, or give it by --build-arg",
                    )
                expanded.append(word)
            scope.apply(item)
        except ExpansionError as error:
            raise located(error, item.line) from error
        return with_from_names(item, expanded) if tuple(expanded) != names else item

    def _source(self, name: str, span: Span) -> Origin:
        key = name.lower()
        if key not in self.sources:
            index = self._index_of(name)
            if index is None:
                self.sources[key] = self._origin(name, self.platform, span, None)
            elif 0 <= index < len(self.stages):
                self.sources[key] = FromStage(index=index)
            else:
                count = len(self.stages)
                raise PlanError(
                    f"invalid stage index {name}",
                    span=span,
                    hint=f"stages are numbered from 0 to {count - 1}",
                )
        return self.sources[key]

    def _index_of(self, name: str) -> int | None:
        digits = name.removeprefix("-").removeprefix("+")
        if digits.isascii() and digits.isdigit():
            return int(name)
        return self.by_name.get(name.lower())

    # ---------------------------------------------------------- target
    def _target(self) -> int:
        wanted = self.options.target
        if not wanted:
            return len(self.stages) - 1
        index = self._index_of(wanted)
        if index is not None and 0 <= index < len(self.stages):
            return index
        names = [stage.name for stage in self.stages]
        guess = nearest(wanted, names, case_sensitive=False)
        meant = f" (did you mean {guess}?)" if guess else ""
        raise UnknownTarget(
            f'target stage "{wanted}" could not be found{meant}',
            hint=f"the stages are: {', '.join(names)}",
        )

    def _mark(self, target: int) -> None:
        waiting = list(range(len(self.stages))) if self.options.all_stages else [target]
        while waiting:
            stage = self.stages[waiting.pop()]
            if not stage.reachable:
                self.stages[stage.index] = replace(stage, reachable=True)
                waiting.extend(stage.dependencies)
