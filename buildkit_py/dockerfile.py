"""Groups instructions into stages: the abstract syntax of one file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildkit_py.errors import (
    DockerfileError,
    DockerfileErrors,
    InvalidArgument,
    PlanError,
    SyntaxProblem,
)
from buildkit_py.instructions import parse_instruction
from buildkit_py.instructions.arg import Arg
from buildkit_py.instructions.from_ import From
from buildkit_py.instructions.onbuild import OnBuild
from buildkit_py.lines import Directives, LogicalLine, SplitFile, split_lines
from buildkit_py.source import SourceFile, Span, lines_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.instructions.base import Instruction


_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """FROM and what follows it."""

    index: int
    name: str | None
    from_: From
    instructions: tuple[Instruction, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    """A parsed file."""

    source: SourceFile = field(compare=False, repr=False)
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[tuple[str, Span], ...] = field(default=(), compare=False)

    @property
    def escape(self) -> str:
        """The file's escape character."""
        return self.directives.escape

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All instructions in file order, global ARGs and each FROM included."""
        out: list[Instruction] = list(self.global_args)
        for stage in self.stages:
            out += [stage.from_, *stage.instructions]
        return tuple(out)


def parse(source: str | SourceFile, name: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile. Raises DockerfileErrors, which holds every problem of the file."""
    dockerfile, problems = parse_leniently(source, name)
    if problems:
        raise DockerfileErrors(problems)
    return dockerfile


def parse_leniently(
    source: str | SourceFile, name: str = "Dockerfile"
) -> tuple[Dockerfile, tuple[DockerfileError, ...]]:
    """Parse what can be parsed; with it, every problem of the file in the order of lines."""
    file = source if isinstance(source, SourceFile) else SourceFile(name=name, text=_text(source))
    split = split_lines(file)
    problems: list[DockerfileError] = list(split.problems)
    parsed: list[tuple[LogicalLine, Instruction | None]] = []
    for line in split.lines:
        try:
            parsed.append((line, parse_instruction(line, split.directives.escape)))
        except DockerfileError as problem:
            problems.append(problem)
            parsed.append((line, None))
    if not parsed and not problems:
        problems.append(_nothing(split))
    global_args, stages = _group(parsed, problems)
    if not stages and not problems:
        problems.append(_no_stage(split))
    dockerfile = Dockerfile(
        source=file,
        directives=split.directives,
        global_args=tuple(global_args),
        stages=tuple(stages),
        warnings=split.warnings,
    )
    return dockerfile, tuple(sorted(problems, key=_place))


def parse_onbuild(text: str, *, name: str = "ONBUILD trigger") -> Instruction:
    """Parse a trigger of an image's config: one instruction. Raises DockerfileErrors."""
    source = SourceFile(name=name, text=text)
    split = split_lines(source, escape="\\")
    problems: list[DockerfileError] = list(split.problems)
    if len(split.lines) != 1 and not problems:
        problems.append(
            SyntaxProblem("onbuild trigger should be a single expression", span=_whole(source))
        )
    if not problems:
        try:
            found = parse_instruction(split.lines[0])
        except DockerfileError as problem:
            problems.append(problem)
        else:
            if not isinstance(found, (From, OnBuild)):
                return found
            problems.append(
                InvalidArgument(
                    f"{found.keyword} isn't allowed as an ONBUILD trigger", span=found.span
                )
            )
    raise DockerfileErrors(problems)


def _text(source: str) -> str:
    """A text without the surrogates that stand for no byte of a file: nothing can write those."""
    return source if source.isascii() else _NO_BYTE.sub("\ufffd", source)


def _group(
    parsed: Sequence[tuple[LogicalLine, Instruction | None]], problems: list[DockerfileError]
) -> tuple[list[Arg], list[Stage]]:
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    in_stage = False
    for line, item in parsed:
        if item is None:
            in_stage = in_stage or line.keyword.upper() == "FROM"
        elif isinstance(item, From):
            stages.append((item, []))
            in_stage = True
        elif stages:
            stages[-1][1].append(item)
        elif isinstance(item, Arg):
            global_args.append(item)
        elif not in_stage:
            problems.append(
                SyntaxProblem(
                    "no build stage in current context",
                    span=item.span,
                    hint="a Dockerfile begins with FROM; only ARG may stand above it",
                )
            )
            in_stage = True  # said once
    return global_args, [
        Stage(index=index, name=from_.name, from_=from_, instructions=tuple(items))
        for index, (from_, items) in enumerate(stages)
    ]


def _nothing(split: SplitFile) -> SyntaxProblem:
    message = (
        "file with no instructions" if split.source.text else "the Dockerfile cannot be empty"
    )
    return SyntaxProblem(message, span=_whole(split.source))


def _no_stage(split: SplitFile) -> SyntaxProblem:
    span = lines_span(split.source, split.lines[0].first, split.lines[-1].last)
    return SyntaxProblem("dockerfile contains no stages to build", span=span)


def _whole(source: SourceFile) -> Span:
    return lines_span(source, 1, source.line_count)


def _place(problem: DockerfileError | PlanError) -> tuple[int, int]:
    start = problem.span.start if problem.span else None
    return (start.line, start.column) if start else (0, 0)
