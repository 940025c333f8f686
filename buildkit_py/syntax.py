"""Runs `grammar.lark` over the arguments of one logical line; the only user of lark.

Plain forms (no escapes, no unbalanced quotes) are the bulk of every file and are recognised by one
regular expression, so that a common Dockerfile needs no parser at all; everything else goes
through the grammar. Both ways give the same tokens (a property test compares them).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from buildkit_py.errors import SyntaxProblem
from buildkit_py.heredocs import BLANKS, NotStrings, parse_json_array

if TYPE_CHECKING:
    from buildkit_py.heredocs import Heredoc
    from buildkit_py.lines import LogicalLine
    from buildkit_py.source import Span

_NOT_STRINGS = "when using JSON array syntax, arrays must be comprised of strings only"
_CACHED_LENGTH = 2000
MAX_WORDS = 500_000
"""Operands of one instruction: no person writes so many, and each costs memory."""


class Shape(StrEnum):
    """The argument syntax of an instruction; the value is a start rule of the grammar."""

    COMMAND = "command"  # JSON array or text
    TEXT = "text"  # text alone
    PATHS = "paths"  # JSON array or words
    WORDS = "words"
    PAIRS = "pairs"
    CHECK = "check"  # type, then JSON array or text


_RULES = {
    Shape.COMMAND: "command",
    Shape.TEXT: "command",
    Shape.PATHS: "words",
    Shape.WORDS: "words",
    Shape.PAIRS: "pairs",
    Shape.CHECK: "check",
}
_JSON_SHAPES = frozenset({Shape.COMMAND, Shape.PATHS, Shape.CHECK})
_WORD_SHAPES = frozenset({Shape.PATHS, Shape.WORDS, Shape.PAIRS})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellForm:
    """A command as text for the shell."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecForm:
    """A command as an argument list."""

    arguments: tuple[str, ...]


Command: TypeAlias = ShellForm | ExecForm


class Flag(NamedTuple):
    """`--name[=value]`, unquoted; `start` and `end` are offsets in the line's text."""

    name: str
    value: str | None
    start: int
    end: int


class Word(NamedTuple):
    """An operand as written; `start` and `end` are offsets in the line's text."""

    text: str
    start: int
    end: int


