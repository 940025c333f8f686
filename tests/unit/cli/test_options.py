"""The command parser: docker's habits, and one clear complaint for a wrong line."""

from __future__ import annotations

import argparse

import pytest

from buildkit_py.cli.build_options import configure
from buildkit_py.cli.options import CommandParser, byte_count, seconds
from buildkit_py.errors import UsageError


@pytest.fixture
def parser() -> CommandParser:
    made = CommandParser("build", "Build an image")
    configure(made)
    return made


def test_options_and_operand_mix_freely(parser: CommandParser) -> None:
    args = parser.parse([".", "-t", "a", "--tag=b", "-tc", "--no-cache"])
    assert (args.context, args.tag, args.no_cache) == (".", ["a", "b", "c"], True)


def test_a_flag_takes_a_value_by_equals_sign_only(parser: CommandParser) -> None:
    args = parser.parse(["--pull", "dir"])
    assert (args.pull, args.context) == (True, "dir")
    assert parser.parse(["--pull=false", "dir"]).pull is False
    assert parser.parse(["-q", "dir"]).quiet is True


def test_an_optional_value_does_not_swallow_the_operand(parser: CommandParser) -> None:
    args = parser.parse(["--squash", "dir"])
    assert (args.squash, args.context) == ("stage", "dir")
    assert parser.parse(["--squash=all", "dir"]).squash == "all"


def test_a_value_may_begin_with_a_dash(parser: CommandParser) -> None:
    args = parser.parse(["--build-arg", "-x=1", "-o", "-", "-f", "-", "."])
    assert (args.build_arg, args.output, args.file) == (["-x=1"], ["-"], "-")


def test_dash_alone_is_an_operand(parser: CommandParser) -> None:
    assert parser.parse(["-t", "x", "-"]).context == "-"


def test_double_dash_ends_options(parser: CommandParser) -> None:
    assert parser.parse(["--", "--odd"]).context == "--odd"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tagg", "x", "."], "unknown flag: --tagg (did you mean --tag?)"),
        (["-Z", "."], "unknown shorthand flag: -Z"),
        (["."] * 2, '"pybuild build" does not take the argument "."'),
        ([".", "-t"], "flag needs an argument: -t"),
        (["--pull=perhaps", "."], 'invalid argument for --pull: invalid boolean value "perhaps"'),
        (["--shm-size=much", "."], "invalid argument for --shm-size: invalid size: 'much'"),
        (["--jobs=x", "."], "invalid argument for --jobs: invalid int value: 'x'"),
        (["--pul", "."], "unknown flag: --pul (did you mean --pull?)"),
    ],
)
def test_a_wrong_line_is_one_clear_complaint(
    parser: CommandParser, words: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parser.parse(words)
    assert caught.value.message == message
    assert caught.value.hint == "see 'pybuild build --help'"


@pytest.mark.parametrize(
    ("words", "index"),
    [(["."], 0), (["-t", "x", "."], 2), (["--tag=x", "images"], 1), (["-qt", "x", "."], 2)],
)
def test_the_first_operand_is_found_behind_options(
    parser: CommandParser, words: list[str], index: int
) -> None:
    assert parser.first_operand(words) == index


def test_no_operand_is_none(parser: CommandParser) -> None:
    assert parser.first_operand(["-t", "x"]) is None


def test_options_first_leaves_the_programs_own_options_alone() -> None:
    parser = CommandParser("run", "Run")
    parser.options_first = True
    parser.add_argument("-e", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    args = parser.parse(["-e", "A=1", "busybox", "ls", "-e", "--all"])
    assert (args.e, args.image, args.words) == (["A=1"], "busybox", ["ls", "-e", "--all"])


def test_help_lists_options_by_name_with_dockers_types(parser: CommandParser) -> None:
    text = parser.format_help()
    assert text.startswith("\nUsage:  pybuild build [OPTIONS] PATH | URL | -\n\nBuild an image\n")
    assert "\n  -t, --tag list " in text
    assert text.index("--add-host") < text.index("--build-arg") < text.index("--ulimit")
    assert "--force-rm" not in text


@pytest.mark.parametrize(
    ("text", "count"), [("64m", 64 << 20), ("1.5g", 3 << 29), ("512", 512), ("2KiB", 2048)]
)
def test_sizes_are_dockers(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize(("text", "time"), [("90s", 90.0), ("1h30m", 5400.0), ("250ms", 0.25)])
def test_durations_are_gos(text: str, time: float) -> None:
    assert seconds(text) == time
