from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

import pytest

from buildkit_py.cli import fmt
from buildkit_py.errors import DockerfileErrors, UsageError

UGLY, NEAT = "from a\n\n\nrun b\n", "FROM a\n\nRUN b\n"


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    fmt.configure(parser)
    return fmt.run(parser.parse_args(words))


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    path = tmp_path / "Dockerfile"
    path.write_text(UGLY)
    path.chmod(0o640)
    return path


def test_files_are_formatted_in_place_and_keep_their_mode(ugly: Path) -> None:
    assert run(str(ugly)) == 0
    assert ugly.read_text() == NEAT
    assert ugly.stat().st_mode & 0o777 == 0o640
    assert os.listdir(ugly.parent) == ["Dockerfile"]


def test_check_changes_nothing_and_tells_by_its_status(
    ugly: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--check", str(ugly)) == 1
    assert ugly.read_text() == UGLY
    assert "not formatted" in capsys.readouterr().err
    ugly.write_text(NEAT)
    assert run("--check", str(ugly)) == 0


def test_diff_shows_what_would_change(ugly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--diff", str(ugly)) == 1
    assert ugly.read_text() == UGLY
    assert "-run b\n+RUN b\n" in capsys.readouterr().out


def test_stdin_is_written_to_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(UGLY.encode())))
    assert run("-") == 0
    assert capsys.readouterr().out == NEAT


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        run(str(tmp_path / "none"))


def test_a_file_that_does_not_parse_is_left_alone(ugly: Path) -> None:
    ugly.write_text("FROM\n")
    with pytest.raises(DockerfileErrors):
        run(str(ugly))
    assert ugly.read_text() == "FROM\n"
