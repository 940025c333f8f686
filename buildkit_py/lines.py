"""Text to logical lines: directives, continuations, comments and here-documents.

A logical line is one instruction. It keeps a map from its offsets to places in the file, so that
a problem in the third continuation line is shown there. Splitting goes on after a problem: what is
wrong is collected in `SplitFile.problems`, because a file's errors are reported together.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from buildkit_py.errors import DockerfileError, InvalidArgument, SyntaxProblem
from buildkit_py.expansion import ExpansionError
from buildkit_py.heredocs import BLANKS, Heredoc, heredoc_markers, may_have_heredocs
from buildkit_py.source import Position, SourceFile, Span, lines_span

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LINE_BYTES = 65535
MAX_MARKERS = 50_000
"""Here-document markers of one instruction: no person writes so many, and each costs memory."""

_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*\Z")
_KNOWN_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_SEPARATOR = re.compile(r"[\t\v\f\r ]+")


@cache
def continuation(escape: str) -> re.Pattern[str]:
    """What ends a line that goes on: the escape character, unless another stands before it."""
    esc = re.escape(escape)
    return re.compile(rf"(?:(?<=[^{esc}])|\A){esc}[ \t]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The parser directives at the head of a file; `spans` says where each stands."""

    syntax: str | None = None
    escape: str = "\\"
    check: str | None = None
    spans: Mapping[str, Span] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalLine:
    """One instruction: continuations joined, comments inside dropped.

    `pieces` maps offsets of `text` to offsets of the source, one entry a physical line.
    """

    source: SourceFile = field(repr=False)
    text: str
    keyword: str
    arguments_start: int
    pieces: tuple[tuple[int, int], ...] = field(repr=False)
    first: int
    last: int  # physical line, here-documents included
    last_of_text: int
    comment: str = ""
    heredocs: tuple[Heredoc, ...] = ()
    empty_continuations: tuple[int, ...] = ()
    escape: str = field(default="\\", repr=False)

    @property
    def arguments(self) -> str:
        """What follows the keyword."""
        return self.text[self.arguments_start :]

    @property
    def span(self) -> Span:
        """All physical lines of the instruction."""
        return lines_span(self.source, self.first, self.last)

    def part(self, start: int, end: int) -> Span:
        """The place in the file of `text[start:end]`."""
        first = self._position(start)
        last = self._position(max(start, end - 1)) if end > start else first
        width = 1 if end > start else 0
        end_position = Position(line=last.line, column=last.column + width)
        return Span(source=self.source, start=first, end=end_position)

    def find(self, word: str) -> Span:
        """The place of `word` among the arguments; the whole line where it is not found."""
        at = self.text.find(word, self.arguments_start) if word else -1
        return self.span if at < 0 else self.part(at, at + len(word))

    def _position(self, offset: int) -> Position:
        index = max(0, bisect_right(self.pieces, (offset, 1 << 62)) - 1)
        text_offset, source_offset = self.pieces[index]
        return self.source.position(source_offset + offset - text_offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFile:
    """A file as logical lines, with everything that is wrong at this level."""

    source: SourceFile
    directives: Directives
    lines: tuple[LogicalLine, ...]
    warnings: tuple[tuple[str, Span], ...] = ()
    problems: tuple[DockerfileError, ...] = ()


def split_lines(source: SourceFile, *, escape: str | None = None) -> SplitFile:
    """Split a Dockerfile. With `escape`, the text is a fragment that has no directives."""
    splitter = _Splitter(source)
    if escape is None:
        splitter.read_directives()
    else:
        splitter.directives = Directives(escape=escape)
    splitter.read_lines()
    return SplitFile(
        source=source,
        directives=splitter.directives,
        lines=tuple(splitter.lines),
        warnings=tuple(splitter.warnings),
        problems=tuple(splitter.problems),
    )


def detect_syntax(text: str) -> str | None:
    """The `syntax` directive in any of its forms: `#`, `//`, or a whole file that is JSON."""
    text = text.removeprefix("\ufeff")
    if text.startswith("#!"):
        text = text.partition("\n")[2]
    for prefix in ("#", "//"):
        for line in text.split("\n"):
            match = (
                _DIRECTIVE.match("#" + line[len(prefix) :]) if line.startswith(prefix) else None
            )
            if not match or match.group(1).lower() not in _KNOWN_DIRECTIVES:
                break
            if match.group(1).lower() == "syntax":
                return match.group(2)
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
        syntax = value.get("syntax")
        return syntax if isinstance(syntax, str) else None
    return None


class _Splitter:
    """Reads the physical lines once, in order."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.physical = source.text.split("\n")
        if self.physical[-1] == "":
            self.physical.pop()
        self.offsets: list[int] = []
        offset = 0
        for line in self.physical:
            self.offsets.append(offset)
            offset += len(line) + 1
        self.directives = Directives()
        self.lines: list[LogicalLine] = []
        self.warnings: list[tuple[str, Span]] = []
        self.problems: list[DockerfileError] = []
        self.next = 0
        self._directive_lines: set[int] = set()

    # ------------------------------------------------------------ physical lines
    def _take(self) -> tuple[str, int] | None:
        """The next physical line without its line end, and its offset in the source."""
        if self.next >= len(self.physical):
            return None
        line = self.physical[self.next]
        offset = self.offsets[self.next]
        self.next += 1
        if (
            len(line) * 4 > MAX_LINE_BYTES
            and len(line.encode("utf-8", "replace")) > MAX_LINE_BYTES
        ):
            self.problems.append(
                SyntaxProblem(
                    f"dockerfile line greater than max allowed size of {MAX_LINE_BYTES}",
                    span=self._line_span(self.next),
                )
            )
            self.next = len(self.physical)
            return None
        if self.next == 1 and line.startswith("\ufeff"):
            line, offset = line[1:], 1
        return line.rstrip("\r"), offset

    def _line_span(self, number: int, last: int | None = None) -> Span:
        return lines_span(self.source, number, last or number)

    # ------------------------------------------------------------ directives
    def read_directives(self) -> None:
        found: dict[str, str] = {}
        spans: dict[str, Span] = {}
        for index, physical in enumerate(self.physical):
            text = physical.removeprefix("\ufeff") if index == 0 else physical
            match = _DIRECTIVE.match(text.strip(BLANKS)) if len(text) < MAX_LINE_BYTES else None
            if not match or match.group(1).lower() not in _KNOWN_DIRECTIVES:
                break
            name, span = match.group(1).lower(), self._line_span(index + 1)
            self._directive_lines.add(index)
            if name in found:
                message = f"only one {name} parser directive can be used"
                self.problems.append(SyntaxProblem(message, span=span))
                break
            if name == "escape" and match.group(2) not in {"\\", "`"}:
                message = f"invalid escape token '{match.group(2)}' does not match ` or \\"
                self.problems.append(InvalidArgument(message, span=span))
                continue
            found[name], spans[name] = match.group(2), span
        self.directives = Directives(
            syntax=found.get("syntax"),
            escape=found.get("escape", "\\"),
            check=found.get("check"),
            spans=spans,
        )

    # ------------------------------------------------------------ logical lines
    def read_lines(self) -> None:
        comment: list[str] = []
        while (taken := self._take()) is not None:
            text, offset = taken
            stripped = text.lstrip(BLANKS)
            offset += len(text) - len(stripped)
            if stripped.startswith("#"):
                words = stripped[1:].strip(BLANKS)
                if not words:
                    comment = []
                elif self.next - 1 not in self._directive_lines:
                    comment.append(words)
            elif not stripped:
                comment = []
            else:
                self._read_instruction(stripped, offset, "\n".join(comment))
                comment = []

    def _read_instruction(self, text: str, offset: int, comment: str) -> None:
        first = self.next
        continued = continuation(self.directives.escape)
        parts: list[str] = []
        pieces: list[tuple[int, int]] = []
        empty: list[int] = []
        length, last = 0, first
        while True:
            match = continued.search(text)
            body = text[: match.start()] if match else text
            pieces.append((length, offset))
            parts.append(body)
            length += len(body)
            following = self._continuation(empty) if match else None
            last = self.next
            if following is None:
                break
            text, offset = following
        if empty:
            self.warnings.append(("Empty continuation line", self._line_span(empty[0])))
        self._append("".join(parts), pieces, (first, last), comment, tuple(empty))

    def _continuation(self, empty: list[int]) -> tuple[str, int] | None:
        """The next line that carries on: comments dropped, empty lines noted."""
        while (taken := self._take()) is not None:
            stripped = taken[0].strip(BLANKS)
            if stripped.startswith("#"):
                continue
            if stripped:
                return taken
            empty.append(self.next)
        return None

    def _append(
        self,
        joined: str,
        pieces: list[tuple[int, int]],
        lines: tuple[int, int],
        comment: str,
        empty: tuple[int, ...],
    ) -> None:
        text = joined.lstrip(BLANKS)
        lead = len(joined) - len(text)
        text = text.rstrip(BLANKS)
        match = _SEPARATOR.search(text)
        line = LogicalLine(
            source=self.source,
            text=text,
            keyword=text[: match.start()] if match else text,
            arguments_start=match.end() if match else len(text),
            pieces=tuple((at - lead, offset) for at, offset in pieces) if lead else tuple(pieces),
            first=lines[0],
            last=lines[1],
            last_of_text=lines[1],
            comment=comment,
            empty_continuations=empty,
            escape=self.directives.escape,
        )
        if "<<" in text and may_have_heredocs(text):
            line = self._with_heredocs(line)
        self.lines.append(line)

    def _with_heredocs(self, line: LogicalLine) -> LogicalLine:
        if line.text.count("<<") > MAX_MARKERS:
            message = f"more than {MAX_MARKERS} here-document markers in one instruction"
            self.problems.append(SyntaxProblem(message, span=line.span))
            self.next = len(self.physical)  # what follows is the bodies
            return line
        try:
            markers = heredoc_markers(line.text)
        except ExpansionError as error:
            self.problems.append(SyntaxProblem(error.message, span=line.span))
            return line
        heredocs: list[Heredoc] = []
        for marker in markers:
            heredoc = self._read_heredoc(marker)
            if heredoc is None:
                span = line.find(f"<<{'-' if marker.strip_tabs else ''}{marker.name}")
                self.problems.append(SyntaxProblem("unterminated heredoc", span=span))
                break
            heredocs.append(heredoc)
        return replace(line, heredocs=tuple(heredocs), last=max(line.last, self.next))

    def _read_heredoc(self, marker: Heredoc) -> Heredoc | None:
        start = self.next
        body: list[str] = []
        while self.next < len(self.physical):
            index = self.next
            if self._take() is None:
                return None
            line = self.physical[index]
            candidate = line.rstrip("\r\n")
            if marker.strip_tabs:
                candidate = candidate.lstrip("\t")
            if candidate == marker.name:
                return replace(marker, body="".join(body), first_line=start + 1)
            body.append(line + "\n")
        return None
