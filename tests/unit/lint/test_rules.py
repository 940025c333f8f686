"""Each rule of the standard group: what it says, where, and when it is silent."""

from __future__ import annotations

from typing import Any

import pytest

from buildkit_py.dockerfile import parse
from buildkit_py.errors import InvalidArgument
from buildkit_py.lint import check_options, lint, violation
from buildkit_py.lint.rule import RULES, parse_check
from buildkit_py.oci.config import ContainerConfig, ImageConfig
from buildkit_py.platforms import Platform
from buildkit_py.stages import BuildOptions, plan


def findings(
    text: str, *, ignore: tuple[str, ...] | None = None, base: Any = None, **options: Any
) -> list[tuple[str, int, str]]:
    dockerfile = parse(text)
    build = BuildOptions(**options)
    planned = plan(dockerfile, build)
    bases = {} if base is None else {wanted.key: base for wanted in planned.bases}
    return [
        (item.rule, item.line, item.message)
        for item in lint(dockerfile, plan=planned, bases=bases, ignore=ignore)
    ]


CASES = [
    (
        "FROM scratch AS Base\n",
        [("StageNameCasing", 1, "Stage name 'Base' should be lowercase")],
    ),
    (
        "FROM scratch as base\n",
        [("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")],
    ),
    (
        "from scratch AS base\n",
        [("FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match")],
    ),
    (
        "FROM scratch\nRUN a \\\n\n  b\n",
        [("NoEmptyContinuation", 4, "Empty continuation line")],
    ),
    (
        "FROM scratch\nCOPY a b\ncopy c d\n",
        [
            (
                "ConsistentInstructionCasing",
                3,
                "Command 'copy' should match the case of the command majority (uppercase)",
            )
        ],
    ),
    (
        "from scratch\ncopy a b\nCOPY c d\n",
        [
            (
                "ConsistentInstructionCasing",
                3,
                "Command 'COPY' should match the case of the command majority (lowercase)",
            )
        ],
    ),
    (
        "From scratch\ncopy a b\n",
        [
            (
                "ConsistentInstructionCasing",
                1,
                "Command 'From' should match the case of the command majority (lowercase)",
            )
        ],
    ),
    (
        "FROM scratch AS a\nFROM scratch AS a\n",
        [
            (
                "DuplicateStageName",
                2,
                'Duplicate stage name "a", stage names should be unique',
            )
        ],
    ),
    (
        "FROM scratch AS context\n",
        [
            (
                "ReservedStageName",
                1,
                'Stage name should not use the same name as reserved stage "context"',
            )
        ],
    ),
    (
        "FROM scratch\nCMD echo\n",
        [
            (
                "JSONArgsRecommended",
                2,
                (
                    "JSON arguments recommended for CMD to prevent unintended behavior related"
                    " to OS signals"
                ),
            )
        ],
    ),
    (
        "FROM scratch\nMAINTAINER me\n",
        [
            (
                "MaintainerDeprecated",
                2,
                "Maintainer instruction is deprecated in favor of using label",
            )
        ],
    ),
    (
        "ARG TAG=1\nFROM busybox:1${TAGG}\n",
        [
            (
                "UndefinedArgInFrom",
                2,
                "FROM argument 'TAGG' is not declared (did you mean TAG?)",
            )
        ],
    ),
    (
        "FROM scratch\nWORKDIR app/src\n",
        [
            (
                "WorkdirRelativePath",
                2,
                'Relative workdir "app/src" can have unexpected results if the base image changes',
            )
        ],
    ),
    (
        "FROM scratch\nARG foo=1\nCOPY $fo .\n",
        [("UndefinedVar", 3, "Usage of undefined variable '$fo' (did you mean $foo?)")],
    ),
    (
        "FROM scratch\nCOPY $nothing .\n",
        [("UndefinedVar", 2, "Usage of undefined variable '$nothing'")],
    ),
    (
        'FROM scratch\nCMD ["a"]\nCMD ["b"]\n',
        [
            (
                "MultipleInstructionsDisallowed",
                2,
                (
                    "Multiple CMD instructions should not be used in the same stage because only"
                    " the last one will be used"
                ),
            )
        ],
    ),
    (
        "FROM scratch\nENV a b\n",
        [
            (
                "LegacyKeyValueFormat",
                2,
                '"ENV key=value" should be used instead of legacy "ENV key value" format',
            )
        ],
    ),
    (
        "FROM --platform=$TARGETPLATFORM scratch\n",
        [
            (
                "RedundantTargetPlatform",
                1,
                (
                    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this"
                    " is the default behavior"
                ),
            )
        ],
    ),
    (
        "FROM scratch\nARG MY_SECRET\nENV API_KEY=x\n",
        [
            (
                "SecretsUsedInArgOrEnv",
                2,
                'Do not use ARG or ENV instructions for sensitive data (ARG "MY_SECRET")',
            ),
            (
                "SecretsUsedInArgOrEnv",
                3,
                'Do not use ARG or ENV instructions for sensitive data (ENV "API_KEY")',
            ),
        ],
    ),
    (
        "FROM --platform=linux/amd64 scratch\n",
        [
            (
                "FromPlatformFlagConstDisallowed",
                1,
                'FROM --platform flag should not use constant value "linux/amd64"',
            )
        ],
    ),
    (
        "FROM scratch\nEXPOSE 80/TCP\n",
        [
            (
                "ExposeProtoCasing",
                2,
                "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
            )
        ],
    ),
    (
        "FROM scratch\nEXPOSE 127.0.0.1:80:80\n",
        [
            (
                "ExposeInvalidFormat",
                2,
                (
                    "EXPOSE instruction should not define an IP address or host-port mapping,"
                    " found '127.0.0.1:80:80'"
                ),
            )
        ],
    ),
]


