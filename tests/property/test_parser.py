from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis.strategies import text

from buildkit_py.dockerfile import parse
from buildkit_py.errors import DockerfileError, DockerfileErrors, PlanError
from buildkit_py.formatter import format_dockerfile
from buildkit_py.lines import split_lines
from buildkit_py.printer import print_dockerfile
from buildkit_py.source import SourceFile
from buildkit_py.syntax import _plain, scan_by_grammar
from tests.property.strategies import NOISE, dockerfiles


def problems_of(text: str) -> tuple[DockerfileError | PlanError, ...]:
    """What is wrong with a text; anything but a typed error is passed on."""
    try:
        parse(text)
    except DockerfileErrors as error:
        return error.problems
    return ()


@settings(max_examples=50, deadline=None)
@given(dockerfiles())
def test_printing_and_parsing_gives_the_same_value(text: str) -> None:
    value = parse(text)
    printed = print_dockerfile(value)
    assert parse(printed).stages == value.stages
    assert print_dockerfile(parse(printed)) == printed


@settings(max_examples=200, deadline=None)
@given(text(alphabet="18- \u00a0\u2003\\`z/", min_size=1, max_size=12))
def test_ports_that_a_line_may_not_begin_or_end_with_print_back(words: str) -> None:
    file = f"FROM scratch\nEXPOSE {words}\n"
    if problems_of(file):
        return
    value = parse(file)
    if len(value.stages[0].instructions) == 1:  # a backslash that joined lines is no word
        assert parse(print_dockerfile(value)).stages == value.stages


@settings(max_examples=50, deadline=None)
@given(dockerfiles())
def test_formatting_keeps_the_meaning_and_settles_at_once(text: str) -> None:
    source = SourceFile(name="Dockerfile", text=text)
    once = format_dockerfile(source)
    assert format_dockerfile(SourceFile(name="Dockerfile", text=once)) == once
    before = [stage.instructions for stage in parse(text).stages]
    after = [stage.instructions for stage in parse(once).stages]
    assert [[type(i) for i in s] for s in before] == [[type(i) for i in s] for s in after]
    comments = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    assert [c.rstrip() for c in comments] == [
        line.strip() for line in once.splitlines() if line.strip().startswith("#")
    ]


@settings(max_examples=50, deadline=None)
@given(dockerfiles())
def test_every_character_of_an_instruction_maps_back_to_itself(text: str) -> None:
    for line in split_lines(SourceFile(name="Dockerfile", text=text)).lines:
        for offset, character in enumerate(line.text):
            place = line.part(offset, offset + 1).start
            assert line.source.line(place.line)[place.column - 1] == character


@settings(max_examples=200, deadline=None)
@given(NOISE)
def test_only_typed_errors_leave_the_parser(text: str) -> None:
    assert all(problem.span is not None for problem in problems_of(text))


@settings(max_examples=200, deadline=None)
@given(NOISE)
def test_noise_behind_a_keyword_raises_typed_errors_only(text: str) -> None:
    for keyword in ("RUN", "COPY", "ENV", "HEALTHCHECK", "ONBUILD RUN"):
        assert all(p.message for p in problems_of(f"FROM a\n{keyword} {text}"))


@pytest.mark.parametrize("rule", ["command", "words", "pairs", "check"])
def test_plain_forms_and_the_grammar_agree(rule: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(NOISE.map(lambda text: text.replace("\n", " ").replace("\r", " ").strip()))
    def agree(text: str) -> None:
        plain = _plain(rule, text)
        if plain is not None:
            assert plain == scan_by_grammar(rule, text, "\\")

    agree()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "FROM a\nRUN " + "x" * 10_000_000,
        "FROM a\nRUN " + "\\\n".join(["x" * 60_000] * 160),
        "FROM a\nENV a=" + "\\\n".join(["${a:-" * 10_000] * 10),
        "FROM a\nRUN " + "\\\n".join(["<<A " * 15_000] * 67),
        "FROM a\nRUN " + "[" * 60_000,
        "FROM a\n" + "ONBUILD " * 7_000,
        "FROM a\nENV a=" + '"' * 60_001,
        "FROM a\nRUN --mount=" + '"\\' * 30_000,
        "FROM a\n" + "RUM x\n" * 20_000,
    ],
    ids=[
        "a 10 MB line",
        "10 MB in continuations",
        "100,000 nested defaults",
        "a million here-document markers",
        "60,000 brackets",
        "7,000 ONBUILD",
        "60,001 quotes",
        "quotes and escapes in a flag",
        "20,000 unknown instructions",
    ],
)
def test_huge_input_ends_soon(text: str) -> None:
    assert all(problem.message for problem in problems_of(text))
