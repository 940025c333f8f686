from __future__ import annotations

import pytest

from buildkit_py.dockerfile import parse, parse_onbuild
from buildkit_py.errors import DockerfileErrors, PybuildError
from buildkit_py.instructions.run import Run


def message_of(text: str) -> str:
    with pytest.raises(DockerfileErrors) as caught:
        parse(text)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the Dockerfile cannot be empty"),
        ("\n \n", "file with no instructions"),
        ("# only\n\n# comments\n", "file with no instructions"),
        ("ARG a\n", "dockerfile contains no stages to build"),
        ("RUN x\nFROM a\n", "no build stage in current context"),
    ],
)
def test_a_file_without_stages_says_why(text: str, message: str) -> None:
    assert message_of(text) == message


def test_stages_hold_what_follows_their_from() -> None:
    found = parse("ARG g\nFROM a AS One\nRUN x\nFROM b\nRUN y\nRUN z")
    assert [item.text for item in found.global_args] == ["ARG g"]
    assert [(s.index, s.name, len(s.instructions)) for s in found.stages] == [
        (0, "one", 1),
        (1, None, 2),
    ]
    assert found.stages[0].from_.name_written == "One"


def test_all_problems_of_a_file_are_reported_each_at_its_place() -> None:
    with pytest.raises(DockerfileErrors) as caught:
        parse("FROM golang  # base\nCOPPY a b\nRUN ok\nENV a\nCMD [1]\n")
    found = [(p.span.start.line, p.span.start.column) for p in caught.value.problems if p.span]
    assert found == [(1, 14), (2, 1), (4, 5), (5, 5)]


def test_a_comment_behind_from_gets_a_hint() -> None:
    with pytest.raises(DockerfileErrors) as caught:
        parse("FROM golang   # base")
    assert caught.value.message == "FROM requires either one or three arguments"
    assert caught.value.hint == "a comment stands on a line of its own"


@pytest.mark.parametrize("name", ["1x", "a/b", "-a", "ä"])
def test_a_stage_name_begins_with_a_letter(name: str) -> None:
    assert message_of(f"FROM a AS {name}") == (
        f'invalid name for build stage: "{name}",'
        " name can't start with a number or contain symbols"
    )


@pytest.mark.parametrize("text", ["FROM a b", "FROM", "FROM a AS", "FROM a XX b", "FROM a AS b c"])
def test_from_takes_one_or_three_words(text: str) -> None:
    assert message_of(text) == "FROM requires either one or three arguments"


def test_from_takes_a_platform() -> None:
    assert parse("FROM --platform=$BUILDPLATFORM a").stages[0].from_.platform == "$BUILDPLATFORM"


def test_a_trigger_is_one_instruction() -> None:
    item = parse_onbuild("RUN <<EOF\nx\nEOF")
    assert isinstance(item, Run)
    assert item.heredocs[0].body == "x\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("FROM a", "FROM isn't allowed as an ONBUILD trigger"),
        ("RUM a", "unknown instruction: RUM (did you mean RUN?)"),
    ],
)
def test_a_trigger_that_cannot_fire_is_refused(text: str, message: str) -> None:
    with pytest.raises(PybuildError) as caught:
        parse_onbuild(text)
    assert caught.value.message == message


def test_an_error_in_a_continuation_points_at_its_physical_line() -> None:
    with pytest.raises(DockerfileErrors) as caught:
        parse("FROM a\nENV a=b \\\n  # note\n  c=d \\\n  oops\n")
    (span,) = caught.value.spans
    assert (span.start.line, span.start.column, span.end.column) == (5, 3, 7)


def test_an_instruction_has_a_bounded_number_of_here_documents_and_words() -> None:
    with pytest.raises(DockerfileErrors) as caught:
        parse("FROM a\nRUN " + "\\\n".join(["<<A " * 10_000] * 6) + "\nA\nA\n")
    assert caught.value.message == "more than 50000 here-document markers in one instruction"
    assert len(caught.value.problems) == 1
    with pytest.raises(DockerfileErrors) as caught:
        parse("FROM a\nCOPY " + "\\\n".join(["a " * 30_000] * 17) + " /x/\n")
    assert caught.value.message == "more than 500000 words in one instruction"


def test_a_text_that_no_file_can_hold_is_mended() -> None:
    assert (
        parse("FROM a\nUSER b\ud800c\udc80").stages[0].instructions[0].text
        == "USER b\ufffdc\udc80"
    )
