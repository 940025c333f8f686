"""Options of `build` as the values of a BuildRequest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from buildkit_py.cli.build import display_kind, make_request, parse_secret, parse_ssh
from buildkit_py.cli.build_options import configure
from buildkit_py.cli.options import CommandParser
from buildkit_py.engine.request import Secret, SshAgent
from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from buildkit_py.engine.request import BuildRequest


def parsed(*words: str) -> Namespace:
    parser = CommandParser("build", "")
    configure(parser)
    return parser.parse([*words, "."])


def request(*words: str) -> BuildRequest:
    return make_request(parsed(*words))


def test_no_options_give_the_defaults() -> None:
    made = request()
    assert made.context == "."
    assert made == type(made)(context=".")


def test_names_and_values() -> None:
    made = request("--build-arg", "A=1", "--build-arg", "B", "--label", "x=y=z", "--label", "e")
    assert made.build_args == {"A": "1", "B": None}
    assert made.labels == {"x": "y=z", "e": ""}


def test_comma_lists_are_parted() -> None:
    made = request("--platform", "linux/amd64, linux/arm64", "--no-cache-filter", "a,b")
    assert made.platforms == ("linux/amd64", "linux/arm64")
    assert made.no_cache_filter == ("a", "b")


def test_limits_of_the_classic_builder_become_resources() -> None:
    made = request("-m", "512m", "--cpu-quota", "50000", "--resource", "cpuset-cpus=0")
    assert made.resources == ("memory=512m", "cpu-quota=50000", "cpuset-cpus=0")


def test_options_without_meaning_here_are_accepted() -> None:
    assert request("--rm", "--force-rm=true", "--compress", "--builder", "x") == request()


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("id=tok,src=/a/b", Secret(id="tok", path="/a/b")),
        ("id=tok,source=b,type=file", Secret(id="tok", path="b")),
        ("src=dir/tok", Secret(id="tok", path="dir/tok")),
        ("id=tok,env=TOKEN", Secret(id="tok", env="TOKEN")),
        ("id=tok,type=env", Secret(id="tok", env="tok")),
        ("type=env,id=tok,src=NAME", Secret(id="tok", env="NAME")),
        ("id=tok", Secret(id="tok", path="tok")),
        ('id=tok,"src=a,b"', Secret(id="tok", path="a,b")),
    ],
)
def test_secrets(text: str, secret: Secret) -> None:
    assert parse_secret(text) == secret


def test_a_secret_by_its_id_alone_is_the_variable_of_that_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("tok", "value")
    assert parse_secret("id=tok") == Secret(id="tok", env="tok")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tok", "invalid field 'tok' for --secret: must be a key=value pair"),
        ("id=x,typ=env", "unexpected key 'typ' in 'id=x,typ=env' for --secret"),
        ("id=x,type=tape", 'unsupported secret type "tape"'),
        ("type=file", "invalid secret 'type=file': an id is needed"),
    ],
)
def test_wrong_secrets_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_secret(text)
    assert caught.value.message == message


def test_ssh_values() -> None:
    assert parse_ssh("default") == SshAgent(id="default")
    assert parse_ssh("git=/a,/b") == SshAgent(id="git", paths=("/a", "/b"))


def test_quiet_and_another_display_conflict() -> None:
    with pytest.raises(UsageError):
        display_kind(parsed("-q", "--progress=plain"))


def test_the_display_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYBUILD_PROGRESS", raising=False)
    monkeypatch.setenv("BUILDKIT_PROGRESS", "rawjson")
    assert display_kind(parsed()) == "rawjson"
    assert display_kind(parsed("--progress=tty")) == "tty"


@pytest.mark.parametrize(
    "words",
    [["--squash=some"], ["--build-arg", "=x"], ["--build-context", "name"], ["-o-", "-o-"]],
)
def test_wrong_values_are_usage_errors(words: list[str]) -> None:
    with pytest.raises(UsageError):
        request(*words)
