from __future__ import annotations

import pytest

from buildkit_py.errors import DockerfileErrors
from buildkit_py.formatter import format_dockerfile
from buildkit_py.source import SourceFile


def formatted(text: str) -> str:
    return format_dockerfile(SourceFile(name="Dockerfile", text=text))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from a as B\n", "FROM a AS B\n"),
        ("FROM  a   AS\tb", "FROM a AS b\n"),
        ("\n\nFROM a\n\n\n\nRUN b\n\n", "FROM a\n\nRUN b\n"),
        ("  # c\nFROM a\n   run b\n", "# c\nFROM a\nRUN b\n"),
        ("FROM a\nRUN b &&\\\n c\n", "FROM a\nRUN b && \\\n    c\n"),
        ("FROM a\nRUN b \\\n\n  # x\n\t c\n", "FROM a\nRUN b \\\n    # x\n    c\n"),
        ("FROM a\nonbuild run x\n", "FROM a\nONBUILD RUN x\n"),
        ("FROM a\r\nrun b\r\n", "FROM a\nRUN b\n"),
    ],
)
def test_each_rule_of_the_layout(before: str, after: str) -> None:
    assert formatted(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nRUN echo a\\\nb\n",  # joined words
        "FROM a\nRUN echo 'a \\\n b'\n",  # quoted blanks
        'FROM a\nRUN x "$(echo "a \\\n  b")"\n',
        "FROM a\nENV k v \\\n  w\n",  # the value of the old form
        "FROM a\nWORKDIR /a \\\n  b\n",
        "FROM a\nRUN <<EOF\n  keep\n\n\n  this\nEOF\n",
        "# syntax=x\n# escape=`\n\nFROM a\nRUN b `\n    c\n",
        "FROM a\nENV k=a\\\nb\n",
    ],
)
def test_what_has_a_meaning_stays(text: str) -> None:
    assert formatted(text) == text


def test_blank_lines_of_a_here_document_do_not_stop_others_from_being_joined() -> None:
    assert formatted("FROM a\n\n\n\nRUN <<E\n\n\nE\n") == "FROM a\n\nRUN <<E\n\n\nE\n"


def test_a_file_that_does_not_parse_is_not_formatted() -> None:
    with pytest.raises(DockerfileErrors):
        formatted("FROM\n")


def test_a_line_with_the_escape_character_alone_is_stable_after_one_run() -> None:
    once = format_dockerfile(SourceFile(name="", text="FROM x\nARG a=0\\\n\\\n b c=1\n"))
    assert format_dockerfile(SourceFile(name="", text=once)) == once
