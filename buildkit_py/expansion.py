"""`$VAR` and `${VAR:-word}` expansion, quote removal and word splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.word_scanner import ExpansionError, Mode, Scanner

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Expander",
    "Expansion",
    "ExpansionError",
    "Mode",
    "Scanner",
    "expand",
    "expand_words",
    "referenced_names",
    "split_words",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """An expanded text; `used` and `unset` name the variables that it asked for."""

    text: str
    used: frozenset[str] = frozenset()
    unset: frozenset[str] = frozenset()


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> Expansion:
    """Expand one word: variables replaced, quotes and escapes removed. Raises ExpansionError."""
    scanner = Scanner(text, variables, Mode(escape=escape))
    scanner.run()
    return Expansion(
        text=scanner.text(), used=frozenset(scanner.used), unset=frozenset(scanner.unset)
    )


def expand_words(
    text: str, variables: Mapping[str, str], *, escape: str = "\\"
) -> tuple[str, ...]:
    """Expand, then split at blanks that no quote protects. Raises ExpansionError."""
    scanner = Scanner(text, variables, Mode(escape=escape))
    scanner.run()
    return scanner.words()


def split_words(text: str, mode: Mode) -> tuple[str, ...]:
    """The words of a text without any variables. Raises ExpansionError."""
    scanner = Scanner(text, {}, mode)
    scanner.run()
    return scanner.words()


def referenced_names(text: str, *, escape: str = "\\") -> frozenset[str]:
    """The variables that a word mentions; empty for a word that does not parse."""
    scanner = Scanner(text, {}, Mode(escape=escape, keep_unset=True))
    try:
        scanner.run()
    except ExpansionError:
        return frozenset()
    return frozenset(scanner.unset)


class Expander:
    """Expands the words of instructions in one environment; collects the names asked for."""

    def __init__(self, variables: Mapping[str, str], *, escape: str = "\\") -> None:
        self.variables = variables
        self.escape = escape
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def word(self, text: str) -> str:
        """One word, quotes removed. Raises ExpansionError."""
        return self._run(text, Mode(escape=self.escape)).text()

    def words(self, text: str) -> tuple[str, ...]:
        """A text that may become several words. Raises ExpansionError."""
        return self._run(text, Mode(escape=self.escape)).words()

    def heredoc(self, body: str) -> str:
        r"""The body of a here-document: quotes are text, escapes are `\` always."""
        return self._run(body, Mode(quotes=False)).text()

    def _run(self, text: str, mode: Mode) -> Scanner:
        scanner = Scanner(text, self.variables, mode)
        try:
            scanner.run()
        finally:
            self.used |= scanner.used
            self.unset |= scanner.unset
        return scanner
