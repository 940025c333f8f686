"""An unchanged build is recalled, without the pipeline; anything that changed makes it build."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
DOCKERFILE = """\
FROM busybox AS files
WORKDIR /src
COPY src/ ./
FROM busybox
ARG VERSION=1
COPY --from=files /src/one.txt /
COPY *.txt /
ENV VERSION=$VERSION
CMD ["cat", "/one.txt"]
"""
FILES = {"src/one.txt": "1", "src/deep/two.txt": "2", "three.txt": "3", "other": "not copied"}
HEAVY = ("lark", "rich", "urllib3", "zstandard", "argparse", "typing", "dataclasses", "hashlib")


def settle(*directories: Path) -> None:
    """Wait until a change of a file would show in its ctime."""
    paths = [path for top in directories for path in (top, *top.rglob("*"))]
    newest = max(path.lstat().st_ctime_ns for path in paths)
    while time.time_ns() < newest + 150_000_000:
        time.sleep(0.01)


class Builds:
    """Runs one command again and again, and sees which modules that took."""

    def __init__(self, pybuild: Pybuild) -> None:
        self.pybuild = pybuild
        self.modules: set[str] = set()
        self.stdout = self.stderr = ""

    def __call__(
        self,
        *words: str | Path,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> bool:
        """Whether the build was recalled."""
        command = self.pybuild.command(*words)
        done = subprocess.run(
            [command[0], "-X", "importtime", *command[1:]],
            env=self.pybuild.variables(environment),
            cwd=cwd or self.pybuild.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stderr.splitlines(keepends=True)
        traced = [line for line in lines if line.startswith("import time:")]
        self.modules = {line.rpartition("|")[2].strip() for line in traced}
        self.stdout = done.stdout
        self.stderr = "".join(line for line in lines if line not in traced)
        assert done.returncode == 0, self.stderr
        return "buildkit_py.engine.build" not in self.modules


@pytest.fixture
def builds(busybox: Pybuild) -> Builds:
    return Builds(busybox)


@pytest.fixture
def made(context: Context) -> Path:
    directory = context(DOCKERFILE, FILES)
    (directory / ".dockerignore").write_text("*.log\n")
    settle(directory)
    return directory


WORDS = ("build", "-t", "you/web", "--progress=plain")


def test_the_second_build_is_recalled_and_imports_no_more_than_it_needs(
    builds: Builds, made: Path
) -> None:
    assert not builds(*WORDS, made)
    assert builds(*WORDS, made)
    assert not builds.modules.intersection(HEAVY)
    ours = {name for name in builds.modules if name.startswith("buildkit_py")}
    assert ours == {
        "buildkit_py",
        "buildkit_py.version",
        "buildkit_py.filestamps",
        "buildkit_py.recall",
        "buildkit_py.recall.keys",
        "buildkit_py.recall.lookup",
        "buildkit_py.recall.show",
    }


@pytest.mark.parametrize("display", ["plain", "classic", "quiet"])
def test_it_says_what_the_pipeline_says_of_a_cached_build(
    builds: Builds, made: Path, display: str
) -> None:
    words = ("build", "-t", "you/web", f"--progress={display}", made)
    builds(*words)
    # a debug topic that does not exist keeps to the pipeline
    assert not builds(*words, environment={"PYBUILD_DEBUG": "nothing"})
    expected = builds.stdout, _without_times(builds.stderr)
    assert builds(*words)
    assert (builds.stdout, _without_times(builds.stderr)) == expected


def test_warnings_are_said_again(builds: Builds, context: Context) -> None:
    directory = context("FROM busybox AS Base\nCOPY a /\n", {"a": "1"})
    settle(directory)
    builds(*WORDS, directory)
    first = builds.stderr.partition("1 warning found")[2]
    assert first
    assert builds(*WORDS, directory)
    assert builds.stderr.partition("1 warning found")[2] == first


def _without_times(text: str) -> str:
    lines = [re.sub(r"\d+\.\ds", "0.0s", line) for line in text.splitlines()]
    # layers are prepared side by side: their order is by chance
    return "\n".join(
        sorted(lines) if any("exporting sha256:" in line for line in lines) else lines
    )


def test_a_terminal_gets_the_last_frame(builds: Builds, made: Path) -> None:
    pybuild = builds.pybuild
    words = ("build", "-t", "you/web", made)
    frames = []
    for _ in range(2):
        ours, theirs = os.openpty()
        variables = pybuild.variables({"TERM": "xterm", "COLUMNS": "80", "LINES": "60"})
        build = subprocess.Popen(pybuild.command(*words), env=variables, stderr=theirs)
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:
                break
        os.close(ours)
        assert build.wait(timeout=60) == 0
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", text).decode()
        frames.append(plain[plain.rindex("[+] Building ") :].splitlines())
    assert re.match(r"\[\+\] Building \d\.\ds \((\d+)/\1\) FINISHED$", frames[1][0])
    steps = [line for line in frames[1] if "CACHED" in line]
    assert any("COPY src/ ./" in line for line in steps)
    assert all(len(line) == 80 for line in steps)


Change = Callable[[Path, Pybuild], None]


def _write(name: str, text: str) -> Change:
    return lambda directory, _: (directory / name).write_text(text) and None


def _restored_time(directory: Path, _: Pybuild) -> None:
    path = directory / "three.txt"
    before = path.stat()
    path.write_text("x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _without_cache(_: Path, pybuild: Pybuild) -> None:
    with sqlite3.connect(pybuild.root / "state.db") as connection:
        connection.execute("DELETE FROM cache_records")


def _linked(directory: Path, _: Pybuild) -> None:
    (directory / "three.txt").unlink()
    (directory / "three.txt").symlink_to("other")


def _other_base(_: Path, pybuild: Pybuild) -> None:
    pybuild("build", "-q", "-t", "busybox", "-", stdin=b"FROM busybox\nENV NEW=1\n")


CHANGES: dict[str, Change] = {
    "content": _write("three.txt", "other"),
    "content with the old time": _restored_time,
    "content in a folder": _write("src/deep/two.txt", "x"),
    "mode": lambda directory, _: (directory / "three.txt").chmod(0o600),
    "mode of a folder": lambda directory, _: (directory / "src/deep").chmod(0o700),
    "a new file": _write("src/deep/four.txt", "4"),
    "a new file that a pattern takes": _write("five.txt", "5"),
    "a file gone": lambda directory, _: (directory / "src/deep/two.txt").unlink(),
    "a file become a link": _linked,
    "the Dockerfile": lambda directory, _: (
        (directory / "Dockerfile").write_text(DOCKERFILE + "LABEL a=b\n") and None
    ),
    "the ignore file": _write(".dockerignore", "*.log\nthree.txt\n"),
    "an ignore file of the Dockerfile's own": _write("Dockerfile.dockerignore", "one.txt\n"),
    "the ignore file gone": lambda directory, _: (directory / ".dockerignore").unlink(),
    "the base": _other_base,
    "the image removed": lambda _, pybuild: pybuild("rmi", "-f", "you/web") and None,
    "the cache pruned": _without_cache,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_built(builds: Builds, made: Path, change: str) -> None:
    builds(*WORDS, made)
    assert builds(*WORDS, made)
    CHANGES[change](made, builds.pybuild)
    assert not builds(*WORDS, made)


def test_a_change_that_has_just_been_built_is_found_next_time(builds: Builds, made: Path) -> None:
    builds(*WORDS, made)
    (made / "three.txt").write_text("new")
    settle(made)
    assert not builds(*WORDS, made)
    assert builds(*WORDS, made)


@pytest.mark.parametrize(
    "words",
    [
        ("--no-cache",),
        ("--pull=false", "--build-arg", "VERSION=2"),
        ("--label", "a=b"),
        ("--target", "files"),
        ("-t", "another"),
    ],
    ids=" ".join,
)
def test_another_option_is_built(builds: Builds, made: Path, words: tuple[str, ...]) -> None:
    builds(*WORDS, made)
    assert not builds(*WORDS, *words, made)


@pytest.mark.parametrize(
    "option", ["--no-cache", "--explain", "--squash", "--debug", "--ref-file=ref", "--load"]
)
def test_options_that_do_more_are_never_recalled(builds: Builds, made: Path, option: str) -> None:
    builds(*WORDS, option, made)
    assert not builds(*WORDS, option, made)


def test_an_export_is_never_recalled(builds: Builds, made: Path, tmp_path: Path) -> None:
    words = (*WORDS, "-o", f"type=local,dest={tmp_path / 'out'}", made)
    builds(*words)
    assert not builds(*words)


def test_a_secret_is_never_recalled(builds: Builds, made: Path) -> None:
    words = (*WORDS, "--secret", "id=other,src=context/other", made)
    builds(*words)
    assert not builds(*words)


@pytest.mark.parametrize("name", ["SOURCE_DATE_EPOCH", "http_proxy", "FROM_OUTSIDE"])
def test_the_environment_counts(builds: Builds, context: Context, name: str) -> None:
    directory = context("FROM busybox\nARG FROM_OUTSIDE\nLABEL a=$FROM_OUTSIDE\n")
    settle(directory)
    words = (*WORDS, "--build-arg", "FROM_OUTSIDE", directory)
    builds(*words, environment={name: "1000000000"})
    assert builds(*words, environment={name: "1000000000"})
    assert not builds(*words, environment={name: "1000000001"})


def test_the_directory_counts(builds: Builds, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "Dockerfile").write_text("FROM busybox\n")
    builds(*WORDS, ".", cwd=made)
    assert builds(*WORDS, ".", cwd=made)
    assert not builds(*WORDS, ".", cwd=other)


def test_a_link_that_leads_elsewhere_is_built(builds: Builds, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", made, other], check=True)
    link = tmp_path / "current"
    link.symlink_to(made)
    builds(*WORDS, link)
    assert builds(*WORDS, link)
    link.unlink()
    link.symlink_to(other)
    assert not builds(*WORDS, link)


def test_a_named_context_counts(builds: Builds, context: Context, tmp_path: Path) -> None:
    directory = context("FROM busybox\nCOPY --from=more . /more\n")
    more = tmp_path / "more"
    more.mkdir()
    (more / "file").write_text("1")
    settle(directory, more)
    words = (*WORDS, "--build-context", f"more={more}", directory)
    builds(*words)
    assert builds(*words)
    (more / ".dockerignore").write_text("file\n")
    assert not builds(*words)
    settle(more)
    builds(*words)
    assert builds(*words)
    (more / "new").write_text("2")
    assert not builds(*words)


def _settings(tmp_path: Path) -> Path:
    path = tmp_path / "config" / "pybuild" / "pybuild.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


BESIDE: dict[str, Callable[[Path], object]] = {
    "the Dockerfile": lambda top: (top / "apart" / "web").write_text("FROM busybox\nLABEL a=2\n"),
    "an ignore file beside it": lambda top: (top / "apart" / "web.dockerignore").write_text("a\n"),
    "an ignore file in the context": lambda top: (top / "context" / ".dockerignore").write_text(
        "a\n"
    ),
    "settings": lambda top: _settings(top).write_text("[build]\nnormalize-modes = true\n"),
    "a Dockerfile that comes first": lambda top: (top / "web").write_text("FROM busybox\n"),
}


@pytest.mark.parametrize("change", BESIDE)
def test_what_lies_beside_the_context_counts(
    builds: Builds, context: Context, tmp_path: Path, change: str
) -> None:
    directory = context(None, {"a": "1", "b": "2"})
    (directory / "a").chmod(0o600)
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "web").write_text("FROM busybox\nCOPY . /all\n")
    (directory / "web").symlink_to(apart / "web")
    settle(directory)
    file = "web" if change == "a Dockerfile that comes first" else apart / "web"
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    words = ("build", "-q", "-f", file, directory)
    builds(*words, cwd=tmp_path, environment=environment)
    before = builds.stdout
    assert builds(*words, cwd=tmp_path, environment=environment)
    BESIDE[change](tmp_path)
    assert not builds(*words, cwd=tmp_path, environment=environment)
    assert builds.stdout != before


def test_a_dockerfile_from_standard_input_is_never_recalled(builds: Builds, made: Path) -> None:
    for text in (b"FROM busybox\nLABEL a=1\n", b"FROM busybox\nLABEL a=2\n"):
        done = subprocess.run(
            builds.pybuild.command("build", "-q", "-f", "-", made),
            env=builds.pybuild.variables(),
            input=text,
            capture_output=True,
            check=True,
        )
        builds.stdout += done.stdout.decode()
    assert len(set(builds.stdout.split())) == 2


def test_a_file_that_is_not_copied_does_not_count(builds: Builds, context: Context) -> None:
    directory = context("FROM busybox\nCOPY src /src\n", {"src/a": "1", "other/b": "2"})
    settle(directory)
    builds(*WORDS, directory)
    (directory / "other/b").write_text("3")
    assert builds(*WORDS, directory)


def test_a_write_that_its_time_cannot_show_is_not_relied_upon(
    builds: Builds, context: Context
) -> None:
    """A file newer than the build's start is read again, however it looks."""
    directory = context("FROM busybox\nCOPY a /\n", {"a": "1"})
    ahead = time.time_ns() + 3600 * 10**9
    code = f"import time; time.time_ns = lambda: {ahead} - 7200 * 10**9\n"
    run = "import sys; from buildkit_py.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code + run, *WORDS, os.fspath(directory)]
    subprocess.run(command, env=builds.pybuild.variables(), check=True, capture_output=True)
    assert not builds(*WORDS, directory)


