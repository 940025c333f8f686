"""Rules about FROM: stage names, platforms, base images."""

from __future__ import annotations

from collections.abc import Iterator

from buildkit_py.errors import PybuildError, UsageError
from buildkit_py.expansion import Expansion, ExpansionError, expand
from buildkit_py.lint.rule import Problem, Subject, rule
from buildkit_py.lint.walk import global_scope
from buildkit_py.oci.reference import parse_reference
from buildkit_py.platforms import Platform, parse_platform
from buildkit_py.scopes import GlobalScope, evaluate_globals
from buildkit_py.stage_plan import FromImage
from buildkit_py.suggest import nearest

_RESERVED = frozenset({"context", "scratch"})


@rule("StageNameCasing", "Stage names should be lowercase", slug="stage-name-casing")
def stage_name_casing(subject: Subject) -> Iterator[Problem]:
    """A stage name with capitals."""
    for stage in subject.dockerfile.stages:
        written = stage.from_.name_written
        if written and written != written.lower():
            yield Problem(message=f"Stage name '{written}' should be lowercase", at=stage.from_)


@rule(
    "FromAsCasing",
    "The 'as' keyword should match the case of the 'from' keyword",
    slug="from-as-casing",
)
def from_as_casing(subject: Subject) -> Iterator[Problem]:
    """`FROM x as y`."""
    for stage in subject.dockerfile.stages:
        word = stage.from_.written_keyword
        joiner = stage.from_.as_written
        if not joiner or not (word.isupper() or word.islower()):
            continue
        if joiner != (joiner.upper() if word.isupper() else joiner.lower()):
            yield Problem(
                message=f"'{joiner}' and '{word}' keywords' casing do not match", at=stage.from_
            )


@rule("DuplicateStageName", "Stage names should be unique", slug="duplicate-stage-name")
def duplicate_stage_name(subject: Subject) -> Iterator[Problem]:
    """A stage name used before."""
    seen: set[str] = set()
    for stage in subject.dockerfile.stages:
        if stage.name and stage.name in seen:
            yield Problem(
                message=f'Duplicate stage name "{stage.name}", stage names should be unique',
                at=stage.from_,
            )
        seen.add(stage.name or "")


@rule(
    "ReservedStageName",
    "Reserved words should not be used as stage names",
    slug="reserved-stage-name",
)
def reserved_stage_name(subject: Subject) -> Iterator[Problem]:
    """`AS scratch`, `AS context`."""
    for stage in subject.dockerfile.stages:
        if stage.name in _RESERVED:
            yield Problem(
                message="Stage name should not use the same name as reserved stage"
                f' "{stage.name}"',
                at=stage.from_,
            )


@rule("UndefinedArgInFrom", "FROM command must use declared ARGs", slug="undefined-arg-in-from")
def undefined_argument(subject: Subject) -> Iterator[Problem]:
    """FROM uses an ARG that was not declared before it."""
    scope = global_scope(subject)
    if scope is None:
        return
    for stage in subject.dockerfile.stages:
        for text in (stage.from_.image, stage.from_.platform or ""):
            result = _expand(text, scope, subject)
            for name in sorted(result.unset if result else ()):
                if name in scope.names:
                    continue
                guess = nearest(name, scope.names)
                meant = f" (did you mean {guess}?)" if guess else ""
                yield Problem(
                    message=f"FROM argument '{name}' is not declared{meant}", at=stage.from_
                )


@rule(
    "InvalidDefaultArgInFrom",
    "Default value for global ARG results in an empty or invalid base image name",
    slug="invalid-default-arg-in-from",
)
def invalid_default(subject: Subject) -> Iterator[Problem]:
    """The image's name is no name when no build argument is given."""
    try:
        scope = evaluate_globals(
            subject.dockerfile.global_args, subject.predefined, {}, subject.escape
        )
    except PybuildError:
        return  # the plan fails with the same error
    names = {stage.name for stage in subject.dockerfile.stages}
    for stage in subject.dockerfile.stages:
        result = _expand(stage.from_.image, scope, subject)
        if result is None:
            return
        try:
            lower = result.text.lower()
            parse_reference(lower if lower in names else result.text)
        except UsageError:
            yield Problem(
                message=f"Default value for ARG {stage.from_.image} results in empty or invalid"
                " base image name",
                at=stage.from_,
            )


@rule(
    "RedundantTargetPlatform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default"
    " behavior",
    slug="redundant-target-platform",
)
def redundant_platform(subject: Subject) -> Iterator[Problem]:
    """`--platform=$TARGETPLATFORM`."""
    scope = global_scope(subject)
    for stage in subject.dockerfile.stages:
        written = stage.from_.platform
        if not written or scope is None:
            continue
        result = _expand(written, scope, subject)
        if result is None or result.unset or result.used != {"TARGETPLATFORM"}:
            continue
        if result.text == scope.values.get("TARGETPLATFORM"):
            yield Problem(
                message=f"Setting platform to predefined {written} in FROM is redundant as this is"
                " the default behavior",
                at=stage.from_,
            )


@rule(
    "FromPlatformFlagConstDisallowed",
    "FROM --platform flag should not use a constant value",
    slug="from-platform-flag-const-disallowed",
)
def constant_platform(subject: Subject) -> Iterator[Problem]:
    """`--platform=linux/amd64` of a stage whose name does not say so."""
    scope = global_scope(subject)
    for stage in subject.dockerfile.stages:
        written = stage.from_.platform
        if not written or scope is None:
            continue
        result = _expand(written, scope, subject)
        if result is None or result.used or result.unset:
            continue
        try:
            platform = parse_platform(result.text, Platform())
        except UsageError:
            continue
        name = stage.name or ""
        if platform.os not in name and platform.architecture not in name:
            yield Problem(
                message=f'FROM --platform flag should not use constant value "{result.text}"',
                at=stage.from_,
            )


@rule("InvalidBaseImagePlatform", "Base image platform does not match expected target platform")
def base_platform(subject: Subject) -> Iterator[Problem]:
    """The resolved base image is for another platform."""
    for stage in subject.stages:
        planned, base = stage.planned, stage.platform
        if planned is None or base is None or not isinstance(planned.origin, FromImage):
            continue
        wanted = planned.platform
        if (wanted.os, wanted.architecture) != (base.os, base.architecture):
            yield Problem(
                message=f"Base image {planned.base_name} was pulled with platform"
                f' "{base}", expected "{wanted}" for current build',
                at=stage.from_,
            )


def _expand(text: str, scope: GlobalScope, subject: Subject) -> Expansion | None:
    try:
        return expand(text, scope.values, escape=subject.escape)
    except ExpansionError:
        return None
