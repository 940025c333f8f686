"""A named source text, and places and excerpts in it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A text and the name that messages call it by (`Dockerfile`)."""

    name: str
    text: str
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0]
        position = self.text.find("\n")
        while position >= 0:
            starts.append(position + 1)
            position = self.text.find("\n", position + 1)
        object.__setattr__(self, "_starts", tuple(starts))

    @property
    def line_count(self) -> int:
        """Number of physical lines."""
        return len(self._starts)

    def line(self, number: int) -> str:
        """Physical line `number` (from 1) without its line end."""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def position(self, offset: int) -> Position:
        """Line and column (both from 1) of a character offset."""
        line = bisect_right(self._starts, offset)
        return Position(line=line, column=offset - self._starts[line - 1] + 1)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Position:
    """A place in a source text; both numbers count from 1."""

    line: int
    column: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range of a source text: from `start` up to, not including, `end`.

    `end` may be the position just behind the last character of its line. A span of whole lines has
    `end` at the end of the last of them.
    """

    source: SourceFile = field(repr=False, compare=False)
    start: Position
    end: Position

    @property
    def lines(self) -> range:
        """Physical line numbers that the span touches."""
        last = self.end.line
        if self.end.column == 1 and last > self.start.line:
            last -= 1
        return range(self.start.line, last + 1)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.start.line}"


def lines_span(source: SourceFile, first: int, last: int) -> Span:
    """The span of the whole lines `first` to `last`."""
    width = len(source.line(last))
    return Span(
        source=source, start=Position(line=first), end=Position(line=last, column=width + 1)
    )


def excerpt(spans: tuple[Span, ...], *, caret: bool = True) -> str:
    """The source lines around `spans`, guilty lines marked by `>>>` (BuildKit's form).

    Four lines of context around a single line, two around a range, both sides counted. With
    `caret`, a line of `^` below a guilty line shows the columns, when the span covers only a part
    of that line.
    """
    if not spans:
        return ""
    source = spans[0].source
    guilty: set[int] = set()
    for span in spans:
        guilty.update(span.lines)
    first, last = _context(source, min(guilty), max(guilty))
    rule = "-" * 20
    out = [f"{source.name}:{min(guilty)}", rule]
    for number in range(first, last + 1):
        mark = ">>>" if number in guilty else "   "
        out.append(f" {number:3d} | {mark} {source.line(number)}".rstrip())
        if caret:
            out.extend(_carets(spans, number))
    out.append(rule)
    return "\n".join(out)


def _context(source: SourceFile, first: int, last: int) -> tuple[int, int]:
    """The lines to show around a range: what one end of the file lacks, the other gets."""
    wanted, shown = (4 if first == last else 2), 0
    while shown < wanted:
        if first > 1:
            first, shown = first - 1, shown + 1
        if last < source.line_count:
            last, shown = last + 1, shown + 1
        shown += 1
    return first, last


def _carets(spans: tuple[Span, ...], number: int) -> list[str]:
    for span in spans:
        if span.start.line != number or span.end.line != number:
            continue
        line = span.source.line(number)
        start, end = span.start.column, max(span.end.column, span.start.column + 1)
        if start == 1 and end > len(line):
            continue
        blanks = "".join("\t" if c == "\t" else " " for c in line[: start - 1])
        return ["     |     " + blanks + "^" * (end - start)]
    return []
