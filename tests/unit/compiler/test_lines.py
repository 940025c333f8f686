from __future__ import annotations

import pytest

from buildkit_py.lines import SplitFile, detect_syntax, split_lines
from buildkit_py.source import SourceFile


def split(text: str) -> SplitFile:
    return split_lines(SourceFile(name="Dockerfile", text=text))


def texts(text: str) -> list[str]:
    return [line.text for line in split(text).lines]


def problems(text: str) -> list[str]:
    return [problem.message for problem in split(text).problems]


# ------------------------------------------------------------------ directives
def test_directives_are_read_in_any_case_and_with_blanks() -> None:
    found = split(
        "# Syntax = docker/dockerfile:1 \n#ESCAPE=`\n# check=skip=all;error=true\nFROM a"
    )
    assert found.directives.syntax == "docker/dockerfile:1"
    assert found.directives.escape == "`"
    assert found.directives.check == "skip=all;error=true"


@pytest.mark.parametrize("first", ["", "# a comment", "# unknown=1", "FROM a", "#"])
def test_scanning_for_directives_stops_at_the_first_other_line(first: str) -> None:
    assert split(f"{first}\n# escape=`\nFROM a").directives.escape == "\\"


def test_a_directive_given_twice_is_refused() -> None:
    assert problems("# escape=`\n# escape=`\nFROM a") == [
        "only one escape parser directive can be used"
    ]


def test_an_escape_directive_takes_backslash_or_backtick_only() -> None:
    assert problems("# escape=x\nFROM a") == ["invalid escape token 'x' does not match ` or \\"]


def test_a_byte_order_mark_is_dropped() -> None:
    assert split("\ufeff# escape=`\nFROM a").directives.escape == "`"
    assert texts("\ufeffFROM a") == ["FROM a"]


@pytest.mark.parametrize(
    "text",
    [
        "# syntax=my/front\nFROM a",
        "//syntax=my/front\nanything",
        "#!/usr/bin/x\n# syntax=my/front\n",
        '{"syntax": "my/front"}',
    ],
)
def test_syntax_is_detected_in_every_form(text: str) -> None:
    assert detect_syntax(text) == "my/front"


def test_json_with_something_behind_it_has_no_syntax() -> None:
    assert detect_syntax('{"syntax": "my/front"}\nx') is None


# ------------------------------------------------------------------ continuation
def test_a_continuation_inserts_nothing_and_keeps_leading_blanks() -> None:
    assert texts("FROM a\nRUN echo a\\\nb \\\n  c") == ["FROM a", "RUN echo ab   c"]


def test_blanks_behind_the_escape_still_continue() -> None:
    assert texts("RUN a\\ \t\nb") == ["RUN ab"]


def test_a_doubled_escape_does_not_continue() -> None:
    assert texts("RUN a\\\\\nRUN b") == ["RUN a\\\\", "RUN b"]


def test_an_escape_alone_on_its_line_continues() -> None:
    assert texts("RUN a \\\n\\\nb") == ["RUN a b"]


def test_comments_inside_a_continuation_are_dropped_indented_ones_too() -> None:
    assert texts("RUN a \\\n# one \\\n   # two\n b") == ["RUN a  b"]


def test_empty_lines_inside_a_continuation_are_skipped_with_one_warning() -> None:
    found = split("RUN a \\\n\n \n b\n")
    assert [line.text for line in found.lines] == ["RUN a  b"]
    assert [message for message, _ in found.warnings] == ["Empty continuation line"]
    assert found.lines[0].empty_continuations == (2, 3)


def test_an_escape_at_the_end_of_the_file_ends_the_instruction() -> None:
    assert texts("FROM a\nRUN x \\") == ["FROM a", "RUN x"]


def test_an_escape_at_the_end_of_a_comment_has_no_effect() -> None:
    assert texts("# hello \\\nFROM a") == ["FROM a"]


def test_the_escape_directive_changes_the_continuation() -> None:
    assert texts("# escape=`\nRUN a\\\nRUN b `\n c") == ["RUN a\\", "RUN b  c"]


def test_carriage_returns_are_trimmed() -> None:
    assert texts("FROM a\r\nRUN b \\\r\n c\r\n") == ["FROM a", "RUN b  c"]


@pytest.mark.parametrize(("width", "refused"), [(65535 - 4, False), (65536 - 4, True)])
def test_a_line_has_at_most_65535_bytes(width: int, refused: bool) -> None:
    message = "dockerfile line greater than max allowed size of 65535"
    assert problems("FROM a\nRUN " + "x" * width) == ([message] if refused else [])


