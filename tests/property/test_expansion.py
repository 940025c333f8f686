from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from buildkit_py.expansion import ExpansionError, expand, expand_words
from buildkit_py.globs import GlobError, replace_matches, trim_prefix, trim_suffix
from tests.property.strategies import NOISE, SHELL_WORDS, VALUES

DASH = shutil.which("dash") or shutil.which("sh")


def by_shell(words: list[str]) -> list[str]:
    """Each word as the shell expands it in an assignment, where it splits nothing."""
    script = "unset unset\n"
    for index, word in enumerate(words):
        script += f"v{index}={word}\nprintf '%s\\000' \"$v{index}\"\n"
    assert DASH is not None
    done = subprocess.run(
        [DASH, "-f", "-c", script], env=VALUES, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.skipif(DASH is None, reason="there is no shell")
@settings(max_examples=60, deadline=None)
@given(st.lists(SHELL_WORDS, min_size=1, max_size=10))
def test_expansion_agrees_with_the_shell(words: list[str]) -> None:
    assert [expand(word, VALUES).text for word in words] == by_shell(words)


@settings(max_examples=200, deadline=None)
@given(NOISE)
def test_only_expansion_errors_leave_the_scanner(text: str) -> None:
    for escape in "\\`":
        with suppress(ExpansionError):  # any other exception fails the test
            whole = expand(text, VALUES, escape=escape).text
            words = expand_words(text, VALUES, escape=escape)
            assert "".join("".join(words).split()) == "".join(whole.split())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab*?", max_size=6), st.text(alphabet="abc", max_size=8), st.booleans())
def test_trimming_agrees_with_trying_every_length(pattern: str, value: str, longest: bool) -> None:
    def matches(text: str, rest: str) -> bool:
        if not rest:
            return not text
        if rest[0] == "*":
            return any(matches(text[i:], rest[1:]) for i in range(len(text) + 1))
        return bool(text) and rest[0] in ("?", text[0]) and matches(text[1:], rest[1:])

    ends = [end for end in range(len(value) + 1) if matches(value[:end], pattern)]
    expected = value[(max(ends) if longest else min(ends)) :] if ends else value
    assert trim_prefix(pattern, value, longest=longest) == expected
    starts = [start for start in range(len(value) + 1) if matches(value[start:], pattern)]
    expected = value[: (min(starts) if longest else max(starts))] if starts else value
    assert trim_suffix(pattern, value, longest=longest) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab", min_size=1, max_size=3), st.text(alphabet="abc", max_size=12))
def test_replacing_a_literal_is_replacing_a_substring(pattern: str, value: str) -> None:
    assert replace_matches(pattern, value, "-", every=True) == value.replace(pattern, "-")
    assert replace_matches(pattern, value, "-", every=False) == value.replace(pattern, "-", 1)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_an_escaped_text_expands_to_itself(text: str) -> None:
    assume("\n" not in text)
    escaped = "".join("\\" + c for c in text)
    assert expand(escaped, VALUES).text == text


def test_a_foreign_escape_in_a_pattern_is_refused() -> None:
    with pytest.raises(GlobError, match="invalid escape"):
        trim_prefix("\\c", "value", longest=False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    ["${x:-" * 100_000, "${x:-" * 100_000 + "}" * 100_000, "${a#*o*n*e" * 20_000, '"' * 100_001],
)
def test_deep_nesting_ends_soon(text: str) -> None:
    with suppress(ExpansionError):
        assert expand(text, VALUES).used <= set(VALUES)


@pytest.mark.timeout(60)
def test_a_pattern_of_many_stars_does_not_backtrack() -> None:
    value = {"v": "x" * 20_000}
    assert expand("${v#" + "*x" * 30 + "y}", value).text == value["v"]
    assert expand("${v//" + "*x" * 30 + "y/z}", value).text == value["v"]
