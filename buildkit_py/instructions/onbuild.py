"""ONBUILD: an instruction for the builds that start from this image."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from buildkit_py.errors import InvalidArgument
from buildkit_py.instructions.base import REGISTRY, Instruction, instruction, no_arguments
from buildkit_py.instructions.flags import FlagSet
from buildkit_py.instructions.pairs import split_pairs
from buildkit_py.syntax import Arguments, Shape, parse_arguments

if TYPE_CHECKING:
    from buildkit_py.stage_builder import StageBuilder

_KEYWORD = re.compile(r"[^\t\v\f\r ]+")
_SEPARATOR = re.compile(r"[\t\v\f\r ]*")
_PAIRS = frozenset({"ENV", "LABEL"})


@instruction("ONBUILD", Shape.TEXT)
@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """`ONBUILD instruction`; `body` is its text with here-documents, as the config stores it.

    The body is parsed when it fires, in the stage of the child. Here only its outer form is
    checked, as the reference builder does: that arrays hold strings, and that pairs are pairs.
    """

    body: str

    @classmethod
    def parse(cls, arguments: Arguments) -> Self:
        """Keep the text; refuse what can never fire."""
        text = arguments.rest.text
        if not text:
            raise no_arguments(arguments)
        FlagSet(arguments)
        match = _KEYWORD.match(text)
        keyword = match.group().upper() if match else ""
        start = arguments.rest.start
        span = arguments.line.part(start, start + len(keyword))
        if keyword == "ONBUILD":
            raise InvalidArgument(
                "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", span=span
            )
        if keyword in {"FROM", "MAINTAINER"}:
            raise InvalidArgument(f"{keyword} isn't allowed as an ONBUILD trigger", span=span)
        _check_form(arguments, keyword)
        bodies = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in arguments.heredocs)
        return cls(line=arguments.line, heredocs=arguments.heredocs, body=text + bodies)

    def lower(self, builder: StageBuilder) -> None:
        """Append to `OnBuild`; there is no history entry."""
        builder.growing.add_trigger(self.body)


def _check_form(arguments: Arguments, keyword: str) -> None:
    cls = REGISTRY.get(keyword)
    if cls is None:
        return
    written = arguments.rest.text[: len(keyword)]
    blank = _SEPARATOR.match(arguments.rest.text, len(keyword))
    start = arguments.rest.start + (blank.end() if blank else len(keyword))
    line = replace(arguments.line, keyword=written, arguments_start=start)
    body = parse_arguments(cls.shape, line, arguments.escape)
    if keyword in _PAIRS and body.words:
        split_pairs(body)
