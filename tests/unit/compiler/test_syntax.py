from __future__ import annotations

import pytest

from buildkit_py.dockerfile import parse
from buildkit_py.errors import DockerfileErrors
from buildkit_py.instructions.copy import Copy
from buildkit_py.instructions.env import Env
from buildkit_py.instructions.run import Run
from buildkit_py.suggest import nearest
from buildkit_py.syntax import Command, ExecForm, ShellForm


def command(text: str) -> Command:
    item = parse(f"FROM a\nRUN {text}").stages[0].instructions[0]
    assert isinstance(item, Run)
    return item.command


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('["a", "b c"]', ("a", "b c")),
        ('  ["a"]  ', ("a",)),
        ("[]", ()),
        ('["\\u00e9\\n"]', ("é\n",)),
        ('["\\ud800"]', ("\ufffd",)),
    ],
)
def test_a_json_array_is_the_exec_form(text: str, arguments: tuple[str, ...]) -> None:
    assert command(text) == ExecForm(arguments=arguments)


@pytest.mark.parametrize(
    "text", ["['a']", '["a"', '["a"] b', "[ -f x ]", '["a",]', "[NaN]", 'echo ["a"]']
)
def test_what_is_no_valid_json_falls_back_to_the_shell_form(text: str) -> None:
    assert command(text) == ShellForm(text=text)


@pytest.mark.parametrize("text", ['["a", 1]', "[null]", '[["a"]]'])
def test_an_array_of_other_things_than_strings_is_an_error(text: str) -> None:
    with pytest.raises(DockerfileErrors, match="arrays must be comprised of strings only"):
        command(text)


def test_quotes_and_escapes_work_inside_a_flag_word() -> None:
    item = parse("FROM a\nCOPY --chown='a b':c --exclude=x\\ y s d").stages[0].instructions[0]
    assert isinstance(item, Copy)
    assert (item.chown, item.exclude) == ("a b:c", ("x y",))


def test_a_bare_double_dash_ends_the_flags() -> None:
    item = parse("FROM a\nRUN --network=none -- --echo").stages[0].instructions[0]
    assert isinstance(item, Run)
    assert (item.network, item.command) == ("none", ShellForm(text="--echo"))


def test_flags_do_not_follow_operands() -> None:
    assert command("echo --network=none") == ShellForm(text="echo --network=none")


def test_short_words_get_no_suggestion_that_is_another_word() -> None:
    options = ["RUN", "CMD", "ADD", "ENV"]
    near = {
        word: nearest(word, options) for word in ("RNU", "RUM", "EVN", "ABC", "AND", "CP", "X")
    }
    assert near == {
        "RNU": "RUN",
        "RUM": "RUN",
        "EVN": "ENV",
        "ABC": None,
        "AND": "ADD",
        "CP": None,
        "X": None,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN --mont=x y", "unknown flag: --mont (did you mean mount?)"),
        ("COPY --from=a --from=b c d", "duplicate flag specified: --from"),
        ("COPY --from a b", "missing a value on flag: --from"),
        ("COPY --link= a b", "missing a value on flag: --link"),
        ("COPY --link=yes a b", "expecting boolean value for flag --link, not: yes"),
        ("ENV --x a=b", "unknown flag: --x"),
        ("COPPY a b", "unknown instruction: COPPY (did you mean COPY?)"),
        ("coppy a b", "unknown instruction: coppy (did you mean copy?)"),
        ("FOOBAR", "unknown instruction: FOOBAR"),
    ],
)
def test_what_is_unknown_gets_a_suggestion(text: str, message: str) -> None:
    with pytest.raises(DockerfileErrors) as caught:
        parse(f"FROM a\n{text}")
    assert caught.value.message == message


@pytest.mark.parametrize("value", ["true", "TRUE", "True"])
def test_a_boolean_flag_takes_true_in_any_case(value: str) -> None:
    item = parse(f"FROM a\nCOPY --link={value} a b").stages[0].instructions[0]
    assert isinstance(item, Copy)
    assert item.link


def test_the_escape_directive_reaches_the_words() -> None:
    item = parse("# escape=`\nFROM a\nENV a=b` c d=\\").stages[0].instructions[0]
    assert isinstance(item, Env)
    assert [(pair.key, pair.value) for pair in item.pairs] == [("a", "b` c"), ("d", "\\")]


def test_a_backslash_escapes_in_flags_whatever_the_directive_says() -> None:
    text = "# escape=`\nFROM a\nCOPY --chown=1\\:2 --exclude=a`b x y\n"
    item = parse(text).stages[0].instructions[0]
    assert isinstance(item, Copy)
    assert (item.chown, item.exclude) == ("1:2", ("a`b",))


def test_a_no_break_space_is_part_of_a_path() -> None:
    item = parse("FROM a\nCOPY a\xa0b \xa0 c d").stages[0].instructions[0]
    assert isinstance(item, Copy)
    assert item.sources == ("a\xa0b", "\xa0", "c")
