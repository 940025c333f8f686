"""Wrong input: one clear error, exit status 1 or 2, and nothing left half-made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]


def final_error(stderr: str) -> str:
    """The last line, which is the error; there is exactly one, and no traceback."""
    lines = stderr.rstrip("\n").splitlines()
    assert lines[-1].startswith("ERROR: "), stderr
    assert sum(line.startswith("ERROR: ") for line in lines) == 1, stderr
    assert "Traceback" not in stderr
    assert "internal error" not in stderr
    return lines[-1].removeprefix("ERROR: ")


def leftovers(root: Path) -> list[str]:
    """Names in the folders of half-made things."""
    found = []
    for name in ("tmp", "trash"):
        folder = root / name
        found += [f"{name}/{entry}" for entry in os.listdir(folder)] if folder.is_dir() else []
    return found


def refuse(pybuild: Pybuild, *words: str | Path, status: int = 1, **options: object) -> str:
    """Run a build that must fail; what its last line says."""
    done = pybuild(*words, status=status, **options)  # type: ignore[arg-type]
    assert not leftovers(pybuild.root)
    assert done.stdout == ""
    return final_error(done.stderr)


def test_unknown_instruction(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", context("FROM scratch\nCOPPY . /\n"), status=1)
    assert "   2 | >>> COPPY . /" in done.stderr
    assert "^^^^^" in done.stderr
    assert "unknown instruction: COPPY (did you mean COPY?)" in final_error(done.stderr)


def test_all_problems_of_a_file_are_shown(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", context("FROM scratch\nCOPPY . /\nRUM x\nENV\n"), status=1)
    for line in (2, 3, 4):
        assert f"Dockerfile:{line}\n" in done.stderr
    assert "2 more problems" in final_error(done.stderr)


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("FROM scratch as x\nCOPPY . /\n", ["FromAsCasing: 'as' and 'FROM' keywords' casing"]),
        ("FROM scratch AS X\nFROM $base\n", ["StageNameCasing", "UndefinedArgInFrom"]),
        ("FROM scratch\nCMD x\nCOPY nothing /\n", ["JSONArgsRecommended"]),
        ("# check=error=true\nFROM scratch\nCMD x\n", ["JSONArgsRecommended"]),
    ],
    ids=["parsing", "planning", "solving", "error=true"],
)
def test_a_build_that_fails_tells_its_warnings_too(
    pybuild: Pybuild, context: Context, text: str, warnings: list[str]
) -> None:
    done = pybuild("build", context(text), status=1)
    final_error(done.stderr)
    for warning in warnings:
        assert f" - {warning}" in done.stderr
    assert " - " not in pybuild("build", "-q", context(text), status=1).stderr


def test_missing_dockerfile(pybuild: Pybuild, context: Context) -> None:
    error = refuse(pybuild, "build", context(None))
    assert "Dockerfile" in error
    assert "no such file" in error


def test_empty_dockerfile(pybuild: Pybuild, context: Context) -> None:
    assert "the Dockerfile cannot be empty" in refuse(pybuild, "build", context(""))


def test_dockerfile_of_comments_only(pybuild: Pybuild, context: Context) -> None:
    assert "file with no instructions" in refuse(pybuild, "build", context("# nothing\n"))


def test_dockerfile_without_from(pybuild: Pybuild, context: Context) -> None:
    assert "no build stage in current context" in refuse(pybuild, "build", context("RUN x\n"))


def test_missing_context(pybuild: Pybuild) -> None:
    assert "no-such-dir" in refuse(pybuild, "build", "./no-such-dir", status=2)


def test_copy_of_a_missing_file(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", context("FROM scratch\nCOPY gone /\n"), status=1)
    assert '"/gone": not found' in final_error(done.stderr)
    assert "   2 | >>> COPY gone /" in done.stderr


def test_copy_of_an_ignored_file(pybuild: Pybuild, context: Context) -> None:
    files = {"a.log": "x", ".dockerignore": "*.log\n"}
    error = refuse(pybuild, "build", context("FROM scratch\nCOPY a.log /\n", files))
    assert '"/a.log": not found' in error


@pytest.mark.sandbox
def test_run_that_fails_shows_its_status_and_last_lines(
    busybox: Pybuild, context: Context
) -> None:
    dockerfile = "FROM busybox\nRUN for i in 1 2 3; do echo line $i; done; exit 7\n"
    done = busybox("build", context(dockerfile), status=1)
    assert "line 3" in done.stderr.partition("------\n > ")[2]
    assert "   2 | >>> RUN for i in 1 2 3" in done.stderr
    assert "did not complete successfully: exit code: 7" in final_error(done.stderr)
    assert not leftovers(busybox.root)


@pytest.mark.sandbox
def test_classic_failure_has_the_classic_builders_text(busybox: Pybuild, context: Context) -> None:
    directory = context("FROM busybox\nRUN exit 3\n")
    done = busybox("build", "--progress=classic", directory, status=1)
    assert "The command '/bin/sh -c exit 3' returned a non-zero code: 3\n" in done.stderr


@pytest.mark.sandbox
def test_command_that_does_not_exist(busybox: Pybuild, context: Context) -> None:
    error = refuse(busybox, "build", context('FROM busybox\nRUN ["/no/such/program"]\n'))
    assert "/no/such/program" in error


def test_unknown_base_image_of_a_registry_that_does_not_answer(
    pybuild: Pybuild, context: Context
) -> None:
    error = refuse(pybuild, "build", context("FROM 127.0.0.1:1/no/such:tag\n"))
    assert "127.0.0.1:1/no/such:tag" in error


def test_unknown_stage(pybuild: Pybuild, context: Context) -> None:
    directory = context("FROM scratch AS build\nFROM scratch\nCOPY --from=1 x /\n")
    refuse(pybuild, "build", directory)


def test_unknown_target_suggests_a_stage(pybuild: Pybuild, context: Context) -> None:
    directory = context("FROM scratch AS build\nCOPY . /\n")
    error = refuse(pybuild, "build", "--target", "bulid", directory)
    assert 'target stage "bulid" could not be found (did you mean build?)' in error


def test_stages_that_need_each_other_are_marked(pybuild: Pybuild, context: Context) -> None:
    directory = context(
        "FROM scratch AS a\nCOPY --from=b x /\nFROM scratch AS b\nCOPY --from=a x /\n"
    )
    done = pybuild("build", "--target", "b", directory, status=1)
    final_error(done.stderr)
    assert ">>>" in done.stderr


def test_invalid_reference_for_a_tag(pybuild: Pybuild, context: Context) -> None:
    error = refuse(pybuild, "build", "-t", "UPPER/Case", context("FROM scratch\n"), status=2)
    assert "must be lowercase" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "requires exactly 1 argument"),
        (["--no-such-option", "."], "unknown flag: --no-such-option"),
        (["--outputs", "x", "."], "unknown flag: --outputs (did you mean --output?)"),
        ([".", "."], 'does not take the argument "."'),
        (["--progress=loud", "."], 'invalid progress display "loud"'),
        (["-o", "type=floppy", "."], "floppy"),
        (["--platform", "linux/", "."], "linux/"),
    ],
)
def test_wrong_usage_has_status_2(
    pybuild: Pybuild, context: Context, words: list[str], message: str
) -> None:
    directory = context("FROM scratch\nCOPY . /\n")
    error = final_error(pybuild("build", *words, cwd=directory, status=2).stderr)
    assert message in error


def test_unknown_command(pybuild: Pybuild) -> None:
    done = pybuild("histroy", status=2)
    assert "did you mean 'pybuild history'?" in done.stderr


@pytest.mark.parametrize(
    "content", [b"", b"no archive", b"\x1f\x8b\x08\x00garbage", b"\0" * 4096], ids=str
)
def test_corrupt_archive_to_load(pybuild: Pybuild, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    refuse(pybuild, "load", "-i", path)
    assert pybuild("images", "-q").stdout == ""


def test_truncated_layer_in_an_archive(busybox: Pybuild, tmp_path: Path, context: Context) -> None:
    busybox("save", "-o", tmp_path / "whole.tar", "busybox")
    whole = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: len(whole) // 2])
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    refuse(other, "load", "-i", tmp_path / "half.tar")
    assert other("images", "-q").stdout == ""


def test_no_permission_on_the_state_root(context: Context, tmp_path: Path) -> None:
    """As an ordinary user below a directory of root's; as that user, below one without x."""
    directory = context("FROM scratch\nCOPY . /\n")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    pybuild = Pybuild(root=closed / "state", directory=tmp_path)
    command = pybuild.command("build", directory)
    if os.geteuid() == 0:
        # root is stopped by no mode; without capabilities it is stopped like anyone else
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(
        command, env=pybuild.variables(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "permission denied" in final_error(done.stderr)
    assert not (closed / "state").exists()


def test_a_state_root_that_is_a_file(context: Context, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    pybuild = Pybuild(root=tmp_path / "file", directory=tmp_path)
    final_error(pybuild("build", context("FROM scratch\n"), status=1).stderr)


@pytest.mark.root
@pytest.mark.sandbox
def test_full_disk(context: Context, tmp_path: Path) -> None:
    """A state root on a tmpfs too small for the layer."""
    directory = context("FROM scratch\nCOPY big /\n")
    with (directory / "big").open("wb") as file:
        file.write(os.urandom(1 << 20) * 12)
    small = tmp_path / "small"
    small.mkdir()
    pybuild = Pybuild(root=small / "state", directory=tmp_path)
    # A mount namespace of its own, so that nothing stays mounted whatever happens.
    script = (
        f"mount -t tmpfs -o size=8m none {small} || exit 99\n"
        f"{sys.executable} -m buildkit_py build {directory}; echo status=$? >&2\n"
        f"rm {directory}/big; echo small > {directory}/big\n"
        f"{sys.executable} -m buildkit_py build -q {directory}\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=pybuild.variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    first, _, rest = done.stderr.partition("status=1\n")
    assert rest == "", done.stderr
    assert "no space left on device" in final_error(first)
    assert done.stdout.startswith("sha256:"), done.stderr
