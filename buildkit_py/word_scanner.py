"""The scanner behind `expansion.py`: variables, quotes and escapes in one pass over a text.

It works with an explicit stack of open `${...}` and `"..."` over one shared output list: a frame
that keeps its word leaves it where it is, so deep nesting costs no recursion and no copying.
Pattern forms (`${v#p}`, `${v/p/r}`) run a bit-parallel automaton instead of a backtracking match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.globs import GlobError, replace_matches, trim_prefix, trim_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_GROWTH = 16 << 20
_SPECIAL_PARAMETERS = frozenset("@*#?-$!")
_DIGITS = re.compile(r"\d+")
_NAME = re.compile(r"\w+")
_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}


class ExpansionError(PybuildError):
    """A word that cannot be expanded; `variable` is the name at fault, where there is one.

    `required` marks `${name:?message}` of a variable without value; `word` is the whole text.
    """

    def __init__(self, message: str, *, variable: str = "", required: bool = False) -> None:
        super().__init__(message)
        self.variable = variable
        self.required = required
        self.word = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """What the scanner does with quotes, escapes and unset variables."""

    escape: str = "\\"
    quotes: bool = True  # quotes group; else they are ordinary characters
    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False


@dataclass(slots=True)
class _Frame:
    """An open `"`, `${name-`, `${name/` … or the text itself (`stop` is empty)."""

    stop: str
    start: int  # length of the output when it was opened
    raw_escapes: bool
    name: str = ""
    operator: str = ""
    modifier: str = ""  # the operator as written, `:-`
    value: str | None = None
    pattern: str = ""
    replace_all: bool = False
    quoted: bool = False  # a `"` frame


@dataclass(slots=True)
class Scanner:
    """One pass over a text. `run` fills the output; `text` and `words` read it."""

    source: str
    variables: Mapping[str, str]
    mode: Mode
    used: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)
    _out: list[str] = field(default_factory=list)
    _raw: list[bool] = field(default_factory=list)  # True: blanks in the piece do not split
    _at: int = 0
    _size: int = 0
    _stack: list[_Frame] = field(default_factory=list)

    def text(self) -> str:
        """The whole result."""
        return "".join(self._out)

    def words(self) -> tuple[str, ...]:
        """The result split into words; empty ones are dropped."""
        found: list[str] = []
        word: list[str] = []
        for piece, raw in zip(self._out, self._raw, strict=True):
            if raw:
                word.append(piece)
                continue
            for index, part in enumerate(_split_blanks(piece)):
                if index and any(word):
                    found.append("".join(word))
                    word = []
                if part:
                    word.append(part)
        if any(word):
            found.append("".join(word))
        return tuple(found)

    # ------------------------------------------------------------ scanning
    def run(self) -> None:
        """Scan the whole source. Raises ExpansionError."""
        if not _needs_scan(self.source, self.mode):
            self._push(self.source)
            return
        self._stack = [_Frame("", 0, self.mode.keep_escapes)]
        plain = _plain_run(self.mode.escape)
        length = len(self.source)
        try:
            while self._at < length:
                match = plain.match(self.source, self._at)
                if match:
                    self._push(match.group())
                    self._at = match.end()
                else:
                    self._special(self.source[self._at])
            if len(self._stack) > 1:
                raise self._unfinished()
        except ExpansionError as error:
            found = self._outermost(error)
            found.word = self.source
            raise found from None

    def _special(self, character: str) -> None:
        frame = self._stack[-1]
        if character == frame.stop:
            self._at += 1
            self._close(frame)
        elif character == "$":
            self._dollar()
        elif character == self.mode.escape:
            self._escape(frame)
        elif character == '"' and self.mode.quotes:
            self._at += 1
            self._stack.append(_Frame('"', len(self._out), frame.raw_escapes, quoted=True))
            if self.mode.keep_quotes:
                self._push('"', raw=True)
        elif character == "'" and self.mode.quotes and not frame.quoted:
            self._single_quoted()
        else:
            self._at += 1
            self._push(character)

    def _single_quoted(self) -> None:
        end = self.source.find("'", self._at + 1)
        if end < 0:
            self._at = len(self.source)
            raise ExpansionError(
                "unexpected end of statement while looking for matching single-quote"
            )
        keep = 0 if self.mode.keep_quotes else 1
        self._push(self.source[self._at + keep : end + 1 - keep], raw=True)
        self._at = end + 1

    def _escape(self, frame: _Frame) -> None:
        follower = self.source[self._at + 1 : self._at + 2]
        escape = self.mode.escape
        self._at += 2
        if frame.quoted:
            if not follower:
                if frame.raw_escapes:
                    self._push(escape, raw=True)
            elif follower in {'"', "$", escape}:
                self._push((escape if frame.raw_escapes else "") + follower, raw=True)
            else:
                self._at -= 1
                self._push(escape * 2 if frame.raw_escapes else escape, raw=True)
            return
        if frame.raw_escapes:
            self._push(escape, raw=True)
        if follower:
            self._push(follower, raw=True)

    def _dollar(self) -> None:
        self._at += 1
        if self.source[self._at : self._at + 1] != "{":
            name = self._read_name()
            if not name:
                self._push("$", raw=False)
                return
            value = self._look_up(name)
            if value is None:
                value = f"${name}" if self.mode.keep_unset else ""
            self._push(value)
            return
        self._at += 1
        head = self.source[self._at : self._at + 1]
        if not head:
            raise ExpansionError("syntax error: missing '}'")
        if head in "{}:":
            raise ExpansionError("syntax error: bad substitution")
        self._open_braced(self._read_name())

    def _open_braced(self, name: str) -> None:
        operator = self.source[self._at : self._at + 1]
        self._at += 1
        modifier = operator
        if operator == "}":
            value = self._look_up(name)
            if value is None:
                value = f"${{{name}}}" if self.mode.keep_unset else ""
            self._push(value)
            return
        if operator == ":":
            operator = self.source[self._at : self._at + 1]
            self._at += 1
            modifier += operator
        elif not operator or operator not in "+-?#%/":
            if not operator:
                raise ExpansionError("syntax error: missing '}'", variable=name)
            raise _unsupported(modifier, name)
        frame = _Frame("}", len(self._out), operator in {"#", "%", "/"}, name, operator, modifier)
        if operator == "/":
            if modifier == ":/":
                raise _unsupported(modifier, name)
            frame.stop = "/"
            if self.source[self._at : self._at + 1] == "/":
                frame.replace_all = True
                self._at += 1
        self._stack.append(frame)

    def _read_name(self) -> str:
        head = self.source[self._at : self._at + 1]
        if head and head in _SPECIAL_PARAMETERS:
            self._at += 1
            return head
        match = (_DIGITS if head.isdigit() else _NAME).match(self.source, self._at)
        if not match:
            return ""
        self._at = match.end()
        return match.group()

    def _look_up(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.unset if value is None else self.used).add(name)
        return value

    def _push(self, text: str, *, raw: bool = False) -> None:
        self._size += len(text)
        if self._size > _MAX_GROWTH + 4 * len(self.source):
            raise ExpansionError("the expanded text is too long")
        self._out.append(text)
        self._raw.append(raw)

    # ------------------------------------------------------------ closing
    def _close(self, frame: _Frame) -> None:
        if frame.stop == "/":
            frame.pattern = self._take(frame.start)
            frame.stop = "}"
            return
        self._stack.pop()
        if not frame.quoted:
            self._substitute(frame)
        elif self.mode.keep_quotes:
            self._push('"', raw=True)
        if len(self._stack) == 1:
            for index in range(frame.start, len(self._out)):
                self._raw[index] = frame.quoted

    def _take(self, start: int) -> str:
        text = "".join(self._out[start:])
        del self._out[start:], self._raw[start:]
        return text

    def _replace(self, start: int, value: str) -> None:
        del self._out[start:], self._raw[start:]
        self._push(value)

    def _substitute(self, frame: _Frame) -> None:
        value = self._look_up(frame.name)
        if value is None and self.mode.keep_unset:
            self._restore(frame)
            return
        missing = value is None or (frame.modifier[0] == ":" and not value)
        if frame.operator == "-":
            if not missing:
                self._replace(frame.start, value or "")
        elif frame.operator == "+":
            if missing:
                self._replace(frame.start, "")
        elif frame.operator == "?":
            message = self._take(frame.start)
            if missing:
                state = "unset" if value is None else "empty"
                raise ExpansionError(
                    f"{frame.name}: {message or 'is not allowed to be ' + state}",
                    variable=frame.name,
                    required=True,
                )
            self._push(value or "")
        else:
            self._pattern(frame, value or "")

    def _pattern(self, frame: _Frame, value: str) -> None:
        word = self._take(frame.start)
        if frame.modifier[0] == ":" or frame.operator not in "#%/":
            raise _unsupported(frame.modifier, frame.name)
        longest = word[:1] == frame.operator
        pattern = frame.pattern if frame.operator == "/" else word[longest:]
        try:
            if frame.operator == "#":
                value = trim_prefix(pattern, value, longest=longest)
            elif frame.operator == "%":
                value = trim_suffix(pattern, value, longest=longest)
            else:
                value = replace_matches(pattern, value, word, every=frame.replace_all)
        except GlobError as error:
            raise ExpansionError(
                f"invalid pattern ({pattern}) in substitution: {error}", variable=frame.name
            ) from None
        self._push(value)

    def _restore(self, frame: _Frame) -> None:
        if frame.operator == "/":
            word = self._take(frame.start)
            self._push(f"${{{frame.name}/{frame.pattern}/{word}}}")
        else:
            word = self._take(frame.start)
            self._push(f"${{{frame.name}{frame.modifier}{word}}}")

    # ------------------------------------------------------------ errors
    def _unfinished(self) -> ExpansionError:
        frame = self._stack[-1]
        if frame.quoted:
            return ExpansionError(
                "unexpected end of statement while looking for matching double-quote"
            )
        return ExpansionError("syntax error: missing '}'", variable=frame.name)

    def _outermost(self, error: ExpansionError) -> ExpansionError:
        """At the end of the text, the outermost open `${` is what is reported."""
        if self._at < len(self.source):
            return error
        for frame in self._stack[1:]:
            if not frame.quoted:
                what = "missing '/' in ${}" if frame.stop == "/" else "missing '}'"
                return ExpansionError(f"syntax error: {what}", variable=frame.name)
        return error


def _unsupported(modifier: str, name: str) -> ExpansionError:
    return ExpansionError(f"unsupported modifier ({modifier}) in substitution", variable=name)


def _needs_scan(text: str, mode: Mode) -> bool:
    if "$" in text or mode.escape in text:
        return True
    return mode.quotes and ('"' in text or "'" in text)


@cache
def _plain_run(escape: str) -> re.Pattern[str]:
    return re.compile(rf"[^$'\"/}}{re.escape(escape)}]+")


def _split_blanks(text: str) -> list[str]:
    """Parts between runs of blanks; leading and trailing blanks give empty parts."""
    parts: list[str] = []
    start = 0
    for index, character in enumerate(text):
        if character in _SPACE:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return parts
