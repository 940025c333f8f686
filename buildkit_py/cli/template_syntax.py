"""Go's text/template as a tree: text and actions, pipelines of commands, operands.

    {{range $index, $name := .RepoTags}}{{if $index}}, {{end}}{{$name | printf "%q"}}{{end}}

Everything of the language is here but comments with code after them and complex numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from buildkit_py.cli.template_functions import FUNCTIONS
from buildkit_py.errors import UsageError

_ACTION = re.compile(
    r"""\{\{(?P<left>-(?=\s))?\s*
        (?P<body>/\*.*?\*/|(?:"(?:[^"\\]|\\.)*"|`[^`]*`|(?!\}\}|\s-\}\}).)*?)
        \s*(?P<right>(?<=\s)-)?\}\}""",
    re.DOTALL | re.VERBOSE,
)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)
      | (?P<number>[+-]?\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?\b)
      | (?P<chain>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>:=|[=|(),])
    )""",
    re.VERBOSE,
)
_BLOCKS = frozenset(("if", "range", "with"))


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant."""

    value: object


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of something: of the current value (`.`), a variable (`$x`), or a pipeline."""

    base: str | Pipe
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name."""

    name: str


Operand: TypeAlias = Literal | Chain | Function


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands; each gives its result to the next as last argument. `names` take the result."""

    commands: tuple[tuple[Operand, ...], ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """What is printed as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Value:
    """An action that prints its result, unless it goes to a variable."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Block:
    """`if`, `range` or `with`."""

    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    kind: str


@dataclass(frozen=True, slots=True)
class Include:
    """`template "name" pipeline`."""

    name: str
    pipe: Pipe | None


Node: TypeAlias = Text | Value | Block | Jump | Include


@dataclass(frozen=True, slots=True)
class Template:
    """The nodes of a template, and those that it defines by name."""

    nodes: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]]


def parse_template(text: str) -> Template:
    """Check and prepare a template. Raises UsageError."""
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    parser = _Parser(_pieces(text))
    nodes, stop = parser.nodes()
    if stop:
        raise _error(f"unexpected {{{{{stop}}}}}")
    return Template(nodes, parser.defined)


def _pieces(text: str) -> list[tuple[bool, str]]:
    """Texts and actions (True) in turn, with blanks trimmed where `{{-` and `-}}` say so."""
    out: list[tuple[bool, str]] = []
    position, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[position : match.start()]
        before = before.lstrip() if trim else before
        out.append((False, before.rstrip() if match["left"] else before))
        out.append((True, match["body"]))
        position, trim = match.end(), bool(match["right"])
    rest = text[position:]
    if "{{" in rest:
        raise _error(f"unclosed action in {text!r}")
    out.append((False, rest.lstrip() if trim else rest))
    return out


