"""FROM: begins a stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument, SyntaxProblem
from buildkit_py.instructions.base import Instruction, instruction
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.syntax import Arguments, Shape

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder

_NAME = re.compile(r"[a-z][a-z0-9\-_.]*\Z")


@instruction("FROM", Shape.WORDS)
@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """`FROM [--platform=P] image [AS name]`; image and platform are not expanded here.

    `name` is lower-cased; `name_written` and `as_written` keep the file's casing.
    """

    image: str
    platform: str | None = None
    name: str | None = None
    name_written: str | None = field(default=None, compare=False)
    as_written: str | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Read one or three words."""
        flags = FlagSet(arguments, strings=("platform",))
        words = arguments.operands
        name = written = as_written = None
        if len(words) == 3 and words[1].lower() == "as":
            as_written, written = words[1:]
            name = written.lower()
            if not _NAME.match(name):
                raise InvalidArgument(
                    f'invalid name for build stage: "{written}",'
                    " name can't start with a number or contain symbols",
                    span=arguments.span(arguments.words[2]),
                )
        elif len(words) != 1:
            raise _wrong_count(arguments)
        return cls(
            line=arguments.line,
            image=words[0],
            platform=flags.optional_text("platform"),
            name=name,
            name_written=written,
            as_written=as_written,
        )

    def lower(self, builder: StageBuilder) -> None:
        """Nothing: the planner has evaluated FROM before a stage is lowered."""


def _wrong_count(arguments: Arguments) -> SyntaxProblem:
    hint = None
    span = arguments.operands_span
    for word in arguments.words:
        if word.text.startswith("#"):
            hint = "a comment stands on a line of its own"
            span = arguments.line.part(word.start, arguments.rest.end)
            break
    return SyntaxProblem("FROM requires either one or three arguments", span=span, hint=hint)