@pytest.mark.parametrize(
    ("text", "expected"), CASES, ids=[f"{c[1][0][0]}-{i}" for i, c in enumerate(CASES)]
)
def test_rule_speaks(text: str, expected: list[tuple[str, int, str]]) -> None:
    assert findings(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch AS base\nfrom base\n".replace("from", "FROM"),
        'FROM scratch\nSHELL ["/bin/bash", "-c"]\nCMD echo\n',
        'FROM scratch AS a\nSHELL ["/bin/bash", "-c"]\nFROM a\nENTRYPOINT echo\n',
        "FROM scratch\nWORKDIR /app\nWORKDIR src\n",
        "FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR src\n",
        "FROM scratch\nARG foo\nCOPY $foo .\n",
        "FROM scratch\nCOPY ${foo:-x} $PATH .\n".replace("${foo:-x} ", ""),
        "FROM scratch AS a\nARG foo=1\nFROM a\nCOPY $foo .\n",
        "FROM --platform=$BUILDPLATFORM scratch\n",
        "FROM --platform=linux/amd64 scratch AS build-amd64\n",
        "FROM scratch\nARG PUBLIC_KEY\nENV TOKEN_FILE=x KEYBOARD=y\n",
        "FROM scratch\nEXPOSE 80/tcp 81-83\n",
        "From scratch AS a\n".replace("From", "FROM"),
        'FROM scratch AS a\nCMD ["x"]\nFROM a\nCMD ["y"]\n',
        "FROM scratch\nRUN echo $undefined\n",
    ],
)
def test_rules_are_silent(text: str) -> None:
    assert findings(text) == []


def test_default_arguments_must_give_an_image_name() -> None:
    text = "ARG VERSION\nFROM busybox:$VERSION\n"
    assert findings(text, build_args={"VERSION": "1"}) == [
        (
            "InvalidDefaultArgInFrom",
            2,
            "Default value for ARG busybox:$VERSION results in empty or invalid base image name",
        )
    ]
    assert findings("ARG VERSION=2\nFROM busybox:$VERSION\n") == []


