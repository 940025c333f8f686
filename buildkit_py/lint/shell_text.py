"""Splits the shell text of a RUN into simple commands, as far as rules need it.

This is no shell parser: quotes, separators, assignments and the usual keywords are known, the
rest is taken as words.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from buildkit_py.instructions.base import Instruction
from buildkit_py.instructions.run import Run
from buildkit_py.lint.rule import Subject
from buildkit_py.syntax import ExecForm

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r]+)|(?P<comment>(?<![^\s;&|(])\#[^\n]*)"""
    r"""|(?P<break>&&|\|\||;;|\|&|[;&|\n(){}])"""
    r"""|(?P<word>(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|\$\([^()]*\)|\$\{[^{}]*\}|[^\s;&|(){}'"\\]"""
    r"""|[{}](?=[^\s;])|['"\\])+)""",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_KEYWORDS = frozenset("if then elif else fi for while until do done case esac ! time".split())
_PREFIXES = frozenset({"exec", "command", "env", "nohup", "nice", "builtin"})
_QUOTES = re.compile(r"\\(.)|(['\"])", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellCommand:
    """A program and its words. `piped` says that a `|` follows."""

    name: str
    words: tuple[str, ...]
    piped: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """The words that are no options."""
        return tuple(word for word in self.words if not word.startswith("-"))

    def has_flag(self, *flags: str) -> bool:
        """Whether an option is given: `--yes`, or `-y`, alone or among joined letters."""
        for word in self.words:
            name = word.partition("=")[0]
            if name in flags:
                return True
            if word.startswith("-") and not word.startswith("--"):
                letters = {f"-{letter}" for letter in word[1:]}
                if letters.intersection(flags):
                    return True
        return False

    def is_(self, name: str, *subcommands: str) -> bool:
        """Whether this is a program, with one of the subcommands as an operand."""
        if self.name != name:
            return False
        return not subcommands or any(word in subcommands for word in self.operands[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunText:
    """The commands of one RUN and where to tell of it."""

    stage: int
    run: Run
    at: Instruction
    commands: tuple[ShellCommand, ...]


def runs(subject: Subject) -> Iterator[RunText]:
    """Every RUN of the stages looked into."""
    for stage in subject.stages:
        for position, item in enumerate(stage.instructions):
            if isinstance(item, Run):
                at = stage.from_ if position < stage.trigger_count else item
                yield RunText(stage=stage.index, run=item, at=at, commands=commands_of(item))


def commands_of(run: Run) -> tuple[ShellCommand, ...]:
    """The commands of a RUN, its here-documents for the shell included."""
    if isinstance(run.command, ExecForm):
        words = run.command.arguments
        if len(words) == 3 and words[1] == "-c":
            return split_commands(words[2])
        return (ShellCommand(name=posixpath.basename(words[0]), words=words[1:]),) if words else ()
    text = run.command.text
    if run.heredocs and text.lstrip().startswith("<<"):
        text = "\n".join(document.content for document in run.heredocs)
    return split_commands(text)


def split_commands(text: str) -> tuple[ShellCommand, ...]:
    """The simple commands of a text, in order."""
    text = text.replace("\\\n", " ")
    found: list[ShellCommand] = []
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "word":
            words.append(_unquoted(match.group()))
        elif match.lastgroup == "break":
            _finish(words, found, piped=match.group() in {"|", "|&"})
            words = []
    _finish(words, found, piped=False)
    return tuple(found)


def _finish(words: list[str], found: list[ShellCommand], *, piped: bool) -> None:
    start = 0
    while start < len(words) and (
        words[start] in _KEYWORDS or words[start] in _PREFIXES or _ASSIGNMENT.match(words[start])
    ):
        start += 1
    if start < len(words):
        name = posixpath.basename(words[start])
        found.append(ShellCommand(name=name, words=tuple(words[start + 1 :]), piped=piped))


def _unquoted(word: str) -> str:
    return _QUOTES.sub(lambda match: match.group(1) or "", word)
