"""check, outline, targets and debug as a user runs them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from buildkit_py.cli import main

TEXT = """\
ARG TAG=1
# build makes the program
FROM scratch AS build
# MODE is debug or release
ARG MODE=release
RUN --mount=type=secret,id=token,required --mount=type=ssh \\
    --mount=type=cache,target=/cache make
FROM scratch AS Web
WORKDIR rel
COPY --from=build /a /
"""


@pytest.fixture
def run(
    context: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str, text: str = TEXT, files: dict[str, str] | None = None) -> Any:
        directory = context(text, files or {})
        status = main([*words, str(directory)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_check_prints_rule_page_and_excerpt(run: Any) -> None:
    status, out, _ = run("check")
    assert status == 1
    assert out.startswith(
        "Check complete, 2 warnings have been found!\n\nWARNING: StageNameCasing"
    )
    assert (
        "WARNING: WorkdirRelativePath - "
        "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/\n"
        'Relative workdir "rel" can have unexpected results if the base image changes\n'
        "Dockerfile:9\n"
    ) in out
    assert "   9 | >>> WORKDIR rel\n" in out


def test_check_of_a_clean_file_is_done(run: Any) -> None:
    status, out, _ = run("check", text="FROM scratch\n")
    assert (status, out) == (0, "Check complete, no warnings found.\n")


def test_check_with_a_target_looks_at_what_it_needs(run: Any) -> None:
    _, out, _ = run("check", "--target=build")
    assert "WorkdirRelativePath" not in out


def test_check_as_json_has_the_fields_of_the_subrequest(run: Any) -> None:
    status, out, _ = run("check", "--format=json")
    report = json.loads(out)
    assert status == 1
    assert report["warnings"][1] == {
        "ruleName": "WorkdirRelativePath",
        "description": "Relative workdir without an absolute workdir declared within the build"
        " can have unexpected results if the base image changes",
        "url": "https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/",
        "detail": 'Relative workdir "rel" can have unexpected results if the base image changes',
        "location": {"ranges": [{"start": {"line": 9}, "end": {"line": 9}}]},
    }
    assert base64.b64decode(report["sources"][0]["data"]).decode() == TEXT


def test_check_tells_errors_and_warnings_together(run: Any) -> None:
    status, out, _ = run("check", text="FROM scratch AS A\nCOPY --from=0 a b\n")
    assert status == 1
    assert "WARNING: StageNameCasing" in out
    assert "circular dependency detected on stage: a" in out
    report = json.loads(run("check", "--format=json", text="FROM scratch\nCOPPY a b\n")[1])
    assert report["warnings"] == []
    assert "unknown instruction: COPPY" in report["buildError"]["message"]
    assert report["buildError"]["location"]["ranges"][0]["start"] == {"line": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("EXPOSE abc", "invalid containerPort: abc"),
        ("STOPSIGNAL FOO", "invalid signal: FOO"),
        ("RUN --mount=typ=cache x", "unexpected key 'typ' in 'typ=cache'"),
        ("ENV a=${b:?missing}", "b: missing"),
    ],
)
def test_check_tells_what_a_step_would_refuse_even_in_a_stage_nobody_needs(
    run: Any, line: str, message: str
) -> None:
    status, out, _ = run("check", text=f"FROM scratch AS a\n{line}\nFROM scratch\nENV b=1\n")
    assert status == 1
    assert message in out


def test_check_takes_what_a_base_might_set_for_set(run: Any) -> None:
    text = "FROM example.test/base:1\nENV a=${b:?missing}\nRUN --network=host x\n"
    assert run("check", text=text)[0] == 0


def test_check_knows_the_ignore_file(run: Any) -> None:
    text = "FROM scratch\nCOPY secret /\n"
    _, out, _ = run("check", text=text, files={".dockerignore": "secret\n"})
    assert 'Attempting to Copy file "secret" that is excluded by .dockerignore' in out


def test_extended_check_adds_rules(run: Any) -> None:
    text = "FROM scratch\nRUN sudo x\n"
    assert run("check", text=text)[0] == 0
    assert "DL3004" in run("check", "--extended", text=text)[1]
    assert "DL3004" in run("build", "--check=extended", text=text)[1]


def test_build_check_and_call_are_the_same_as_check(run: Any) -> None:
    expected = run("check")
    assert run("build", "--check") == expected
    assert run("build", "--call=check") == expected
    assert run("build", "--call=lint,format=json")[1] == run("check", "--format=json")[1]


def test_outline_of_the_target(run: Any) -> None:
    status, out, _ = run("outline", "--build-arg=MODE=debug")
    assert status == 0
    assert out == (
        "TARGET: web\n"
        "\n"
        "BUILD ARG   VALUE   DESCRIPTION\n"
        "MODE        debug   is debug or release\n"
        "\n"
        "SECRET   REQUIRED\n"
        "token    true\n"
        "\n"
        "SSH       REQUIRED\n"
        "default\n"
        "\n"
        "CACHE MOUNT\n"
        "/cache\n"
    )


def test_outline_as_json(run: Any) -> None:
    report = json.loads(run("build", "--call=outline,format=json", "--target=build")[1])
    assert (report["name"], report["description"]) == ("build", "makes the program")
    assert report["args"] == [
        {
            "name": "MODE",
            "description": "is debug or release",
            "value": "release",
            "location": {"ranges": [{"start": {"line": 5}, "end": {"line": 5}}]},
        }
    ]
    assert report["secrets"][0]["required"] is True
    assert report["cache"] == [{"ID": "/cache"}]


def test_outline_has_global_arguments_that_from_uses(run: Any) -> None:
    text = "ARG V=1\nARG NAME=debian:$V\nARG UNUSED=2\nFROM $NAME\n"
    report = json.loads(run("outline", "--format=json", text=text)[1])
    assert [(arg["name"], arg["value"]) for arg in report["args"]] == [
        ("V", "1"),
        ("NAME", "debian:1"),
    ]


def test_targets_as_text_and_json(run: Any) -> None:
    assert run("targets")[1] == (
        "TARGET          DESCRIPTION\nbuild           makes the program\nweb (default)\n"
    )
    report = json.loads(run("build", "--call=targets,format=json")[1])
    assert report["targets"][0] == {
        "name": "build",
        "description": "makes the program",
        "base": "scratch",
        "location": {"ranges": [{"start": {"line": 3}, "end": {"line": 3}}]},
    }
    assert report["targets"][1]["default"] is True


def test_the_last_stage_without_a_name_is_the_default(run: Any) -> None:
    assert run("targets", text="FROM scratch\n")[1] == "TARGET      DESCRIPTION\n(default)\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build", "--call=lnit"), 'unknown --call method "lnit"'),
        (("check", "--format=xml"), 'unknown format "xml"'),
        (("build", "--check", "--call=targets"), "conflicting options: --check and --call"),
        (("debug", "tokens"), 'unknown dump "tokens"'),
    ],
)
def test_wrong_use_is_refused(run: Any, words: tuple[str, ...], message: str) -> None:
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    assert message in err


def test_a_missing_dockerfile_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert "failed to read dockerfile" in capsys.readouterr().err


def test_the_file_may_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(b"FROM scratch AS A\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["check", "-"]) == 1
    assert "StageNameCasing" in capsys.readouterr().out


def test_each_hand_over_can_be_dumped(run: Any) -> None:
    text = "# escape=`\nFROM scratch AS a\nCOPY x `\n  /y\n"
    lines = json.loads(run("debug", "lines", text=text)[1])
    assert lines["directives"] == {"escape": "`"}
    assert lines["lines"][1] == {"lines": [3, 4], "text": "COPY x   /y"}
    ast = json.loads(run("debug", "ast", text=text)[1])
    assert ast["stages"][0]["instructions"] == [
        {"keyword": "COPY", "line": 3, "sources": ["x"], "destination": "/y"}
    ]
    plan = json.loads(run("debug", "plan", text=text)[1])
    assert plan["stages"][0]["origin"] == "scratch"
    graph = json.loads(run("debug", "graph", text=text)[1])
    assert [vertex["name"] for vertex in graph[0]["graph"]] == [
        "[internal] load build context",
        "[1/1] COPY x   /y",
    ]


def test_check_of_a_broken_file_has_the_warnings_and_the_error_in_buildkits_fields(
    run: Any,
) -> None:
    text = "FROM scratch\nCMD x\nCOPPY a\n"
    status, out, _ = run("check", "--format", "json", text=text)
    report = json.loads(out)
    assert status == 1
    assert [item["ruleName"] for item in report["warnings"]] == ["JSONArgsRecommended"]
    assert report["buildError"] == {
        "message": "dockerfile parse error on line 3: unknown instruction: COPPY"
        " (did you mean COPY?)",
        "location": {"ranges": [{"start": {"line": 3}, "end": {"line": 3}}]},
    }
    assert report["sources"] == [
        {
            "filename": "Dockerfile",
            "data": base64.b64encode(text.encode()).decode(),
            "language": "Dockerfile",
        }
    ]
