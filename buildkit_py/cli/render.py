"""Errors with source excerpts, warnings, tables and sizes, as text."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildkit_py.errors import (
    DockerfileError,
    DockerfileErrors,
    ExecError,
    PlanError,
    PybuildError,
    SolveError,
)

if TYPE_CHECKING:
    from buildkit_py.progress.events import BuildWarning
    from buildkit_py.source import Span

_RULE = "-" * 6


def render_error(error: BaseException) -> str:
    """Everything a person needs, ending in one line `ERROR: …`."""
    parts: list[str] = []
    if isinstance(error, DockerfileErrors) and len(error.problems) > 1:
        parts.extend(_problem(problem) for problem in error.problems)
    elif isinstance(error, PybuildError):
        parts.extend(_log_tail(error))
        shown = _excerpt(error.spans, caret=not isinstance(error, ExecError))
        if shown:
            parts.append(shown)
        parts.extend(_details(error.message))
        hint = _hint(error)
        if hint:
            parts.append(hint)
    parts.append(f"ERROR: {final_line(error)}")
    return "\n".join(parts) + "\n"


def render_unexpected(error: BaseException) -> str:
    """A fault of this program: said in one line, with the way to its traceback."""
    text = " ".join(str(error).split()) or "no message"
    return (
        "hint: this is a bug in pybuild; run again with -D for its traceback\n"
        f"ERROR: internal error: {type(error).__name__}: {text}\n"
    )


def final_line(error: BaseException) -> str:
    """The error on one line, with what failed in front, as docker's clients have it."""
    if isinstance(error, DockerfileErrors):
        more = len(error.problems) - 1
        suffix = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        return final_line(error.problems[0]) + suffix
    if isinstance(error, DockerfileError):
        line = error.spans[0].start.line if error.spans else 0
        where = f"dockerfile parse error on line {line}: " if line else ""
        return f"failed to build: failed to solve: {where}{_one_line(error.message)}"
    if isinstance(error, (PlanError, SolveError)):
        return f"failed to build: failed to solve: {_one_line(error.message)}"
    if isinstance(error, PybuildError):
        return _one_line(error.message)
    if isinstance(error, OSError):
        return _os_error(error)
    return f"{type(error).__name__}: {_one_line(str(error))}"


def _os_error(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else _one_line(str(error))
    reason = reason[:1].lower() + reason[1:]
    names = [
        os.fsdecode(name)
        for name in (error.filename, error.filename2)
        if isinstance(name, (str, bytes))
    ]
    text = f"{' -> '.join(names)}: {reason}" if names else reason
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        text += " (free some with 'pybuild prune', or choose another --root)"
    return text


def _one_line(text: str) -> str:
    lines = text.split("\n")
    return " ".join(line for line in lines if line not in _details(text)).strip()


def _details(text: str) -> list[str]:
    """Lines of a message that are a list: those behind the first that are indented."""
    return [line for line in text.split("\n")[1:] if line.startswith("  ")]


def _problem(problem: DockerfileError | PlanError) -> str:
    parts = [_excerpt(problem.spans)] if problem.spans else []
    parts.append(f"error: {_one_line(problem.message)}")
    hint = _hint(problem)
    return "\n".join([*parts, hint, ""] if hint else [*parts, ""])


def _excerpt(spans: tuple[Span, ...], *, caret: bool = True) -> str:
    from buildkit_py.source import excerpt

    return excerpt(_same_source(spans), caret=caret)


def _same_source(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    return tuple(span for span in spans if span.source.name == spans[0].source.name)


def _hint(error: PybuildError) -> str:
    if not error.hint or error.hint in error.message:
        return ""
    return f"hint: {_one_line(error.hint)}"


def _log_tail(error: PybuildError) -> list[str]:
    if not isinstance(error, ExecError):
        return []
    lines = [_RULE, f" > {error.vertex}:", *error.log_tail, _RULE] if error.log_tail else []
    return [*lines, f"replay: {error.replay}"] if error.replay else lines


def render_warnings(warnings: Sequence[BuildWarning], *, debug: bool = False) -> str:
    """The summary behind a build, empty when there is nothing to say."""
    if not warnings:
        return ""
    count = len(warnings)
    head = f" {count} warnings found" if count > 1 else " 1 warning found"
    if debug:
        return "\n" + head + ":\n" + "\n".join(map(_warning_in_full, warnings))
    rows = [f" - {warning_line(warning)}\n" for warning in warnings]
    return f"\n{head} (use docker --debug to expand):\n" + "".join(rows)


def warning_line(warning: BuildWarning) -> str:
    """`Rule: message (line n)`."""
    rule = f"{warning.rule}: " if warning.rule else ""
    line = f" (line {warning.line})" if warning.line else ""
    return f"{rule}{warning.message}{line}"


def _warning_in_full(warning: BuildWarning) -> str:
    lines = [f" - {warning_line(warning)}"]
    if warning.description:
        lines.append(warning.description)
    if warning.url:
        lines.append(f"More info: {warning.url}")
    if warning.excerpt:
        lines.append(warning.excerpt)
    return "\n".join(lines) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns three blanks apart, as docker prints them."""
    everything = [header, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    return "".join(
        "   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in everything
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `table(...)`."""
    print(table(header, rows), end="")


def human_size(count: float) -> str:
    """Decimal units with three digits, as docker counts: `69.4MB`, `2.56kB`, `0B`."""
    units = ["B", "kB", "MB", "GB", "TB", "PB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{float(f'{count:.3g}'):g}{units[0]}" if count < 1000 else f"{count:.4g}{units[0]}"


def human_duration(seconds: float) -> str:
    """`Less than a second`, `5 seconds`, `About a minute`, `3 hours`, … as docker says it."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / 3600)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = int(seconds / 86400)
    for limit, divisor, unit in ((14, 1, "days"), (60, 7, "weeks"), (730, 30, "months")):
        if days < limit:
            return f"{days // divisor} {unit}"
    return f"{days // 365} years"


def human_age(created: float, now: float) -> str:
    """`3 hours ago`."""
    return f"{human_duration(max(0.0, now - created))} ago"
