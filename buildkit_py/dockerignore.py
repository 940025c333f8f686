"""Ignore patterns: the file's lines, compiled and matched (the rules of moby/patternmatcher).

Patterns apply in order and the last one that matches a path, or any of its parents, decides. What
matches a directory is remembered as one bit a pattern, so a walk asks about each name only once.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field

from buildkit_py.errors import PybuildError

_BLANKS = " \t\n\v\f\r\x85\xa0"
_REMEMBERED = 1 << 16
_BACKTRACKING_LIMIT = 3  # more wildcards than this are matched by states, not by `re`


class IgnoreError(PybuildError):
    """A pattern that cannot be read."""


def read_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a `.dockerignore`: comments dropped, paths cleaned, `!` kept."""
    patterns = []
    for raw in text.removeprefix("\ufeff").split("\n"):
        line = raw.strip(_BLANKS)
        if raw.startswith("#") or not line:
            continue
        exception = line.startswith("!")
        if exception:
            line = line[1:].strip(_BLANKS)
        if line:
            line = posixpath.normpath(line)
            line = line[1:] if line.startswith("//") else line
            if len(line) > 1 and line.startswith("/"):
                line = line[1:]
        patterns.append("!" + line if exception else line)
    return tuple(patterns)


class IgnoreMatcher:
    """Compiled patterns. Paths are relative, with `/`, without a trailing one."""

    def __init__(self, patterns: tuple[str, ...] | list[str]) -> None:
        """Compile. Raises IgnoreError."""
        self._patterns = [p for p in map(_compile, patterns) if p is not None]
        self._literal: dict[str, int] = {}
        self._others: list[tuple[int, _Pattern]] = []
        for index, pattern in enumerate(self._patterns):
            if pattern.is_literal:
                self._literal[pattern.text] = self._literal.get(pattern.text, 0) | 1 << index
            else:
                self._others.append((1 << index, pattern))
        self.has_exceptions = any(pattern.exception for pattern in self._patterns)
        self._exceptions = [p for p in self._patterns if p.exception]
        self._any_wildcard_exception = any(not p.is_plain for p in self._exceptions)
        self._directories: dict[str, int] = {}

    def excluded(self, path: str) -> bool:
        """Whether the last pattern that matches the path or a parent of it excludes."""
        if not self._patterns or path in {"", "."}:
            return False
        return self._decide(self._mask(path))

    def may_descend(self, path: str) -> bool:
        """Whether a directory can hold anything that is not excluded."""
        if not self.excluded(path):
            return True
        if self._any_wildcard_exception:
            return True
        below = path + "/"
        return any(p.text.startswith(below) or p.text == path for p in self._exceptions)

    def _decide(self, mask: int) -> bool:
        return bool(mask) and not self._patterns[mask.bit_length() - 1].exception

    def _mask(self, path: str) -> int:
        """One bit for each pattern that matches the path or a parent of it."""
        known = 0
        missing = [path]
        parent = path.rpartition("/")[0]
        while parent:
            found = self._directories.get(parent)
            if found is not None:
                known = found
                break
            missing.append(parent)
            parent = parent.rpartition("/")[0]
        for index in range(len(missing) - 1, -1, -1):
            name = missing[index]
            known |= self._own(name)
            if index:
                if len(self._directories) >= _REMEMBERED:
                    self._directories.clear()
                self._directories[name] = known
        return known

    def _own(self, path: str) -> int:
        mask = self._literal.get(path, 0)
        for bit, pattern in self._others:
            if pattern.matches(path):
                mask |= bit
        return mask


# ------------------------------------------------------------------ one pattern
@dataclass(slots=True)
class _Pattern:
    """`text` is cleaned; `prefix` and `suffix` are the two simple uses of `**`."""

    text: str
    exception: bool
    prefix: str | None = None
    suffix: str | None = None
    regex: re.Pattern[str] | None = None
    states: _States | None = None
    is_plain: bool = True  # holds no pattern character at all

    @property
    def is_literal(self) -> bool:
        return not (self.prefix or self.regex or self.states) and self.suffix is None

    def matches(self, path: str) -> bool:
        if self.suffix is not None:
            suffix = self.suffix
            return path.endswith(suffix) or (suffix.startswith("/") and path == suffix[1:])
        if self.prefix is not None:
            return path.startswith(self.prefix)
        if self.regex is not None:
            return self.regex.match(path) is not None
        return self.states is not None and self.states.match(path)


