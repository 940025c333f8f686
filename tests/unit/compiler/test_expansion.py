from __future__ import annotations

import pytest

from buildkit_py.expansion import (
    Expander,
    ExpansionError,
    expand,
    expand_words,
    referenced_names,
)

VARIABLES = {"v": "val", "e": "", "p": "foo/bar/baz.tar.gz", "w": "1 2", "s": "a*b?c", "né": "é"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # plain
        ("$v", "val"),
        ("${v}x", "valx"),
        ("$v.x", "val.x"),
        ("$unset|${unset}", "|"),
        ("$.", "$."),
        ("$", "$"),
        ("a$", "a$"),
        ("$1x $10y $@ $* $# $? $- $$ $! $0", "x y        "),
        ("$né", "é"),
        # defaults
        ("${unset:-w}", "w"),
        ("${e:-w}", "w"),
        ("${v:-w}", "val"),
        ("${unset-w}", "w"),
        ("${e-w}", ""),
        ("${unset:-a b}", "a b"),
        # alternatives
        ("${v:+w}", "w"),
        ("${e:+w}", ""),
        ("${e+w}", "w"),
        ("${unset+w}", ""),
        # required
        ("${v:?m}", "val"),
        ("${e?m}", ""),
        # prefix and suffix
        ("${p#*/}", "bar/baz.tar.gz"),
        ("${p##*/}", "baz.tar.gz"),
        ("${p%.*}", "foo/bar/baz.tar"),
        ("${p%%.*}", "foo/bar/baz"),
        ("${p#x}", "foo/bar/baz.tar.gz"),
        ("${p#f?o}", "/bar/baz.tar.gz"),
        ("${s#a\\*}", "b?c"),
        ("${s%\\?c}", "a*b"),
        # replacement
        ("${p/ba/X}", "foo/Xr/baz.tar.gz"),
        ("${p//ba/X}", "foo/Xr/Xz.tar.gz"),
        ("${p/\\//-}", "foo-bar/baz.tar.gz"),
        ("${p/*\\//}", "baz.tar.gz"),
        ("${p//[/x}", "foo/bar/baz.tar.gz"),
        ("${p/a*/$v}", "foo/bval"),
        # nesting
        ("${unset:-${also:-$v}}", "val"),
        ('${unset:-"a}b"}', "a}b"),
        ("${v:+${p##*/}}", "baz.tar.gz"),
        # quotes and escapes
        ("'$v'", "$v"),
        ('"$v"', "val"),
        ('"a\\"b"', 'a"b'),
        ('"a\\nb"', "a\\nb"),
        ('"\\$v \\\\"', "$v \\"),
        ("abc\\tdef", "abctdef"),
        ("\\$v", "$v"),
        ("abc\\", "abc"),
        ("a'b'c\"d\"", "abcd"),
        ('"it\'s"', "it's"),
        ("''", ""),
    ],
)
def test_each_form_expands(text: str, expected: str) -> None:
    assert expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${unset:?m}", "unset: m"),
        ("${unset?}", "unset: is not allowed to be unset"),
        ("${e:?}", "e: is not allowed to be empty"),
        ("${e:?$v}", "e: val"),
        ("${v:=w}", "unsupported modifier (:=) in substitution"),
        ("${v:x}", "unsupported modifier (:x) in substitution"),
        ("${v:#p}", "unsupported modifier (:#) in substitution"),
        ("${v^}", "unsupported modifier (^) in substitution"),
        ("${}", "syntax error: bad substitution"),
        ("${:}", "syntax error: bad substitution"),
        ("${{v}}", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("${v", "syntax error: missing '}'"),
        ("${v:-a", "syntax error: missing '}'"),
        ("${v:-'a", "syntax error: missing '}'"),
        ("${v/a", "syntax error: missing '/' in ${}"),
        ("${v/a/b", "syntax error: missing '}'"),
        ("${v#\\c}", "invalid pattern (\\c) in substitution: invalid escape '\\c'"),
        ('"a', "unexpected end of statement while looking for matching double-quote"),
        ("'a", "unexpected end of statement while looking for matching single-quote"),
    ],
)
def test_each_refused_form_has_its_text(text: str, message: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(text, VARIABLES)
    assert caught.value.message == message


def test_the_escape_character_can_be_a_backtick() -> None:
    assert expand('`$v \\$v "`""', VARIABLES, escape="`").text == '$v \\val "'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$w", ("1", "2")),
        ('"$w"', ("1 2",)),
        ("x$w", ("x1", "2")),
        ("$w$w", ("1", "21", "2")),
        ("a\\ b", ("a b",)),
        ("  a  b ", ("a", "b")),
        ("$unset", ()),
        ("''", ()),
        ("${unset:-a b}", ("a", "b")),
    ],
)
def test_words_split_where_no_quote_protects(text: str, expected: tuple[str, ...]) -> None:
    assert expand_words(text, VARIABLES) == expected


def test_used_and_unset_names_are_told() -> None:
    found = expand("$v ${no:-x}", VARIABLES)
    assert (found.used, found.unset) == ({"v"}, {"no"})


def test_an_expander_collects_names_over_words() -> None:
    expander = Expander(VARIABLES)
    expander.word("$v")
    expander.words("$other")
    assert (expander.used, expander.unset) == ({"v"}, {"other"})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("\\\n", "\n"),
        ("\\\\\n", "\\\n"),
        ("\\$v\n", "$v\n"),
        ("\"$v\" '$v'\n", "\"val\" 'val'\n"),
    ],
)
def test_quotes_are_text_in_a_here_document(body: str, expected: str) -> None:
    assert Expander(VARIABLES, escape="`").heredoc(body) == expected


def test_names_are_found_inside_words() -> None:
    assert referenced_names("$a ${b:-${c}} '$d'") == {"a", "b", "c"}


def test_a_text_that_grows_without_bound_is_refused() -> None:
    with pytest.raises(ExpansionError, match="too long"):
        expand("$a" * 1000, {"a": "x" * 100_000})
