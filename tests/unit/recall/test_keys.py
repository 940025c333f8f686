"""What makes two command lines the same build."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_py.recall.keys import command_key, root_of
from buildkit_py.store.paths import default_root


@pytest.mark.parametrize(
    "environment",
    [
        {"PYBUILD_ROOT": "/srv/state"},
        {"XDG_DATA_HOME": "/data"},
        {"HOME": "/home/user"},
        {"XDG_DATA_HOME": "", "HOME": "/home/user"},
        {},
    ],
)
@pytest.mark.parametrize("user", [0, 1000])
def test_the_state_root_is_that_of_the_store(
    environment: dict[str, str], user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert Path(root_of([], environment)) == default_root(user, environment)


@pytest.mark.parametrize("words", [["build", "--root", "/x", "."], ["--root=/x", "."]])
def test_an_option_names_the_state_root(words: list[str]) -> None:
    assert root_of(words, {"PYBUILD_ROOT": "/y"}) == "/x"


def test_words_are_not_run_together() -> None:
    assert command_key(["a", "b"], "/", {}) != command_key(["ab"], "/", {})
    assert command_key(["a", "HOME=/"], "/", {}) != command_key(["a"], "/", {"HOME": "/"})


def test_a_variable_that_no_option_reads_does_not_count() -> None:
    assert command_key(["."], "/", {"OLDPWD": "/a"}) == command_key(["."], "/", {"OLDPWD": "/b"})


@pytest.mark.parametrize(
    "name", ["PYBUILD_PROGRESS", "BUILDKIT_COLORS", "https_proxy", "NO_COLOR"]
)
def test_a_variable_that_an_option_reads_counts(name: str) -> None:
    assert command_key(["."], "/", {name: "a"}) != command_key(["."], "/", {name: "b"})
