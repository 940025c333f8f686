"""Dockerfile text in one layout: casing, indentation and blank lines; comments and words stay.

Keywords are upper-case, continuation lines are indented by four blanks, empty continuation lines
go, more than one blank line between instructions becomes one. Here-documents and everything within
quotes stay as they are. An instruction whose meaning would change is left alone: each is parsed
before and after, and shell text may differ only in the width of its blanks.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.dockerfile import parse
from buildkit_py.errors import DockerfileError
from buildkit_py.heredocs import BLANKS
from buildkit_py.instructions import parse_instruction
from buildkit_py.instructions.cmd import Cmd
from buildkit_py.instructions.entrypoint import Entrypoint
from buildkit_py.instructions.healthcheck import HealthCheck
from buildkit_py.instructions.onbuild import OnBuild
from buildkit_py.instructions.run import Run
from buildkit_py.lines import LogicalLine, continuation, split_lines
from buildkit_py.source import SourceFile
from buildkit_py.syntax import ShellForm

if TYPE_CHECKING:
    from buildkit_py.instructions.base import Instruction

INDENT = "    "
_RUNS = re.compile(r"[ \t]+")
_FROM_AS = re.compile(r"(\s)as(\s+\S+\s*)\Z", re.IGNORECASE)
_ONBUILD = re.compile(r"(ONBUILD\s+)([A-Za-z]+)", re.IGNORECASE)
_ROUNDS = 3  # a line that holds the escape character alone settles in the second
_EXACT = frozenset({"MAINTAINER", "USER", "WORKDIR", "STOPSIGNAL"})


def format_dockerfile(source: SourceFile) -> str:
    """The file in the common layout. Raises DockerfileErrors where it does not parse."""
    dockerfile = parse(source)
    split = split_lines(source)
    out: list[str] = []
    physical = source.text.removeprefix("\ufeff").split("\n")
    position = 0  # index of the next physical line
    for line in split.lines:
        out += _between(physical[position : line.first - 1], head=not out)
        out.append(_instruction(line, physical, dockerfile.escape))
        out += physical[line.last_of_text : line.last]
        position = line.last
    out += _between(physical[position:])
    while out and not out[-1]:
        out.pop()
    return "\n".join(out) + "\n"


def _between(lines: list[str], *, head: bool = False) -> list[str]:
    """Comments and blank lines between instructions: one blank line at most, none at the head."""
    out: list[str] = []
    for line in lines:
        stripped = line.strip(BLANKS)
        if stripped or (out[-1] if out else not head):
            out.append(stripped)
    return out


# ------------------------------------------------------------------ one instruction
def _instruction(line: LogicalLine, physical: list[str], escape: str) -> str:
    written = [text.rstrip("\r") for text in physical[line.first - 1 : line.last_of_text]]
    original = "\n".join(written)
    if line.keyword.upper() in _EXACT and len(written) > 1:
        return original
    formatted = _layout(line, written, escape)
    for _ in range(_ROUNDS if len(written) > 2 else 0):
        before, formatted = formatted, _layout(line, formatted.split("\n"), escape)
        if before == formatted:
            break
    return formatted if _same_meaning(original, formatted, line, escape) else original


def _layout(line: LogicalLine, written: list[str], escape: str) -> str:
    continued = continuation(escape)
    quotes = _Quotes(json=line.arguments.startswith("["))
    out: list[str] = []
    joint = ""  # blanks before the escape character of the line above
    opened = True
    for index, text in enumerate(written):
        stripped = text.strip(BLANKS)
        if index and (not stripped or stripped.startswith("#")):
            if stripped:
                out.append(INDENT + stripped)
            continue
        match = continued.search(text)
        body = text[: match.start()] if match else text.rstrip(BLANKS)
        free = not quotes.inside
        lead = body[: len(body) - len(body.lstrip(" \t"))]
        if opened:
            body = _head(body.lstrip(BLANKS), line)
        elif free and (joint or lead):
            body = INDENT + body.lstrip(" \t")
        quotes.feed(body)
        bare = body.rstrip(" \t")
        joint = body[len(bare) :]
        if match and not quotes.inside and not bare.endswith("\\"):
            follower = _next_lead(written, index)
            body = f"{bare} " if joint or follower else bare
            joint = " " if joint or follower else ""
        out.append(body + escape if match else body.rstrip(" \t") if free else body)
        opened = opened and not body.strip(BLANKS)
    return "\n".join(out)


def _next_lead(written: list[str], index: int) -> str:
    """The blanks that the next line of content begins with."""
    for text in written[index + 1 :]:
        stripped = text.strip(BLANKS)
        if stripped and not stripped.startswith("#"):
            return text[: len(text) - len(text.lstrip(" \t"))]
    return ""


def _head(body: str, line: LogicalLine) -> str:
    """The first line: keyword in capitals, one blank, FROM's AS in capitals."""
    keyword = body[: len(line.keyword)]
    rest = body[len(keyword) :]
    if rest.strip(BLANKS):
        rest = " " + rest.lstrip(BLANKS)
    body = keyword.upper() + rest
    if keyword.upper() == "FROM":
        body = _FROM_AS.sub(r"\1AS\2", _RUNS.sub(" ", body))
    elif keyword.upper() == "ONBUILD":
        body = _ONBUILD.sub(lambda m: m.group(1) + m.group(2).upper(), body, count=1)
    return body


