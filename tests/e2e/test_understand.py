"""Commands that say what is in an image, and who put it there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = pytest.mark.sandbox

DOCKERFILE = """FROM busybox
COPY big /data/big
RUN echo changed > /data/big
RUN rm /data/big
ENV MODE=two
"""


@pytest.fixture
def images(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    folder = context(DOCKERFILE, {"big": "x" * 100_000})
    busybox("build", "-t", "two", folder)
    return busybox


def test_diff_shows_config_and_files(images: Pybuild) -> None:
    done = images("diff", "busybox", "two", status=1)
    assert "A config.Env.MODE  (two)" in done.stdout
    assert "A /data\n" in done.stdout
    assert "/data/big" not in done.stdout
    assert images("diff", "two", "two").stdout == ""


def test_blame_names_every_instruction(images: Pybuild) -> None:
    lines = images("blame", "two", "/data/big").stdout.splitlines()
    assert [line.split(" in  ")[1].split(" #")[0] for line in lines] == [
        "COPY big /data/big",
        "RUN /bin/sh -c echo changed > /data/big",
        "RUN /bin/sh -c rm /data/big",
    ]
    assert "100kB" in lines[0]
    assert "no layer of two has /nothing" in images("blame", "two", "nothing", status=1).stderr


def test_waste_counts_what_later_layers_hide(images: Pybuild) -> None:
    lines = images("waste", "two").stdout.splitlines()
    assert "/data/big  overwritten by RUN" in lines[0]
    assert "/data/big  deleted by RUN" in lines[1]
    assert "wasted in 2 files" in lines[-1]


def test_history_shows_sizes_and_steps(images: Pybuild) -> None:
    assert "100kB    /data" in images("history", "two", "--size-tree").stdout
    steps = images("history", "two", "--steps").stdout
    assert "COPY big /data/big" in steps
    assert len(steps.splitlines()) == 5
    ids = images("history", "two", "--steps", "-q").stdout.split()
    assert ids == [line.split()[0] for line in steps.splitlines()]
    whole = images("history", "two", "--steps", "--no-trunc", "--format", "json").stdout
    found = [json.loads(line) for line in whole.splitlines()]
    assert [step["ID"][:12] for step in found] == ids
    assert any(step["Step"] == "COPY big /data/big" for step in found)


def test_blame_follows_links_on_the_way(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM busybox\nRUN ln -s /bin /programs\nRUN echo x > /bin/new\n")
    busybox("build", "-t", "linked", folder)
    assert "echo x > /bin/new" in busybox("blame", "linked", "/programs/new").stdout
    done = busybox("blame", "linked", "/programs/no-such", status=1)
    assert "no layer of linked has /programs/no-such" in done.stderr


def test_names_that_are_no_text_can_be_shown(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    name = r"""f="$(printf '/odd/\377\033[2J')"; mkdir "$f" """
    step = f'RUN {name} && echo long > "$f/x"; echo > "$f/y"'
    folder = context(f"FROM busybox\nRUN mkdir /odd\n{step}\nRUN rm -r /odd\n")
    busybox("build", "-t", "odd", folder)
    shown = [
        busybox(*words).stdout for words in (("waste", "odd"), ("history", "--size-tree", "odd"))
    ]
    busybox("build", "-t", "kept", context(f"FROM busybox\nRUN mkdir /odd\n{step}\n"))
    shown.append(busybox("diff", "busybox", "kept", status=1).stdout)
    for text in shown:
        assert r"\x1b[2J" in text
        assert "\x1b" not in text
