"""The library as another program uses it: typed results, typed errors, nothing printed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import buildkit_py
from buildkit_py.errors import BuildCancelled, ExecError, UsageError
from buildkit_py.progress.events import Event, VertexLog
from tests.conftest import Pybuild

MakeContext = Callable[..., Path]


def test_a_build_gives_ids_steps_and_warnings(state_root: Path, context: MakeContext) -> None:
    directory = context("FROM scratch\nMAINTAINER me\nCOPY a.txt /\n", {"a.txt": "hello"})
    result = buildkit_py.build(directory, root=state_root, tags=["web"])
    again = buildkit_py.build(directory, root=state_root, tags="web")
    assert result.image_id is not None
    assert result.image_id.startswith("sha256:")
    assert result.digest is not None
    assert result.names == ("docker.io/library/web:latest",)
    assert [step.text for step in result.steps] == [
        "FROM scratch",
        "MAINTAINER me",
        "COPY a.txt /",
    ]
    assert [warning.rule for warning in result.warnings] == ["MaintainerDeprecated"]
    assert again.image_id == result.image_id
    assert all(step.cached for step in again.steps)


def test_the_names_of_the_package_stay_what_they_are_after_a_build(
    state_root: Path, context: MakeContext
) -> None:
    directory = context("FROM scratch\nCOPY Dockerfile /\n")
    for _ in range(2):  # submodules of the same names are imported by the first
        buildkit_py.build(directory, root=state_root)
        dockerfile = buildkit_py.parse("from a\nRUN b")
        assert [item.rule for item in buildkit_py.lint(dockerfile)] == [
            "ConsistentInstructionCasing"
        ]


def test_a_failed_step_is_a_typed_error(busybox: Pybuild, context: MakeContext) -> None:
    directory = context("FROM busybox\nRUN echo last words; exit 7\n")
    with pytest.raises(ExecError) as caught:
        buildkit_py.build(directory, root=busybox.root)
    assert caught.value.exit_code == 7
    assert caught.value.log_tail[-1] == "last words"
    assert [span.start.line for span in caught.value.spans] == [2]
    assert isinstance(caught.value, buildkit_py.BuildError)


def test_an_unknown_option_is_refused_with_a_suggestion(
    state_root: Path, context: MakeContext
) -> None:
    with pytest.raises(UsageError, match="tgas") as caught:
        buildkit_py.build(context("FROM scratch"), root=state_root, tgas=["x"])
    assert caught.value.hint == "did you mean tags?"


def test_a_build_ends_when_another_thread_says_so(busybox: Pybuild, context: MakeContext) -> None:
    directory = context("FROM busybox\nRUN echo begun; sleep 200\n")
    cancelled = threading.Event()

    def watch(event: Event) -> None:
        if isinstance(event, VertexLog) and b"begun" in event.data:
            cancelled.set()

    with (
        buildkit_py.Engine(busybox.root) as engine,
        pytest.raises(BuildCancelled),
    ):
        engine.build(str(directory), on_event=watch, cancelled=cancelled)


def test_a_build_prints_nothing(state_root: Path, context: MakeContext) -> None:
    directory = context("FROM scratch\nCOPY Dockerfile /\n")
    code = f"import buildkit_py; buildkit_py.build({str(directory)!r}, root={str(state_root)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_two_builds_on_one_engine_at_a_time(busybox: Pybuild, context: MakeContext) -> None:
    directory = context("FROM busybox\nRUN echo same; sleep 0.3\n")
    results: list[str | None] = []
    with buildkit_py.Engine(busybox.root) as engine:

        def work() -> None:
            results.append(engine.build(str(directory)).image_id)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1