def _compile(written: str) -> _Pattern | None:
    text = written.strip(_BLANKS)
    if not text:
        return None
    text = posixpath.normpath(text)
    exception = text.startswith("!")
    if exception:
        text = text[1:]
        if not text:
            raise IgnoreError('illegal exclusion pattern: "!"')
    _check_syntax(text)
    pattern = _Pattern(text=text, exception=exception)
    pattern.is_plain = not any(character in text for character in "*?[\\")
    if pattern.is_plain:
        return pattern
    if text.startswith("**") and not any(character in text[2:] for character in "*?[]\\"):
        pattern.suffix = text[2:]
    elif text.endswith("**") and not any(character in text[:-2] for character in "*?[]\\"):
        pattern.prefix = text[:-2]
    else:
        tokens = _tokens(text)
        wildcards = sum(token.kind in {"star", "dirs", "all"} for token in tokens)
        if wildcards > _BACKTRACKING_LIMIT:
            pattern.states = _States(tokens)
        else:
            source = "".join(token.regex for token in tokens)
            pattern.regex = re.compile(source + r"\Z", re.DOTALL)
    return pattern


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # literal, one, class, star, dirs, all
    regex: str
    text: str = ""


_FIXED = {
    "one": _Token("one", "[^/]"),
    "star": _Token("star", "[^/]*"),
    "dirs": _Token("dirs", "(?:.*/)?"),
    "all": _Token("all", ".*"),
}


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    index = 0
    while index < len(text):
        character = text[index]
        if text.startswith("**", index):
            index += 2
            index += text.startswith("/", index)
            kind = "dirs" if index < len(text) else "all"
            if not tokens or tokens[-1].kind != kind:
                tokens.append(_FIXED[kind])
            continue
        if character == "[":
            token, index = _class(text, index)
            tokens.append(token)
            continue
        if character == "\\":
            index += 1
            character = text[index]
            tokens.append(_Token("literal", re.escape(character), character))
        elif character in "*?":
            tokens.append(_FIXED["star" if character == "*" else "one"])
        else:
            tokens.append(_Token("literal", re.escape(character), character))
        index += 1
    return tokens


def _class(text: str, start: int) -> tuple[_Token, int]:
    """A checked `[...]`, as a regular expression, and where it ends."""
    index = start + 1
    out = "["
    if text[index] == "^":
        out += "^"
        index += 1
    first = True
    while first or text[index] != "]":
        first = False
        low, index = _class_character(text, index)
        out += re.escape(low)
        if text[index] == "-":
            high, index = _class_character(text, index + 1)
            if high < low:
                raise _bad(text)  # Go compiles the class as a regular expression, which refuses
            out += "-" + re.escape(high)
    out += "]"
    return _Token("class", out, out), index + 1


def _class_character(text: str, index: int) -> tuple[str, int]:
    """One character of a class and the index behind it. Raises IgnoreError."""
    if index >= len(text) or text[index] in "-]":
        raise _bad(text)
    if text[index] == "\\":
        index += 1
        if index >= len(text):
            raise _bad(text)
    if index + 1 >= len(text):
        raise _bad(text)
    return text[index], index + 1


def _check_syntax(text: str) -> None:
    """Go's `filepath.Match` refuses open classes and a trailing backslash."""
    index = 0
    while index < len(text):
        if text[index] == "\\":
            if index + 1 >= len(text):
                raise _bad(text)
            index += 2
        elif text[index] == "[":
            if index + 1 >= len(text):
                raise _bad(text)
            index = _class(text, index)[1]
        else:
            index += 1


def _bad(text: str) -> IgnoreError:
    return IgnoreError(f"syntax error in pattern: {text}")


@dataclass(slots=True)
class _States:
    """A pattern with many wildcards: one bit a state, so no input makes it slow."""

    tokens: list[_Token]
    _classes: dict[int, re.Pattern[str]] = field(default_factory=dict)

    def match(self, path: str) -> bool:
        """Whether the whole path matches."""
        states = self._close(1)
        for character in path:
            states = self._step(states, character)
            if not states:
                return False
        return bool(states >> 2 * len(self.tokens) & 1)

    # state 2i: before token i; state 2i+1: inside the directories of a `**/`
    def _close(self, states: int) -> int:
        for index, token in enumerate(self.tokens):
            if states >> 2 * index & 1 and token.kind in {"star", "dirs", "all"}:
                states |= 1 << 2 * index + 2
                if token.kind == "dirs":
                    states |= 1 << 2 * index + 1
        return states

    def _step(self, states: int, character: str) -> int:
        moved = 0
        for index, token in enumerate(self.tokens):
            here, inside = states >> 2 * index & 1, states >> 2 * index + 1 & 1
            if inside:
                moved |= 1 << 2 * index + 1
                if character == "/":
                    moved |= 1 << 2 * index + 2
            if not here:
                continue
            if token.kind == "all" or (token.kind == "star" and character != "/"):
                moved |= 1 << 2 * index
            elif self._accepts(index, token, character):
                moved |= 1 << 2 * index + 2
        return self._close(moved)

    def _accepts(self, index: int, token: _Token, character: str) -> bool:
        if token.kind == "literal":
            return token.text == character
        if token.kind == "one":
            return character != "/"
        if token.kind != "class":
            return False
        if index not in self._classes:
            self._classes[index] = re.compile(token.text)
        return self._classes[index].match(character) is not None
