"""The `key=value …` grammar that ENV and LABEL share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.errors import SyntaxProblem
from buildkit_py.instructions.base import at_least_one
from buildkit_py.instructions.gotext import quoted

if TYPE_CHECKING:
    from buildkit_py.expansion import Expander
    from buildkit_py.syntax import Arguments

_BLANKS = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A key and a value, as written until they are expanded."""

    key: str
    value: str


def parse_pairs(arguments: Arguments) -> tuple[tuple[Pair, ...], bool]:
    """The pairs, and whether they are in the old form `KEY rest of line`. Raises SyntaxProblem."""
    at_least_one(arguments)
    pairs, legacy = split_pairs(arguments)
    for pair, word in zip(pairs, arguments.words, strict=False):
        if not pair.key:
            keyword = arguments.line.keyword.upper()
            raise SyntaxProblem(f"{keyword} names can not be blank", span=arguments.span(word))
    return pairs, legacy


def split_pairs(arguments: Arguments) -> tuple[tuple[Pair, ...], bool]:
    """As `parse_pairs` of a line that has words, without a look at the keys."""
    keyword = arguments.line.keyword.upper()
    if "=" not in arguments.words[0].text:
        parts = _BLANKS.split(arguments.rest.text, maxsplit=1)
        if len(parts) < 2:
            raise SyntaxProblem(f"{keyword} must have two arguments", span=arguments.operands_span)
        return (Pair(key=parts[0], value=parts[1]),), True
    pairs = []
    for word in arguments.words:
        key, equals, value = word.text.partition("=")
        if not equals:
            raise SyntaxProblem(
                f"Syntax error - can't find = in {quoted(word.text)}."
                " Must be of the form: name=value",
                span=arguments.span(word),
            )
        pairs.append(Pair(key=key, value=value))
    return tuple(pairs), False


def expand_pairs(pairs: tuple[Pair, ...], expander: Expander) -> tuple[Pair, ...]:
    """Keys and values expanded, all in the environment before the instruction."""
    return tuple(
        Pair(key=expander.word(pair.key), value=expander.word(pair.value)) for pair in pairs
    )


def history(keyword: str, pairs: tuple[Pair, ...]) -> str:
    """`ENV k=v k2=v2`."""
    return " ".join([keyword, *(f"{pair.key}={pair.value}" for pair in pairs)])