def test_a_base_of_another_platform_is_told() -> None:
    arm = ImageConfig(platform=Platform(architecture="arm64"))
    assert findings("FROM busybox\n", base=arm) == [
        (
            "InvalidBaseImagePlatform",
            1,
            (
                'Base image busybox was pulled with platform "linux/arm64", expected "linux/amd64"'
                " for current build"
            ),
        )
    ]


def test_variables_of_a_known_base_are_defined() -> None:
    text = "FROM golang\nCOPY x $GOPATH\nCOPY y $OTHER\n"
    base = ImageConfig(config=ContainerConfig(env=("GOPATH=/go",)))
    assert findings(text, base=base) == [
        ("UndefinedVar", 3, "Usage of undefined variable '$OTHER'")
    ]


def test_of_an_unknown_base_only_misspellings_are_told() -> None:
    assert findings("FROM golang\nCOPY x $GOPATH\nCOPY y $PAHT\n") == [
        ("UndefinedVar", 3, "Usage of undefined variable '$PAHT' (did you mean $PATH?)")
    ]


@pytest.mark.parametrize(
    ("patterns", "source", "told"),
    [
        (("ignored",), "ignored", True),
        (("ignored",), "./ignored/", True),
        (("dir",), "dir/file", True),
        (("ignored",), "other", False),
        (("*.txt",), "*.txt", False),
        (("dir", "!dir/keep"), "dir", False),
        (("dir", "!dir/keep"), "dir/other", True),
        (("dir", "!**/keep"), "dir", False),
        (("**",), ".", True),
        (("a",), ".", False),
    ],
)
def test_sources_that_the_ignore_file_leaves_out(
    patterns: tuple[str, ...], source: str, told: bool
) -> None:
    found = findings(f"FROM scratch\nCOPY {source} /x/\n", ignore=patterns)
    assert bool(found) is told
    if told:
        assert found[0][0] == "CopyIgnoredFile"


def test_an_ignored_source_is_named_as_the_instruction_says_it() -> None:
    text = "FROM scratch\nADD ./a/../b /x\nCOPY --from=busybox b /\n"
    assert findings(text, ignore=("b",)) == [
        (
            "CopyIgnoredFile",
            2,
            'Attempting to Add file "b" that is excluded by .dockerignore',
        )
    ]


def test_rules_about_instructions_look_only_at_what_is_built() -> None:
    text = "FROM scratch AS unused\nWORKDIR rel\nFROM scratch\n"
    assert findings(text) == []
    assert findings(text, all_stages=True)[0][0] == "WorkdirRelativePath"


def test_problems_of_triggers_are_told_at_from() -> None:
    text = "FROM scratch AS a\nONBUILD WORKDIR rel\nFROM a\n"
    assert [(rule, line) for rule, line, _ in findings(text)] == [("WorkdirRelativePath", 3)]


# -------------------------------------------------------------- check options
def test_a_directive_skips_rules_in_the_whole_file() -> None:
    text = "FROM scratch AS Base\nMAINTAINER me\n"
    assert len(findings(text)) == 2
    assert [f[0] for f in findings("# check=skip=StageNameCasing\n" + text)] == [
        "MaintainerDeprecated"
    ]
    assert findings("# check=skip=all\n" + text) == []


def test_a_comment_skips_rules_for_one_instruction() -> None:
    text = "FROM scratch\nWORKDIR /a\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n"
    assert [(rule, line) for rule, line, _ in findings(text)] == [("LegacyKeyValueFormat", 5)]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("# check=skip=StageNameCasing, MaintainerDeprecated", {"MaintainerDeprecated"}),
        ("# check=skip=MaintainerDeprecated,StageNameCasing now", set()),
        ("#check = error=true;skip=StageNameCasing", {"MaintainerDeprecated"}),
        ("# check=error=true;experimental=all;skip=StageNameCasing,MaintainerDeprecated", set()),
    ],
)
def test_the_value_of_a_check_directive_ends_at_the_first_blank(line: str, left: set[str]) -> None:
    text = f"{line}\nFROM scratch AS Base\nMAINTAINER me\n"
    assert {rule for rule, *_ in findings(text)} == left


