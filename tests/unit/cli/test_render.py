"""What users see of errors, warnings, sizes and ages."""

from __future__ import annotations

import errno

import pytest

from buildkit_py.cli.render import (
    human_duration,
    human_size,
    render_error,
    render_unexpected,
    render_warnings,
    table,
)
from buildkit_py.errors import (
    DockerfileErrors,
    ExecError,
    NoSuchImage,
    StageCycle,
    SyntaxProblem,
    UnknownInstruction,
)
from buildkit_py.progress.events import BuildWarning
from buildkit_py.source import Position, SourceFile, Span, lines_span

SOURCE = SourceFile(name="Dockerfile", text="FROM busybox\nCOPPY . /app\nRUN make\n")


def unknown() -> UnknownInstruction:
    span = Span(source=SOURCE, start=Position(line=2, column=1), end=Position(line=2, column=6))
    return UnknownInstruction(
        "unknown instruction: COPPY (did you mean COPY?)", span=span, hint="did you mean COPY?"
    )


def test_a_parse_error_shows_its_line_a_caret_and_ends_in_one_error_line() -> None:
    assert render_error(unknown()) == (
        "Dockerfile:2\n--------------------\n"
        "   1 |     FROM busybox\n"
        "   2 | >>> COPPY . /app\n"
        "     |     ^^^^^\n"
        "   3 |     RUN make\n"
        "   4 |\n"
        "--------------------\n"
        "ERROR: failed to build: failed to solve: dockerfile parse error on line 2: "
        "unknown instruction: COPPY (did you mean COPY?)\n"
    )


def test_all_problems_of_a_file_are_shown_and_counted() -> None:
    second = SyntaxProblem("RUN requires something", span=lines_span(SOURCE, 3, 3))
    text = render_error(DockerfileErrors([unknown(), second]))
    assert "error: unknown instruction: COPPY" in text
    assert "error: RUN requires something" in text
    assert text.splitlines()[-1].endswith("(did you mean COPY?) (and 1 more problem)")


def test_a_failed_step_shows_the_tail_of_its_log_and_how_to_replay_it() -> None:
    error = ExecError(
        'process "/bin/sh -c make" did not complete successfully: exit code: 2',
        exit_code=2,
        log_tail=("cc: not found",),
        replay="pybuild debug sandbox x",
        vertex="[2/2] RUN make",
        span=lines_span(SOURCE, 3, 3),
    )
    text = render_error(error)
    assert text.startswith("------\n > [2/2] RUN make:\ncc: not found\n------\n")
    assert "replay: pybuild debug sandbox x\n" in text
    assert "   3 | >>> RUN make\n" in text
    assert text.endswith(
        'ERROR: failed to build: failed to solve: process "/bin/sh -c make" did not complete '
        "successfully: exit code: 2\n"
    )


def test_a_cycle_marks_every_line_of_it() -> None:
    error = StageCycle(
        "circular dependency detected on stage: a",
        span=lines_span(SOURCE, 1, 1),
        also=(lines_span(SOURCE, 3, 3),),
    )
    assert render_error(error).count(">>>") == 2


def test_a_hint_stands_before_the_error_line() -> None:
    lines = render_error(NoSuchImage("no such image: web", hint="see 'pybuild images'"))
    assert lines == "hint: see 'pybuild images'\nERROR: no such image: web\n"


def test_an_error_of_the_system_names_the_file_and_the_reason() -> None:
    text = render_error(OSError(errno.EACCES, "Permission denied", "/x/state.db"))
    assert text == "ERROR: /x/state.db: permission denied\n"


def test_a_full_disk_says_what_to_do() -> None:
    assert "pybuild prune" in render_error(OSError(errno.ENOSPC, "No space left on device"))


def test_a_fault_of_ours_is_called_one() -> None:
    text = render_unexpected(KeyError("x"))
    assert text.endswith("ERROR: internal error: KeyError: 'x'\n")
    assert "-D" in text


def test_messages_of_several_lines_become_one() -> None:
    assert render_error(NoSuchImage("a\nb")) == "ERROR: a b\n"


def test_one_warning_is_counted_in_the_singular() -> None:
    text = render_warnings([BuildWarning(message="Bad casing", rule="StageNameCasing", line=3)])
    assert text == (
        "\n 1 warning found (use docker --debug to expand):\n"
        " - StageNameCasing: Bad casing (line 3)\n"
    )


def test_debug_expands_warnings() -> None:
    warning = BuildWarning(message="m", rule="R", url="https://e/x/", description="why", line=1)
    text = render_warnings([warning, warning], debug=True)
    assert text.startswith(
        "\n 2 warnings found:\n - R: m (line 1)\nwhy\nMore info: https://e/x/\n"
    )


def test_no_warnings_are_no_text() -> None:
    assert render_warnings([]) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (2560, "2.56kB"),
        (69_400_000, "69.4MB"),
        (1_234_000_000, "1.23GB"),
    ],
)
def test_sizes_have_three_digits_and_decimal_units(count: int, text: str) -> None:
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.3, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (3600, "About an hour"),
        (7300, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 15, "2 weeks"),
        (86400 * 90, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_are_said_as_docker_says_them(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_table_columns_are_three_blanks_apart() -> None:
    assert table(("A", "LONG"), [("xx", "y")]) == "A    LONG\nxx   y\n"
