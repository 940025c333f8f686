"""`pybuild build` as a user runs it: displays, results, exit statuses, interruption."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
TINY = "FROM scratch\nCOPY a.txt /\n"
FILES = {"a.txt": "hello\n"}


def test_the_first_operand_may_be_the_context(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("-q", context(TINY, FILES))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", done.stdout)
    assert done.stderr == ""


def test_build_is_the_same_command_by_name(pybuild: Pybuild, context: Context) -> None:
    directory = context(TINY, FILES)
    assert pybuild("-q", directory).stdout == pybuild("build", "-q", directory).stdout


def test_a_directory_named_like_a_command_needs_its_dot(pybuild: Pybuild, tmp_path: Path) -> None:
    folder = tmp_path / "history"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\n")
    pybuild("./history", cwd=tmp_path)


def test_plain_numbers_steps_on_stderr(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", "--progress=plain", context(TINY, FILES))
    assert done.stdout == ""
    assert re.search(r"^#\d+ \[1/1\] COPY a.txt /$", done.stderr, re.MULTILINE)
    assert re.search(r"^#\d+ DONE \d+\.\ds$", done.stderr, re.MULTILINE)
    again = pybuild("build", "--progress=plain", context(TINY, FILES))
    assert re.search(r"^#\d+ CACHED$", again.stderr, re.MULTILINE)


def test_classic_says_using_cache_the_second_time(pybuild: Pybuild, context: Context) -> None:
    directory = context(TINY + "ENV A=1\nCMD a\n", FILES)
    words = ("build", "--progress=classic", "-t", "you/web", directory)
    first, second = pybuild(*words).stdout, pybuild(*words).stdout
    assert [line for line in first.splitlines() if line.startswith("Step ")] == [
        "Step 1/4 : FROM scratch",
        "Step 2/4 : COPY a.txt /",
        "Step 3/4 : ENV A=1",
        "Step 4/4 : CMD a",
    ]
    assert second.count(" ---> Using cache\n") == 3
    assert first.splitlines()[-2:] == second.splitlines()[-2:]
    assert second.endswith("Successfully tagged you/web:latest\n")


def test_rawjson_is_json_on_every_line(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", "--progress=rawjson", context(TINY, FILES))
    objects = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("vertexes" in one for one in objects)


def test_a_terminal_gets_the_redrawn_view(pybuild: Pybuild, context: Context) -> None:
    ours, theirs = os.openpty()
    build = subprocess.Popen(
        pybuild.command("build", context(TINY, FILES)),
        env=pybuild.variables({"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}),
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
    os.close(ours)
    assert build.wait(timeout=20) == 0
    shown = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", text).decode()
    last = shown[shown.rindex("[+] Building ") :]
    assert re.match(r"\[\+\] Building \d+\.\ds \((\d+)/\1\) FINISHED\r\n", last)
    assert re.search(r"^ => \[1/1\] COPY a.txt / +\d+\.\ds\r?$", last, re.MULTILINE)


def test_an_archive_goes_to_stdout_alone(pybuild: Pybuild, context: Context) -> None:
    command = pybuild.command("build", "--progress=classic", "-o", "-", context(TINY, FILES))
    done = subprocess.run(command, env=pybuild.variables(), capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["a.txt"]
    assert b"Step 1/2" in done.stderr


def test_result_files(pybuild: Pybuild, context: Context, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("iid", "meta", "ref")}
    pybuild(
        "build",
        f"--iidfile={files['iid']}",
        f"--metadata-file={files['meta']}",
        f"--ref-file={files['ref']}",
        context(TINY, FILES),
    )
    image = files["iid"].read_text()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image)
    metadata = json.loads(files["meta"].read_text())
    assert metadata["containerimage.config.digest"] == image
    assert metadata["buildx.build.ref"].endswith(files["ref"].read_text())
    made = metadata["buildx.build.provenance"]
    assert made["runDetails"]["metadata"]["invocationId"] == metadata["buildx.build.ref"]


def test_warnings_are_summed_up_behind_the_build(pybuild: Pybuild, context: Context) -> None:
    done = pybuild("build", context("FROM scratch AS Base\nCOPY a.txt /\n", FILES))
    assert " 1 warning found (use docker --debug to expand):\n" in done.stderr
    assert " - StageNameCasing: Stage name 'Base' should be lowercase (line 1)\n" in done.stderr
    assert "warning" not in pybuild("build", "-q", context(None)).stderr


def test_builds_are_recorded_with_their_whole_output(busybox: Pybuild, context: Context) -> None:
    directory = context("FROM busybox\nRUN seq 1 500000\n")
    shown = busybox("build", "--progress=plain", "-t", "counter", directory).stderr
    assert "[output clipped, log limit 2MiB reached]" in shown or "200KiB/s reached]" in shown
    listed = busybox("builds", "ls").stdout.splitlines()
    assert listed[0].split() == "BUILD ID NAME STATUS CREATED AT DURATION".split()
    assert "Completed" in listed[1]
    logs = busybox("builds", "logs").stdout
    assert "output clipped" not in logs
    assert logs.count("\n") > 500_000
    details = json.loads(busybox("builds", "inspect", "--format=json").stdout)
    assert any("RUN seq" in vertex["name"] for vertex in details["vertices"])
    busybox("builds", "rm", details["ref"][:12])
    assert len(busybox("builds", "ls").stdout.splitlines()) == 1


def test_a_failed_build_is_recorded_too(pybuild: Pybuild, context: Context) -> None:
    pybuild("build", context("FROM scratch\nCOPY gone /\n"), status=1)
    assert "Error" in pybuild("builds").stdout


@pytest.mark.sandbox
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_ends_its_step_and_exits_with_130(
    busybox: Pybuild, context: Context, number: signal.Signals
) -> None:
    directory = context("FROM busybox\nRUN echo started; exec sleep 31415\n")
    # The tests themselves may run where SIGINT is ignored: as a shell's background job.
    command = ["env", "--default-signal", *busybox.command("build", "--progress=plain", directory)]
    build = subprocess.Popen(command, env=busybox.variables(), stderr=subprocess.PIPE, text=True)
    assert build.stderr is not None
    for line in build.stderr:
        if line.rstrip().endswith(" started"):
            break
    build.send_signal(number)
    rest = build.stderr.read()
    build.stderr.close()
    assert build.wait(timeout=20) == 130
    assert rest.endswith("ERROR: interrupted\n")
    assert not sleepers("31415")
    assert os.listdir(busybox.root / "tmp") == []
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    assert os.fspath(busybox.root) not in mounts
    # The store is sound: the next build works, and runs the step anew.
    (directory / "Dockerfile").write_text("FROM busybox\nRUN echo fine\n")
    busybox("build", directory)


def sleepers(mark: str) -> list[str]:
    """Processes that sleep for that many seconds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            found.append(path.parent.name)
    return found