def test_prose_above_an_instruction_that_looks_like_a_check_is_no_error() -> None:
    text = "FROM scratch\n# check=all of it\nMAINTAINER me\n"
    assert [rule for rule, *_ in findings(text)] == ["MaintainerDeprecated"]


def test_the_first_check_of_a_comment_counts_and_ends_at_a_blank() -> None:
    text = "FROM scratch\n# check=skip={}\n# check=skip=all\nMAINTAINER me\n"
    assert len(findings(text.format("StageNameCasing, MaintainerDeprecated"))) == 1
    assert findings(text.format("MaintainerDeprecated see issue")) == []


def test_experimental_rules_speak_only_when_asked() -> None:
    text = "# other\nARG foo=1\n# wrong\nFROM scratch AS web\n# also wrong\nARG bar\n"
    assert findings("\n" + text) == []
    asked = findings("# check=experimental=InvalidDefinitionDescription\n\n" + text)
    assert asked == [
        (
            "InvalidDefinitionDescription",
            4,
            "Comment for ARG should follow the format: `# foo <description>`",
        ),
        (
            "InvalidDefinitionDescription",
            6,
            "Comment for FROM should follow the format: `# web <description>`",
        ),
        (
            "InvalidDefinitionDescription",
            8,
            "Comment for ARG should follow the format: `# bar <description>`",
        ),
    ]
    assert len(findings("# check=experimental=all\n\n" + text)) == 3


def test_a_build_argument_replaces_the_directive() -> None:
    text = "# check=skip=all\nFROM scratch AS Base\n"
    given = {"BUILDKIT_DOCKERFILE_CHECK": "skip=none;error=true"}
    assert len(findings(text, build_args=given)) == 1


def test_findings_can_be_errors() -> None:
    dockerfile = parse("# check=error=true\nFROM scratch AS Base\nMAINTAINER me\n")
    check = check_options(dockerfile)
    error = violation(lint(dockerfile, check=check), check)
    assert error is not None
    assert error.message == (
        "lint violation found for rules: MaintainerDeprecated, StageNameCasing"
    )
    assert violation((), check) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skp=all", 'failed to parse check options: invalid check option "skp"'),
        ("all", 'failed to parse check options: invalid check option "all"'),
        (
            "error=maybe",
            (
                'failed to parse check options: failed to parse check option "error=maybe":'
                ' strconv.ParseBool: parsing "maybe": invalid syntax'
            ),
        ),
    ],
)
def test_malformed_check_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_check(text)
    assert caught.value.message == message


def test_a_malformed_directive_names_its_line() -> None:
    with pytest.raises(InvalidArgument) as caught:
        lint(parse("# check=x=y\nFROM scratch\n"))
    assert caught.value.spans[0].start.line == 1


def test_a_file_that_cannot_be_planned_is_checked_as_far_as_it_goes() -> None:
    dockerfile = parse("FROM scratch AS Base\nCOPY --from=0 a b\nWORKDIR rel\n")
    assert {item.rule for item in lint(dockerfile)} == {"StageNameCasing", "WorkdirRelativePath"}


def test_every_rule_has_its_page() -> None:
    lint(parse("FROM scratch\n"))
    standard = [rule for rule in RULES.values() if not rule.extended]
    assert len(standard) == 22
    assert {rule.name for rule in standard if not rule.url} == {"InvalidBaseImagePlatform"}
    assert RULES["JSONArgsRecommended"].url == (
        "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    )


def test_an_undefined_port_is_not_told() -> None:
    assert findings("FROM scratch\nEXPOSE $PORT\n") == []


def test_variables_of_a_word_that_cannot_be_expanded_are_told() -> None:
    found = findings("FROM scratch\nENV a=${b:?needed}\n")
    assert found == [("UndefinedVar", 2, "Usage of undefined variable '$b'")]