_NO_WORD = Word(text="", start=0, end=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The parsed arguments of a line. `json` replaces `words` where the operands are an array.

    `rest` is everything behind the flags (and behind the type of HEALTHCHECK).
    """

    line: LogicalLine
    escape: str
    flags: tuple[Flag, ...] = ()
    words: tuple[Word, ...] = ()
    json: tuple[str, ...] | None = None
    rest: Word = _NO_WORD

    @property
    def heredocs(self) -> tuple[Heredoc, ...]:
        """The line's here-documents."""
        return self.line.heredocs

    @property
    def operands(self) -> tuple[str, ...]:
        """The words, or the strings of the array."""
        return tuple(word.text for word in self.words) if self.json is None else self.json

    @property
    def command(self) -> Command:
        """The operands as a command."""
        if self.json is not None:
            return ExecForm(arguments=self.json)
        return ShellForm(text=self.rest.text)

    def span(self, token: Flag | Word) -> Span:
        """Where a token stands in the file."""
        return self.line.part(token.start, token.end)

    @property
    def keyword_span(self) -> Span:
        """Where the keyword stands in the file."""
        return self.line.part(0, len(self.line.keyword))

    @property
    def operands_span(self) -> Span:
        """Where the operands stand; the keyword if there are none."""
        words = self.words
        if words:
            return self.line.part(words[0].start, words[-1].end)
        return self.span(self.rest) if self.rest.text else self.keyword_span


# (kind, text, start, end) with offsets in the arguments
_Token: TypeAlias = tuple[str, str, int, int]


def parse_arguments(shape: Shape, line: LogicalLine, escape: str) -> Arguments:
    """Parse what follows the keyword. Raises SyntaxProblem."""
    text = line.arguments
    base = line.arguments_start
    if shape in _WORD_SHAPES and len(text) > MAX_WORDS and len(text.split()) > MAX_WORDS:
        message = f"more than {MAX_WORDS} words in one instruction"
        raise SyntaxProblem(message, span=line.span)
    tokens = _tokens(shape, text, escape, line)
    flags = tuple(_flag(token, base) for token in tokens if token[0] == "FLAG")
    words = tuple(
        Word(text=word, start=base + start, end=base + end)
        for kind, word, start, end in tokens
        if kind not in {"FLAG", "END_OF_FLAGS"}
    )
    rest = _rest(shape, text, base, tokens)
    array = None
    if shape in _JSON_SHAPES and rest.text.startswith("["):
        try:
            array = parse_json_array(rest.text)
        except NotStrings:
            raise SyntaxProblem(_NOT_STRINGS, span=line.part(rest.start, rest.end)) from None
    if array is not None:
        words = tuple(word for word in words if word.start < rest.start)
    return Arguments(line=line, escape=escape, flags=flags, words=words, json=array, rest=rest)


def _tokens(shape: Shape, text: str, escape: str, line: LogicalLine) -> tuple[_Token, ...]:
    rule = _RULES[shape]
    try:
        if len(text) > _CACHED_LENGTH:
            return _scan(rule, text, escape)
        return _scan_cached(rule, text, escape)
    except _Unreadable as error:
        at = line.arguments_start + error.position
        raise SyntaxProblem(
            f"cannot read the arguments of {line.keyword.upper()}", span=line.part(at, at + 1)
        ) from None


def _rest(shape: Shape, text: str, base: int, tokens: tuple[_Token, ...]) -> Word:
    """The text behind the flags; for HEALTHCHECK, behind its type."""
    operands = [token for token in tokens if token[0] not in {"FLAG", "END_OF_FLAGS"}]
    if shape is Shape.CHECK:
        operands = operands[1:]
    start = operands[0][2] if operands else len(text)
    return Word(text=text[start:], start=base + start, end=base + len(text))


def _flag(token: _Token, base: int) -> Flag:
    _, text, start, end = token
    if "'" in text or '"' in text or "\\" in text:
        text = _unquote(text)
    name, equals, value = text[2:].partition("=")
    return Flag(name=name, value=value if equals else None, start=base + start, end=base + end)


def _unquote(text: str) -> str:
    """Quotes and escapes of a flag word removed; both kinds of quotes know the escape.

    That is a backslash always: the reference builder reads flags before it looks at directives.
    """
    out: list[str] = []
    quote = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            out.append(next(characters, ""))
        elif quote:
            if character == quote:
                quote = ""
            else:
                out.append(character)
        elif character in "'\"":
            quote = character
        else:
            out.append(character)
    return "".join(out)


# ------------------------------------------------------------------ plain forms
_BLANK = "[" + BLANKS + "]"
_PLAIN_FLAG = re.compile(rf"--[A-Za-z][\w-]*+(?:=[\w.,/=:@+$%{{}}~*-]*+)?+(?={_BLANK}|\Z)")
_PLAIN_OPERAND = {
    "words": re.compile(r"[^\t\v\f\r ]++"),
    "pairs": re.compile(rf"""(?:[^{BLANKS}"'\\`]|"[^"\\`]*+"|'[^']*+')++(?={_BLANK}|\Z)"""),
}
_TYPE = re.compile(rf"[^{BLANKS}]++")
_SKIP = re.compile(rf"{_BLANK}*+")
_ASCII_BLANKS = re.compile(r"[\t\v\f\r ]*+")  # what separates words; the others are part of them


def _skip(text: str, position: int) -> int:
    match = _SKIP.match(text, position)
    return match.end() if match else position


def _plain(rule: str, text: str) -> tuple[_Token, ...] | None:
    """The tokens of a plain line; None where the grammar must decide."""
    tokens: list[_Token] = []
    position = _skip(text, 0)
    while text.startswith("--", position):
        match = _PLAIN_FLAG.match(text, position)
        if not match:
            return None
        tokens.append(("FLAG", match.group(), match.start(), match.end()))
        position = _skip(text, match.end())
    if rule == "check":
        match = _TYPE.match(text, position)
        if match:
            tokens.append(("TYPE", match.group(), match.start(), match.end()))
            position = _skip(text, match.end())
    if rule in {"check", "command"}:
        if position < len(text):
            tokens.append(("TEXT", text[position:], position, len(text)))
        return tuple(tokens)
    operand = _PLAIN_OPERAND[rule]
    blanks = _ASCII_BLANKS if rule == "words" else _SKIP
    while position < len(text):
        match = operand.match(text, position)
        if not match:
            return None
        tokens.append(("WORD", match.group(), match.start(), match.end()))
        behind = blanks.match(text, match.end())
        position = behind.end() if behind else len(text)
    return tuple(tokens)


# ------------------------------------------------------------------ the grammar
class _Unreadable(Exception):
    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


def _scan(rule: str, text: str, escape: str) -> tuple[_Token, ...]:
    plain = _plain(rule, text)
    return plain if plain is not None else scan_by_grammar(rule, text, escape)


_scan_cached = lru_cache(maxsize=4096)(_scan)


def scan_by_grammar(rule: str, text: str, escape: str) -> tuple[_Token, ...]:
    """The tokens of a text according to `grammar.lark`. Raises SyntaxProblem's cause."""
    from lark.exceptions import UnexpectedInput

    try:
        tree = _parser(rule, escape).parse(text)
    except UnexpectedInput as error:
        raise _Unreadable(max(0, getattr(error, "pos_in_stream", None) or 0)) from None
    kinds = {"QUOTED_WORD": "WORD"}
    return tuple(
        (
            kinds.get(token.type, token.type),
            _trimmed(token, escape),
            token.start_pos,
            token.end_pos,
        )
        for token in tree.scan_values(lambda _: True)
    )


def _trimmed(token: Any, escape: str) -> str:
    """A quoted word loses an escape character that stands at the very end of the line."""
    text = str(token)
    if token.type != "QUOTED_WORD" or not text.endswith(escape):
        return text
    count = len(text) - len(text.rstrip(escape))
    return text[:-1] if count % 2 else text


@cache
def _parser(rule: str, escape: str) -> Any:
    from importlib.resources import files  # noqa: PLC0415  (with lark, off the start-up path)

    from lark import Lark

    grammar = files("buildkit_py").joinpath("grammar.lark").read_text("utf-8")
    class_form = r"\t\n\v\f\r " + ("" if rule == "words" else r"\x85\xa0")
    for name, pattern in (
        ("NOT_SPACE", f"[^{class_form}]"),
        ("SPACES", class_form),
        ("SPACE", f"[{class_form}]"),
        ("ESC", re.escape(escape)),
    ):
        grammar = _fill(grammar, name, pattern)
    return Lark(grammar, start=rule, parser="lalr", lexer="contextual", keep_all_tokens=True)


def _fill(grammar: str, name: str, pattern: str) -> str:
    """Replace a placeholder inside regular expressions only (comments keep the word)."""
    lines = grammar.splitlines()
    return "\n".join(
        line if line.startswith("//") else line.replace(name, pattern) for line in lines
    )
