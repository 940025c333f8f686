"""Runs the rules over a parsed file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from buildkit_py.errors import PlanError, PybuildError
from buildkit_py.lint.rule import (
    RULES,
    CheckOptions,
    Finding,
    Problem,
    Rule,
    StageView,
    Subject,
    directive_options,
    enabled_by_comment,
    parse_check,
    skipped_by_comment,
)
from buildkit_py.oci.config import DEFAULT_PATH, ContainerConfig, ImageConfig
from buildkit_py.scopes import given_args, predefined_args
from buildkit_py.source import Span
from buildkit_py.stage_plan import (
    BaseKey,
    BuildOptions,
    FromImage,
    FromScratch,
    FromStage,
    PlannedStage,
    StagePlan,
)

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile

__all__ = ["CheckOptions", "Finding", "check_options", "lint", "violation"]

_STANDARD = ("rules_form", "rules_stages", "rules_variables", "rules_files")
_EXTENDED = ("extended_pinning", "extended_hygiene", "extended_structure")
_SCRATCH = ContainerConfig(env=(f"PATH={DEFAULT_PATH}",), working_dir="/")


def lint(
    dockerfile: Dockerfile,
    *,
    plan: StagePlan | None = None,
    options: BuildOptions | None = None,
    bases: Mapping[BaseKey, ImageConfig] | None = None,
    ignore: Sequence[str] | None = None,
    check: CheckOptions | None = None,
) -> tuple[Finding, ...]:
    """Everything that the rules have to say, in the order of lines.

    With `plan`, rules about instructions look at its reachable stages only, else at all stages.
    `bases` holds the configs of base images as far as they are known, `ignore` the patterns of
    the ignore file. Without `check`, the file's own directive decides. Raises InvalidArgument
    for a malformed directive.
    """
    options = options or (plan.options if plan else BuildOptions())
    check = check or check_options(dockerfile, options)
    _load_rules(check)
    subject = _subject(dockerfile, plan, options, bases or {}, ignore)
    findings = [finding for rule in RULES.values() for finding in _findings(rule, subject, check)]
    unique = dict.fromkeys((f.line, f.rule, f.message) for f in findings)
    first = {(f.line, f.rule, f.message): f for f in reversed(findings)}
    return tuple(sorted((first[key] for key in unique), key=lambda f: f.line))


def check_options(dockerfile: Dockerfile, options: BuildOptions | None = None) -> CheckOptions:
    """The file's `# check=` directive, or BUILDKIT_DOCKERFILE_CHECK instead of it."""
    if options is not None:
        given = given_args(options.build_args, options.environment)
        override = given.get("BUILDKIT_DOCKERFILE_CHECK")
        if override is not None:
            return parse_check(override)
    directives = dockerfile.directives
    return directive_options(directives.check, directives.spans.get("check"))


def violation(findings: Iterable[Finding], check: CheckOptions) -> PybuildError | None:
    """The error that `error=true` makes of findings."""
    rules = sorted({finding.rule for finding in findings})
    if not check.error or not rules:
        return None
    return PlanError(f"lint violation found for rules: {', '.join(rules)}")


def _load_rules(check: CheckOptions) -> None:
    # each module registers its rules
    for name in (*_STANDARD, *(_EXTENDED if check.extended else ())):
        import_module(f"buildkit_py.lint.{name}")


def _findings(rule: Rule, subject: Subject, check: CheckOptions) -> Iterable[Finding]:
    speaks = check.speaks(rule)
    if not speaks and (rule.extended or not rule.experimental):
        return
    for problem in rule.check(subject):
        comment = "" if isinstance(problem.at, Span) else problem.at.comment
        if comment and skipped_by_comment(comment, rule.name):
            continue
        if speaks or enabled_by_comment(comment, rule.name):
            yield _finding(rule, problem)


def _finding(rule: Rule, problem: Problem) -> Finding:
    return Finding(
        rule=rule.name,
        url=rule.url,
        description=rule.description,
        message=problem.message,
        span=problem.span or (problem.at if isinstance(problem.at, Span) else problem.at.span),
        severity=rule.severity,
    )


def _subject(
    dockerfile: Dockerfile,
    plan: StagePlan | None,
    options: BuildOptions,
    bases: Mapping[BaseKey, ImageConfig],
    ignore: Sequence[str] | None,
) -> Subject:
    from buildkit_py.lint.walk import walk  # noqa: PLC0415  (it uses the values above)

    build_args = given_args(options.build_args, options.environment)
    platform = next(iter(options.platforms), options.build_platform)
    subject = Subject(
        dockerfile=dockerfile,
        stages=_planned_views(plan, bases) if plan else _views(dockerfile),
        predefined=predefined_args(
            platform, options.build_platform, options.target or "", build_args
        ),
        build_args=build_args,
        plan=plan,
        ignore=None if ignore is None else tuple(ignore),
    )
    return replace(subject, walked=tuple(walk(subject)))


def _planned_views(plan: StagePlan, bases: Mapping[BaseKey, ImageConfig]) -> tuple[StageView, ...]:
    return tuple(_planned_view(stage, bases) for stage in plan.reachable if not stage.replaced)


def _planned_view(stage: PlannedStage, bases: Mapping[BaseKey, ImageConfig]) -> StageView:
    origin, image = stage.origin, None
    if isinstance(origin, FromImage):
        image = bases.get(origin.wanted.key)
        config = image.config if image else None
    else:
        config = _SCRATCH
    return StageView(
        index=stage.index,
        name=stage.stage.name or "",
        from_=stage.stage.from_,
        instructions=stage.instructions,
        trigger_count=stage.trigger_count,
        parent=origin.index if isinstance(origin, FromStage) else None,
        scratch=isinstance(origin, FromScratch),
        config=config,
        platform=image.platform if image else None,
        planned=stage,
    )


def _views(dockerfile: Dockerfile) -> tuple[StageView, ...]:
    """The stages of a file that has no plan, their bases taken as written."""
    known: dict[str, int] = {}
    views = []
    for stage in dockerfile.stages:
        image = stage.from_.image
        scratch = image == "scratch"
        views.append(
            StageView(
                index=stage.index,
                name=stage.name or "",
                from_=stage.from_,
                instructions=stage.instructions,
                parent=known.get(image.lower()),
                scratch=scratch,
                config=_SCRATCH if scratch else None,
            )
        )
        if stage.name:
            known[stage.name] = stage.index
    return tuple(views)


class _CallablePackage(ModuleType):
    """Lets `buildkit_py.lint(dockerfile)` work although this package bears the same name."""

    def __call__(self, dockerfile: Dockerfile, **options: Any) -> tuple[Finding, ...]:
        return lint(dockerfile, **options)


sys.modules[__name__].__class__ = _CallablePackage
