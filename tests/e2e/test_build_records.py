"""`pybuild builds ls`: which records are listed, and in which form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]


@pytest.fixture
def records(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    """A store with two builds that went well, and one that failed."""
    busybox("build", "-t", "team/app:1", context("FROM busybox\nRUN true\n"))
    busybox("build", "-t", "other", context("FROM busybox\nRUN true\nRUN echo 1\n"))
    busybox("build", context("FROM busybox\nRUN false\n"), status=1)
    return busybox


def names(pybuild: Pybuild, *filters: str) -> list[str]:
    options = [f"--filter={text}" for text in filters]
    found = pybuild("builds", "ls", "--format={{.Status}} {{.Name}}", *options).stdout
    return [line.rpartition("/")[2] for line in found.splitlines()]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["context", "completed other", "app:1"]),
        (["status=error"], ["context"]),
        (["status!=error"], ["completed other", "app:1"]),
        (["repository=team/app"], ["app:1"]),
        (["repository=docker.io/team/app"], ["app:1"]),
        (["name~=^oth"], ["completed other"]),
        (["duration<10m", "status==completed"], ["completed other", "app:1"]),
        (["duration>10m"], []),
        (["startedAt>1h"], ["context", "completed other", "app:1"]),
        (["startedAt<2020-01-31"], []),
        (["completedAt>=2020-01-31T00:00:00Z", "ref~=."], ["context", "completed other", "app:1"]),
    ],
)
def test_records_are_chosen_by_what_is_known_of_them(
    records: Pybuild, filters: list[str], expected: list[str]
) -> None:
    assert names(records, *filters) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "--filter=bogus=1"), 'invalid filter "bogus=1"'),
        (("ls", "--filter=startedAt=1h"), 'invalid filter "startedAt=1h"'),
        (("ls", "--filter=duration>soon"), 'invalid duration "soon"'),
        (("ls", "--filter=startedAt>soon"), 'invalid time "soon"'),
        (("ls", "--filter=ref~=("), "invalid filter pattern"),
        (("inspect", "--filter=ref=1"), "--filter is for ls"),
        (("ls", "--format=words"), 'unsupported format "words"'),
    ],
)
def test_a_wrong_filter_or_form_is_one_clear_error(
    pybuild: Pybuild, words: tuple[str, ...], said: str
) -> None:
    done = pybuild("builds", *words, status=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_template_names_what_is_known_of_a_build(records: Pybuild) -> None:
    form = "--format={{.Name}} {{.TotalSteps}} {{.CachedSteps}}"
    assert records("builds", "inspect", form, "^1").stdout == "other 3 2\n"
    assert "exit code: 1" in records("builds", "inspect", "--format={{.Error}}").stdout
