"""`--squash[=stage|all]`: fewer layers, the same files."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = pytest.mark.sandbox

DOCKERFILE = """\
FROM busybox AS base
RUN mkdir -p /d/e && echo one > /d/one && echo two > /d/e/two && echo old > /file && ln /d/one /h
FROM base
ENV A=1
RUN rm -r /d/e && echo new > /file && mkdir -m 1777 /d/e && echo three > /d/e/three
RUN rm /d/one /bin/wget && rm -r /var && ln -s /file /link && mkfifo /pipe && touch /var
RUN rm /link && mkdir /link && echo x > /link/x && chown 3:4 /link /link/x && chmod 4755 /link/x
"""


def members(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as tar:
        return {
            item.name: (
                item.type,
                oct(item.mode),
                item.uid,
                item.gid,
                item.size,
                int(item.mtime),
                item.linkname,
                tar.extractfile(item).read() if item.isreg() else b"",  # type: ignore[union-attr]
            )
            for item in tar
        }


def tree(pybuild: Pybuild, name: str) -> dict[str, Any]:
    pybuild("export", "-o", "tree.tar", name)
    return members(pybuild.directory / "tree.tar")


def inspected(pybuild: Pybuild, name: str) -> Any:
    return json.loads(pybuild("inspect", name).stdout)[0]


def layer_names(pybuild: Pybuild, name: str) -> list[str]:
    """The names in the topmost layer."""
    pybuild("save", "-o", "saved.tar", name)
    with tarfile.open(pybuild.directory / "saved.tar") as outer:
        manifest = json.load(outer.extractfile("manifest.json"))  # type: ignore[arg-type]
        blob = outer.extractfile(manifest[0]["Layers"][-1])
        with tarfile.open(fileobj=blob) as layer:
            return layer.getnames()


def test_layers_become_one_and_files_stay_as_they_are(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(DOCKERFILE)
    busybox("build", "-t", "plain", folder)
    busybox("build", "--squash", "-t", "stage", folder)
    busybox("build", "--squash=all", "-t", "all", folder)
    base, plain = inspected(busybox, "busybox"), inspected(busybox, "plain")
    stage, every = inspected(busybox, "stage"), inspected(busybox, "all")
    assert stage["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]
    assert len(every["RootFS"]["Layers"]) == 1
    assert stage["Config"] == every["Config"] == plain["Config"]
    expected = tree(busybox, "plain")
    assert tree(busybox, "stage") == expected
    assert tree(busybox, "all") == expected
    names = layer_names(busybox, "stage")
    assert "bin/.wh.wget" in names
    assert "file" in names
    assert not [name for name in layer_names(busybox, "all") if "/.wh." in f"/{name}"]
    assert "d/e/.wh.two" not in names


def test_the_history_keeps_its_entries_and_says_what_was_merged(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", "--squash", "-t", "stage", context(DOCKERFILE))
    lines = busybox("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", "stage")
    first, *rest = lines.stdout.splitlines()
    assert first == "squash stage # buildkit|merge of 4 layers"
    assert any("rm /d/one" in line for line in rest)


def test_a_squashed_image_has_the_same_id_each_time(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(DOCKERFILE)
    for name, options in (("one", ()), ("two", ("--no-cache",))):
        busybox("build", "--squash=all", "-q", *options, "--iidfile", name, folder)
    assert (busybox.directory / "one").read_text() == (busybox.directory / "two").read_text()


def test_a_single_new_layer_stays_as_it_is(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM busybox\nRUN echo x > /x\n")
    busybox("build", "-q", "--iidfile", "one", folder)
    busybox("build", "-q", "--squash", "--iidfile", "two", folder)
    assert (busybox.directory / "one").read_text() == (busybox.directory / "two").read_text()


def test_a_squashed_image_can_be_built_upon_and_run(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    busybox("build", "--squash=all", "-t", "all", context(DOCKERFILE))
    done = busybox("run", "--rm", "all", "sh", "-c", "cat /file /d/e/three; ls /d")
    assert done.stdout.split() == ["new", "three", "e"]
    folder = context("FROM all\nRUN cat /link/x > /y\n")
    busybox("build", "-o", "out", folder)
    assert (busybox.directory / "out" / "y").read_text() == "x\n"
    assert os.path.exists(busybox.directory / "out" / "h")
