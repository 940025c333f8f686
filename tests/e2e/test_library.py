"""The library as another program uses it: typed results, typed errors, nothing printed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import buildkit_py
from buildkit_py.engine import BuildOptions
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


def test_outputs_are_values_paths_or_texts(
    state_root: Path, context: MakeContext, tmp_path: Path
) -> None:
    directory = context("FROM scratch\nCOPY a.txt /\n", {"a.txt": "hello"})
    archive, odd = tmp_path / "out.tar", tmp_path / 'a,"b'
    result = buildkit_py.build(
        directory,
        root=state_root,
        outputs=[
            buildkit_py.OciOutput(archive, compression="zstd", annotations={"org.x": "a,b"}),
            buildkit_py.LocalOutput(odd),
            tmp_path / "tree",
            f"type=tar,dest={tmp_path / 'flat.tar'}",
        ],
    )
    with tarfile.open(archive) as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"].partition(":")[2]
        manifest = json.load(tar.extractfile(f"blobs/sha256/{digest}"))  # type: ignore[arg-type]
    assert manifest["annotations"] == {"org.x": "a,b"}
    assert [item["mediaType"].rpartition("+")[2] for item in manifest["layers"]] == ["zstd"]
    assert (odd / "a.txt").read_text() == (tmp_path / "tree" / "a.txt").read_text() == "hello"
    with tarfile.open(tmp_path / "flat.tar") as tar:
        assert tar.getnames() == ["a.txt"]
    assert result.image_id is not None


def test_a_single_output_and_a_secret_of_a_variable(
    busybox: Pybuild, context: MakeContext, tmp_path: Path
) -> None:
    text = "FROM busybox AS a\nRUN --mount=type=secret,id=tok,env=T echo ${#T} > /n\n"
    directory = context(text + "FROM scratch\nCOPY --from=a /n /\n")
    with buildkit_py.Engine(busybox.root, environment={"TOKEN": "12345678"}) as engine:
        engine.build(
            directory,
            secrets=[buildkit_py.Secret(id="tok", env="TOKEN")],
            outputs=buildkit_py.LocalOutput(tmp_path / "out"),
        )
    assert (tmp_path / "out" / "n").read_text() == "8\n"


def test_the_typed_options_are_the_fields_of_a_request() -> None:
    fields = {item.name for item in dataclasses.fields(buildkit_py.BuildRequest)}
    assert fields - {"context"} == set(BuildOptions.__annotations__)


def test_instructions_show_their_flags_and_arguments() -> None:
    dockerfile = buildkit_py.parse(
        "# escape=`\n"
        "FROM --platform=$BUILDPLATFORM golang AS build\n"
        "RUN --network=none --mount=type=tmpfs,target='/x' echo \"a\" `\n  b\n"
        'ENTRYPOINT ["a", "b c"]\n'
        "HEALTHCHECK --interval=3s CMD curl x\n"
        "ONBUILD COPY --link a /b/\n"
    )
    seen = [
        (item.keyword, {flag.name: flag.value for flag in item.flags}, item.arguments)
        for item in dockerfile.instructions
    ]
    assert seen == [
        ("FROM", {"platform": "$BUILDPLATFORM"}, ("golang", "AS", "build")),
        ("RUN", {"network": "none", "mount": "type=tmpfs,target=/x"}, ('echo "a"   b',)),
        ("ENTRYPOINT", {}, ("a", "b c")),
        ("HEALTHCHECK", {"interval": "3s"}, ("CMD", "curl x")),
        ("ONBUILD", {}, ("COPY --link a /b/",)),
    ]
