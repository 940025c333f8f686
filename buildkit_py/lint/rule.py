"""What a rule and a finding are, and `check` options: which rules speak.

A rule is a function from a `Subject` to problems, registered under its name by `@rule`. Options
come from the file's `# check=` directive or from a build argument; a comment `# check=skip=Rule`
directly above an instruction holds for that instruction alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from buildkit_py.errors import InvalidArgument

if TYPE_CHECKING:
    from buildkit_py.dockerfile import Dockerfile
    from buildkit_py.instructions.base import Instruction
    from buildkit_py.instructions.from_ import From
    from buildkit_py.lint.walk import WalkedStep
    from buildkit_py.oci.config import ContainerConfig
    from buildkit_py.platforms import Platform
    from buildkit_py.source import Span
    from buildkit_py.stage_plan import PlannedStage, StagePlan

URL = "https://docs.docker.com/go/dockerfile/rule/"
EXTENDED_URL = "https://github.com/hadolint/hadolint/wiki/"
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule has to say about a place; `severity` is `warning`, `info` or `error`."""

    rule: str
    url: str
    description: str
    message: str
    span: Span
    severity: str = "warning"

    @property
    def line(self) -> int:
        """The line where it begins."""
        return self.span.start.line


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """A stage as rules see it: instructions with the base's triggers first.

    `parent` is the index of the stage it is based on. `config` is that of its base image (the
    defaults for scratch), None while the image is not known; `platform` is that image's.
    """

    index: int
    name: str
    from_: From
    instructions: tuple[Instruction, ...]
    trigger_count: int = 0
    parent: int | None = None
    scratch: bool = False
    config: ContainerConfig | None = None
    platform: Platform | None = None
    planned: PlannedStage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked: the whole file, the stages to look into, and what is known around them.

    `ignore` holds the patterns of the ignore file, None where there is none.
    """

    dockerfile: Dockerfile
    stages: tuple[StageView, ...]
    predefined: Mapping[str, str]
    build_args: Mapping[str, str]
    plan: StagePlan | None = None
    ignore: tuple[str, ...] | None = None
    walked: tuple[WalkedStep, ...] = ()

    @property
    def escape(self) -> str:
        """The file's escape character."""
        return self.dockerfile.directives.escape

    def instructions(self) -> Iterator[tuple[StageView, Instruction]]:
        """The instructions of the stages to look into, in file order, without triggers."""
        for stage in self.stages:
            for item in stage.instructions[stage.trigger_count :]:
                yield stage, item


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A message and its place. `at` is an instruction, or a span that no comment governs.

    `span` is what to show where that is not the whole of `at`.
    """

    message: str
    at: Instruction | Span
    span: Span | None = None


Check: TypeAlias = Callable[[Subject], Iterator[Problem]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A registered rule."""

    name: str
    description: str
    url: str
    check: Check
    experimental: bool = False
    extended: bool = False
    severity: str = "warning"


RULES: dict[str, Rule] = {}


def rule(
    name: str, description: str, *, slug: str = "", experimental: bool = False
) -> Callable[[Check], Check]:
    """Register a rule of the standard group."""

    def register(check: Check) -> Check:
        RULES[name] = Rule(
            name=name,
            description=description,
            url=f"{URL}{slug}/" if slug else "",
            check=check,
            experimental=experimental,
        )
        return check

    return register


def extended(
    name: str, description: str, *, severity: str = "warning"
) -> Callable[[Check], Check]:
    """Register a rule of the opt-in group, named by its code (DL3006)."""

    def register(check: Check) -> Check:
        RULES[name] = Rule(
            name=name,
            description=description,
            url=EXTENDED_URL + name,
            check=check,
            extended=True,
            severity=severity,
        )
        return check

    return register


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Which rules speak, and whether a finding fails the build."""

    skip_all: bool = False
    skip: frozenset[str] = frozenset()
    experimental_all: bool = False
    experimental: frozenset[str] = field(default_factory=frozenset)
    error: bool = False
    extended: bool = False

    def speaks(self, candidate: Rule) -> bool:
        """Whether findings of a rule are wanted."""
        if candidate.extended and not self.extended:
            return False
        if candidate.experimental:
            return self.experimental_all or candidate.name in self.experimental
        return not (self.skip_all or candidate.name in self.skip)


def parse_check(text: str, span: Span | None = None) -> CheckOptions:
    """Read `skip=A,B;error=true;experimental=all`. Raises InvalidArgument."""
    values: dict[str, str] = {}
    for part in text.split(";") if text.strip() else ():
        key, separator, value = part.partition("=")
        key = key.strip()
        if not separator or key not in {"skip", "error", "experimental"}:
            raise InvalidArgument(
                "failed to parse check options: invalid check option"
                f' "{key if separator else part}"',
                span=span,
                hint="the options are skip=RULES, error=BOOL and experimental=RULES",
            )
        values[key] = value.strip()
    error = values.get("error", "false")
    if error not in _TRUE | _FALSE:
        raise InvalidArgument(
            f'failed to parse check options: failed to parse check option "error={error}":'
            f' strconv.ParseBool: parsing "{error}": invalid syntax',
            span=span,
            hint="expected true or false",
        )
    skip, experimental = values.get("skip", ""), values.get("experimental", "")
    return CheckOptions(
        skip_all=skip == "all",
        skip=_names(skip),
        experimental_all=experimental == "all",
        experimental=_names(experimental),
        error=error in _TRUE,
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


# a directive's line as the parser of directives takes it: the value ends at the first blank
_CHECK_COMMENT = re.compile(r"check\s*=\s*(\S[^ ]*)", re.IGNORECASE)
_HADOLINT_COMMENT = re.compile(r"\s*hadolint\s+ignore\s*=\s*(.+)", re.IGNORECASE)


def directive_options(text: str | None, span: Span | None = None) -> CheckOptions:
    """Read the value of a `# check=` line. Raises InvalidArgument.

    As in BuildKit what follows a space is not looked at: `skip=A, B` skips A alone.
    """
    return parse_check((text or "").partition(" ")[0], span)


def skipped_by_comment(comment: str, name: str) -> bool:
    """Whether the comment above an instruction silences a rule for it."""
    options = _comment_options(comment)
    if options.skip_all or name in options.skip:
        return True
    ignored = map(_HADOLINT_COMMENT.match, comment.splitlines())
    return any(found and name in _names(found.group(1)) for found in ignored)


def enabled_by_comment(comment: str, name: str) -> bool:
    """Whether the comment above an instruction turns an experimental rule on for it."""
    options = _comment_options(comment)
    return options.experimental_all or name in options.experimental


def _comment_options(comment: str) -> CheckOptions:
    """What the first `check=` line of a comment says; prose that looks like one says nothing."""
    for line in comment.splitlines():
        check = _CHECK_COMMENT.match(line)
        if check:
            try:
                return directive_options(check.group(1))
            except InvalidArgument:
                break
    return CheckOptions()