def test_closing_the_output_early_is_no_traceback(pybuild: Pybuild, context: Context) -> None:
    build = subprocess.Popen(
        pybuild.command("build", "--help"),
        env=pybuild.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert build.stdout is not None
    assert build.stderr is not None
    build.stdout.close()
    errors = build.stderr.read()
    build.stderr.close()
    build.wait(timeout=20)
    assert errors == b""


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("compression-level=99", "compression level of gzip must be in 0-9"),
        ("compression=brotli", "unsupported compression type brotli"),
        ("rewrite-timestamp=true", "rewrite-timestamp needs a SOURCE_DATE_EPOCH"),
    ],
)
def test_attributes_of_outputs_are_looked_at_before_anything_is_built(
    pybuild: Pybuild, context: Callable[..., Path], attribute: str, said: str
) -> None:
    folder = context("FROM scratch\nCOPY absent /\n")
    done = pybuild("build", "-o", f"type=oci,dest=out.tar,{attribute}", folder, status=2)
    assert said in done.stderr
    assert "absent" not in done.stderr.replace("COPY absent", "")


def test_only_what_lies_below_the_working_directory_is_cleared_without_being_allowed(
    pybuild: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("FROM scratch\nCOPY a /\n", {"a": "a"})
    inside, outside = pybuild.directory / "here" / "out", pybuild.directory / "out"
    for place in (inside, outside):
        place.mkdir(parents=True)
        (place / "old").touch()
    work = inside.parent

    def build(dest: str, *words: str, status: int = 0) -> str:
        output = f"type=local,dest={dest},mode=delete"
        return pybuild("build", "-o", output, *words, folder, cwd=work, status=status).stderr

    build("out")
    assert "not below the working directory" in build("../out", status=2)
    assert sorted(os.listdir(inside)) == ["a"]
    assert sorted(os.listdir(outside)) == ["old"]
    build("../out", "--allow", "buildx.local.delete")
    assert sorted(os.listdir(outside)) == ["a"]


def test_metadata_tells_each_platforms_provenance_unless_that_is_off(
    pybuild: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n", {"a": "a"})

    def keys(*words: str, environment: dict[str, str] | None = None) -> set[str]:
        pybuild("build", *words, "--metadata-file=meta.json", folder, environment=environment)
        found = json.loads((pybuild.directory / "meta.json").read_text())
        return {key for key in found if key.startswith("buildx.build.provenance")}

    both = ["--platform", "linux/amd64,linux/arm64"]
    names = {f"buildx.build.provenance/linux/{name}" for name in ("amd64", "arm64")}
    assert keys(*both) == names
    assert keys() == {"buildx.build.provenance"}
    assert keys("--provenance=false") == set()
    assert keys(environment={"BUILDX_METADATA_PROVENANCE": "disabled"}) == set()


def test_metadata_tells_warnings_where_that_is_asked_for(
    pybuild: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("from scratch\nCOPY a /a\n", {"a": "a"})

    def warnings(value: str) -> Any:
        environment = {"BUILDX_METADATA_WARNINGS": value}
        pybuild("build", "--metadata-file=meta.json", folder, environment=environment)
        found = json.loads((pybuild.directory / "meta.json").read_text())
        return found.get("buildx.build.warnings")

    assert warnings("0") is None
    for _ in range(2):  # built, and remembered
        (warning,) = warnings("1")
        assert base64.b64decode(warning["short"]).startswith(b"ConsistentInstructionCasing: ")
        assert base64.b64decode(warning["sourceInfo"]["data"]) == b"from scratch\nCOPY a /a\n"
        assert warning["sourceInfo"]["filename"] == "Dockerfile"
        assert warning["range"] == [{"start": {"line": 1}, "end": {"line": 1}}]
        assert warning["level"] == 1


def test_a_dockerfile_comes_through_a_pipe_with_a_name(
    pybuild: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context("FROM absent\n", {"a": "a"})
    text = b"FROM scratch\nCOPY a /\n"
    pybuild("build", "-f", "/dev/stdin", folder, stdin=text)