class _Parser:
    def __init__(self, pieces: Sequence[tuple[bool, str]]) -> None:
        self._pieces = pieces
        self._at = 0
        self.defined: dict[str, tuple[Node, ...]] = {}

    def nodes(self) -> tuple[tuple[Node, ...], str]:
        """Nodes up to `else` or `end`, and what ended them ("" at the very end)."""
        out: list[Node] = []
        while self._at < len(self._pieces):
            action, text = self._pieces[self._at]
            self._at += 1
            if not action:
                out.append(Text(text))
                continue
            if text.startswith("/*"):
                continue
            word = re.match(r"[a-z]*", text)
            keyword = word.group() if word else ""
            if keyword in {"end", "else"}:
                return tuple(out), text
            node = self._action(keyword, text)
            if node is not None:
                out.append(node)
        return tuple(out), ""

    def _action(self, keyword: str, text: str) -> Node | None:
        rest = text[len(keyword) :]
        if keyword in _BLOCKS:
            return self._block(keyword, rest)
        if keyword in {"break", "continue"}:
            return Jump(keyword)
        if keyword in {"define", "block", "template"}:
            match = re.fullmatch(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`)(.*)', rest, re.DOTALL)
            if match is None:
                raise _error(f"{keyword} needs a name in quotes")
            name = str(_constant(match[1]))
            pipe = parse_pipe(match[2]) if match[2].strip() else None
            if keyword != "template":
                self.defined[name] = self._body(keyword)[0]
            return None if keyword == "define" else Include(name, pipe)
        return Value(parse_pipe(text))

    def _block(self, kind: str, text: str) -> Block:
        pipe = parse_pipe(text)
        body, stop = self._body(kind)
        otherwise: tuple[Node, ...] = ()
        if stop.startswith("else"):
            chained = re.match(r"else\s+(if|with)\b", stop)
            if chained is not None:  # shares the end of this block
                otherwise = (self._block(chained[1], stop[chained.end() :]),)
            else:
                otherwise, stop = self._body(kind)
                if stop != "end":
                    raise _error("expected end; found {{else}}")
        return Block(kind, pipe, body, otherwise)

    def _body(self, kind: str) -> tuple[tuple[Node, ...], str]:
        nodes, stop = self.nodes()
        if not stop:
            raise _error(f"unexpected EOF: {{{{end}}}} of {kind} is missing")
        return nodes, stop


def parse_pipe(text: str) -> Pipe:
    """A pipeline, perhaps given to variables. Raises UsageError."""
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _error(f"unexpected {text[position:].strip()[:1]!r} in action")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    names: list[str] = []
    marks = [value for kind, value in tokens if kind == "mark"]
    if ":=" in marks or "=" in marks:
        end = next(i for i, token in enumerate(tokens) if token in _ASSIGNS)
        names = [value for kind, value in tokens[:end] if kind == "chain"]
        tokens = tokens[end + 1 :]
    pipe, rest = _commands(tokens, 0)
    if rest < len(tokens):
        raise _error("unexpected right paren")
    return Pipe(pipe.commands, tuple(names))


_ASSIGNS = (("mark", ":="), ("mark", "="))


def _commands(tokens: Sequence[tuple[str, str]], at: int) -> tuple[Pipe, int]:
    commands: list[tuple[Operand, ...]] = []
    current: list[Operand] = []
    while at < len(tokens) and tokens[at] != ("mark", ")"):
        kind, value = tokens[at]
        at += 1
        if (kind, value) == ("mark", "|"):
            commands.append(tuple(current))
            current = []
        elif (kind, value) == ("mark", "("):
            pipe, at = _commands(tokens, at)
            if at >= len(tokens):
                raise _error("unclosed left paren")
            at += 1
            fields: tuple[str, ...] = ()
            if at < len(tokens) and tokens[at][0] == "chain" and tokens[at][1].startswith("."):
                fields = _fields(tokens[at][1])
                at += 1
            current.append(Chain(pipe, fields))
        elif kind == "mark":
            raise _error(f"unexpected {value!r} in action")
        else:
            current.append(_operand(kind, value))
    commands.append(tuple(current))
    if any(not command for command in commands):
        raise _error("missing value for command")
    return Pipe(tuple(commands)), at


def _operand(kind: str, value: str) -> Operand:
    if kind == "chain":
        base = value.partition(".")[0] or "."
        return Chain(base, _fields(value.removeprefix("$") if base == "$" else value))
    if kind == "word" and value in {"true", "false", "nil"}:
        return Literal({"true": True, "false": False, "nil": None}[value])
    if kind == "word" and value not in FUNCTIONS:
        raise _error(f'function "{value}" not defined')
    return Function(value) if kind == "word" else Literal(_constant(value))


def _fields(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(".")[1:] if name)


def _constant(text: str) -> object:
    if text.startswith("`"):
        return text[1:-1]
    if text.startswith('"'):
        try:
            return json.loads(text, strict=False)
        except ValueError as error:
            raise _error(f"bad string {text}") from error
    number = text.replace("_", "")
    return int(number) if number.lstrip("+-").isdigit() else float(number)


def _error(message: str) -> UsageError:
    return UsageError(f"template parsing error: {message}")
