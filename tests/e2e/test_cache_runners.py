"""Runners that start from nothing: all they have is the cache that they read and write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.e2e.test_cache import build, copy_base, ran
from tests.registries import real_registry

pytestmark = [pytest.mark.sandbox, pytest.mark.root, pytest.mark.requires("docker-registry")]

Context = Callable[..., Path]
TEXT = """\
FROM busybox AS tools
RUN echo tool > /tool
RUN echo more >> /tool
FROM busybox
RUN echo one > /one
COPY a /a
COPY --from=tools /tool /tool
COPY b /b
RUN cat /a /b > /all
"""


def test_a_build_that_was_all_hits_hands_on_what_lies_below(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context(TEXT, {"a": "a", "b": "b"})
    number = 0

    def fresh(host: str) -> set[str]:
        nonlocal number
        number += 1
        runner = Pybuild(root=tmp_path / f"runner{number}", directory=tmp_path)
        copy_base(busybox, runner, tmp_path)
        place = f"type=registry,ref={host}/cache"
        return ran(build(runner, app, f"--cache-from={place}", f"--cache-to={place},mode=max"))

    with real_registry(tmp_path) as registry:
        assert len(fresh(registry.host)) == 7
        assert fresh(registry.host) == set()
        assert fresh(registry.host) == set()
        (app / "b").write_text("changed")
        assert fresh(registry.host) == {"COPY b /b", "RUN cat /a /b > /all"}
        context(TEXT.replace("echo more", "echo much"))
        assert "RUN echo tool > /tool" not in fresh(registry.host)


def test_a_miss_after_an_import_is_explained(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context("FROM busybox\nARG V=1\nCOPY a /a\nRUN echo hello\n", {"a": "a"})
    busybox("build", f"--cache-to=type=local,dest={tmp_path}/cache", app)
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    copy_base(busybox, other, tmp_path)
    source = f"--cache-from=type=local,src={tmp_path}/cache"
    other("build", source, app)
    said = other("build", "--explain", source, "--build-arg=V=2", app).stderr
    assert "RUN echo hello: ARG V 1 → 2" in said
    (app / "a").write_text("b")
    said = other("build", "--explain", source, app).stderr
    assert "COPY a /a: 1 file changed (a)" in said
    assert "RUN echo hello: follows COPY a /a" in said


def test_layers_of_an_imported_cache_are_rewritten_as_those_made_here(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    app = context(
        "FROM busybox\nRUN echo 1 > /a && ln /a /b && mkdir -p /d/e\nCOPY a /d/f\nRUN rm /d/f\n"
    )
    (app / "a").write_text("a")
    epoch = "--build-arg=SOURCE_DATE_EPOCH=1000000000"
    busybox("build", epoch, f"--cache-to=type=local,dest={tmp_path}/cache,mode=max", app)

    def digest(name: str, *words: str) -> str:
        runner = Pybuild(root=tmp_path / name, directory=tmp_path)
        copy_base(busybox, runner, tmp_path)
        out = f"-o=type=oci,dest={tmp_path}/{name}.tar,rewrite-timestamp=true"
        metadata = tmp_path / f"{name}.json"
        runner("build", epoch, out, f"--metadata-file={metadata}", *words, app)
        return str(json.loads(metadata.read_text())["containerimage.digest"])

    source = f"--cache-from=type=local,src={tmp_path}/cache"
    assert digest("imported", source) == digest("built")
