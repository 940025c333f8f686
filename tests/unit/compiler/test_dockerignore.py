from __future__ import annotations

import pytest

from buildkit_py.dockerignore import IgnoreError, IgnoreMatcher, read_patterns


def matcher(*patterns: str) -> IgnoreMatcher:
    return IgnoreMatcher(read_patterns("\n".join(patterns)))


def test_reading_drops_comments_and_cleans_paths() -> None:
    text = "\ufeff# comment\n #pattern\n\n  a/../b/ \n./c\nd//e\n/f\n! /g\n/\n"
    assert read_patterns(text) == ("#pattern", "b", "c", "d/e", "f", "!g", "/")


@pytest.mark.parametrize(
    ("pattern", "excluded", "kept"),
    [
        ("foo", ["foo", "foo/bar"], ["a/foo", "foobar"]),
        ("/foo", ["foo"], ["a/foo"]),
        ("*.md", ["a.md", ".md"], ["d/a.md", "a.mdx"]),
        ("*/*.md", ["d/a.md"], ["a.md", "d/e/a.md"]),
        ("**/*.md", ["a.md", "d/e/a.md"], ["a.mdx"]),
        ("**/x", ["x", "a/b/x", "x/y"], ["ax"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az", "a/bz"]),
        ("**", ["a", "a/b"], []),
        ("*", ["a", "a/b"], []),
        (".", [], ["a"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a-c]x", ["dx"], ["ax"]),
        ("[#]x", ["#x"], ["x"]),
        ("\\#x", ["#x"], ["x"]),
        ("a\\*", ["a*"], ["ab"]),
        ("a.b", ["a.b"], ["axb"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("node_modules", ["node_modules/a/b"], ["src/node_modules"]),
        ("**foo", ["foo", "a/barfoo"], ["foo2"]),
        ("*a*b*c*d*e", ["abcde", "1a2b3c4d5e"], ["abced", "a/bcde"]),
        ("**/a/**/b/**/c/*x*", ["a/b/c/x", "1/a/2/b/3/4/c/yxy"], ["a/b/x", "b/a/c/x"]),
    ],
)
def test_each_pattern_form(pattern: str, excluded: list[str], kept: list[str]) -> None:
    found = matcher(pattern)
    assert [path for path in excluded if not found.excluded(path)] == []
    assert [path for path in kept if found.excluded(path)] == []


def test_the_last_pattern_that_matches_decides() -> None:
    found = matcher("*.md", "!README*.md", "README-secret.md")
    assert [found.excluded(p) for p in ("a.md", "README.md", "README-secret.md")] == [
        True,
        False,
        True,
    ]


def test_an_exception_alone_excludes_nothing() -> None:
    assert not matcher("!a").excluded("a")


def test_without_exceptions_an_excluded_directory_is_not_entered() -> None:
    found = matcher("node_modules")
    assert not found.has_exceptions
    assert not found.may_descend("node_modules")
    assert found.may_descend("src")


def test_plain_exceptions_open_only_the_directories_on_their_way() -> None:
    found = matcher("*", "!a/b/c")
    assert [found.may_descend(p) for p in ("a", "a/b", "a/x", "z")] == [True, True, False, False]


def test_a_wildcard_exception_opens_every_directory() -> None:
    found = matcher("volume/", "!**/oneline.txt")
    assert found.may_descend("volume")
    assert found.may_descend("volume/data")
    assert not found.excluded("volume/data/oneline.txt")
    assert found.excluded("volume/data/other")


@pytest.mark.parametrize("pattern", ["[", "a[", "[]", "[a-]", "[-a]", "a\\", "[z-a]"])
def test_a_bad_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(IgnoreError, match="syntax error in pattern"):
        matcher(pattern)


def test_a_lone_exclamation_mark_is_an_error() -> None:
    with pytest.raises(IgnoreError, match='illegal exclusion pattern: "!"'):
        matcher("!")


@pytest.mark.timeout(30)
def test_many_wildcards_do_not_backtrack() -> None:
    found = matcher("*a" * 20 + "b", "**/" * 5 + "x" + "**/y*" * 10)
    assert not found.excluded("a" * 200)
    assert not found.excluded("/".join(["x"] * 100))