class _Quotes:
    """Follows the quotes of shell text (or of JSON) from line to line."""

    def __init__(self, *, json: bool) -> None:
        self._json = json
        self._stack: list[str] = []

    @property
    def inside(self) -> bool:
        """Whether the text so far ends within quotes."""
        return any(kind in "\"'" for kind in self._stack)

    def feed(self, text: str) -> None:
        """Go on with the next piece of text."""
        index = 0
        while index < len(text):
            character = text[index]
            top = self._stack[-1] if self._stack else ""
            if top == "'":
                if character == "'":
                    self._stack.pop()
            elif character == "\\":
                index += 1
            elif character == '"':
                self._toggle('"')
            elif not self._json:
                index += self._shell(character, text[index : index + 2], top)
            index += 1

    def _shell(self, character: str, pair: str, top: str) -> int:
        if character == "'" and top != '"':
            self._stack.append("'")
        elif character == "`":
            self._toggle("`")
        elif pair == "$(":
            self._stack.append("(")
            return 1
        elif character == "(" and top != '"':
            self._stack.append("(")
        elif character == ")" and top == "(":
            self._stack.pop()
        return 0

    def _toggle(self, kind: str) -> None:
        if self._stack and self._stack[-1] == kind:
            self._stack.pop()
        else:
            self._stack.append(kind)


# ------------------------------------------------------------------ proof
def _same_meaning(before: str, after: str, line: LogicalLine, escape: str) -> bool:
    if before == after:
        return True
    one, other = (_parsed(text, line, escape) for text in (before, after))
    return one is not None and one == other


def _parsed(text: str, line: LogicalLine, escape: str) -> Instruction | None:
    bodies = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in line.heredocs)
    split = split_lines(SourceFile(name="", text=text + bodies), escape=escape)
    if len(split.lines) != 1 or split.problems:
        return None
    try:
        return _loose(parse_instruction(split.lines[0], escape))
    except DockerfileError:
        return None


def _loose(instruction: Instruction) -> Instruction:
    """Shell text with blanks of one width."""
    if isinstance(instruction, (Run, Cmd, Entrypoint, HealthCheck)):
        command = instruction.command
        if isinstance(command, ShellForm):
            narrow = ShellForm(text=_RUNS.sub(" ", command.text))
            return replace(instruction, command=narrow)
    if isinstance(instruction, OnBuild):
        keyword, _, rest = _RUNS.sub(" ", instruction.body).partition(" ")
        return replace(instruction, body=f"{keyword.upper()} {rest}")
    return instruction