def test_results_are_named_written_and_recorded(
    builds: Builds, made: Path, tmp_path: Path
) -> None:
    pybuild = builds.pybuild
    files = {name: tmp_path / name for name in ("iid", "meta")}
    words = (*WORDS, f"--iidfile={files['iid']}", f"--metadata-file={files['meta']}", made)
    builds(*words)
    image = files["iid"].read_text()
    for path in files.values():
        path.unlink()
    pybuild("tag", "busybox", "you/web")
    assert builds(*words)
    assert files["iid"].read_text() == image
    assert json.loads(pybuild("inspect", "you/web").stdout)[0]["Id"] == image
    record = json.loads(pybuild("builds", "inspect", "--format=json").stdout)
    assert json.loads(files["meta"].read_text())["buildx.build.ref"] == record["ref"]
    assert record["status"].lower() == "completed"
    assert "CACHED" in pybuild("builds", "logs").stdout
    assert len(pybuild("builds", "ls").stdout.splitlines()) == 3


def test_an_interrupted_machine_is_checked_first(builds: Builds, made: Path) -> None:
    """After a boot the store is looked through before anything in it is relied upon."""
    builds(*WORDS, made)
    with sqlite3.connect(builds.pybuild.root / "state.db") as connection:
        connection.execute("UPDATE meta SET value = 'earlier' WHERE key = 'boot'")
    assert not builds(*WORDS, made)
    assert builds(*WORDS, made)