def test_the_line_limit_counts_bytes() -> None:
    assert len(problems("FROM a\nRUN " + "é" * 40000)) == 1


# ------------------------------------------------------------------ comments
def test_the_comment_block_directly_above_is_kept() -> None:
    lines = split("# far\n\n# one\n#two\nFROM a\n# x\n#\n# y\nRUN b").lines
    assert [line.comment for line in lines] == ["one\ntwo", "y"]


def test_directives_are_no_comments() -> None:
    assert split("# syntax=x\nFROM a").lines[0].comment == ""


# ------------------------------------------------------------------ positions
def test_an_offset_behind_a_continuation_maps_to_its_physical_line() -> None:
    line = split("FROM a\nRUN one \\\n  # no\n    two three\n").lines[1]
    span = line.find("three")
    assert (span.start.line, span.start.column, span.end.column) == (4, 9, 14)
    assert list(line.span.lines) == [2, 3, 4]


# ------------------------------------------------------------------ here-documents
def heredocs(text: str) -> list[tuple[str, str, bool, bool, int]]:
    return [
        (item.name, item.body, item.expand, item.strip_tabs, item.descriptor)
        for item in split(text).lines[0].heredocs
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN <<EOF\nx\nEOF", ("EOF", "x\n", True, False, 0)),
        ("RUN <<EMPTY\nEMPTY", ("EMPTY", "", True, False, 0)),
        ("RUN 3<<E\nx\nE", ("E", "x\n", True, False, 3)),
        ("RUN <<-E\n\tx\n\tE", ("E", "\tx\n", True, True, 0)),
        ("RUN <<'E'\nx\nE", ("E", "x\n", False, False, 0)),
        ('RUN <<EO"F"\nx\nEOF', ("EOF", "x\n", False, False, 0)),
        ("RUN <<eo\\'f\nx\neo'f", ("eo'f", "x\n", True, False, 0)),
        ("RUN <<'e'o\\'f\nx\neo'f", ("eo'f", "x\n", False, False, 0)),
        ("RUN <<'one two'\nx\none two", ("one two", "x\n", False, False, 0)),
        ("RUN <<$EOF\n$EOF", ("$EOF", "", True, False, 0)),
        ("RUN <<  EOF\nEOF", ("EOF", "", True, False, 0)),
        ("RUN <<- EOF\nEOF", ("EOF", "", True, True, 0)),
        ("RUN << -EOF\n-EOF", ("-EOF", "", True, False, 0)),
        ("RUN <<COMMENT\n# kept\\\nCOMMENT", ("COMMENT", "# kept\\\n", True, False, 0)),
        ("COPY <<file.txt /x\nx\nfile.txt", ("file.txt", "x\n", True, False, 0)),
        ("ONBUILD RUN <<E\nx\nE", ("E", "x\n", True, False, 0)),
        ("RUN <<E\r\na\r\nE\r\n", ("E", "a\r\n", True, False, 0)),
    ],
)
def test_a_here_document_is_read(text: str, expected: tuple[str, str, bool, bool, int]) -> None:
    assert heredocs(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "RUN cat <<<EOF",
        'RUN "<<EOF"',
        "RUN '<<EOF'",
        'RUN ["<<EOF"]',
        "USER <<EOF",
        "RUN echo $((1<<2))",
        "RUN <<",
        "RUN echo it's <<EOF",
    ],
)
def test_what_looks_like_a_marker_but_is_none(text: str) -> None:
    assert heredocs(text) == []


def test_several_bodies_follow_in_the_order_of_their_markers() -> None:
    found = heredocs("COPY <<X <<Y /dest\nY\nX\nX\nY\n")
    assert [item[:2] for item in found] == [("X", "Y\n"), ("Y", "X\n")]


def test_a_missing_terminator_is_said_at_its_marker() -> None:
    (problem,) = split("FROM a\nRUN cat <<EOF\nx\n").problems
    assert problem.message == "unterminated heredoc"
    assert problem.span is not None
    assert (problem.span.start.line, problem.span.start.column) == (2, 9)


def test_splitting_goes_on_behind_a_here_document() -> None:
    assert texts("RUN <<E\nFROM b\nE\nRUN c") == ["RUN <<E", "RUN c"]


def test_comments_behind_a_last_continuation_belong_to_the_instruction() -> None:
    assert [line.last for line in split("FROM a\nRUN b \\\n# c\n\n").lines] == [1, 4]
