"""The table of cache keys as users meet it: what builds a step again, and what does not."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import Answer, Asked, ScriptedServer

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

Context = Callable[..., Path]


def again(pybuild: Pybuild, context: Path, *options: str) -> set[str]:
    """Build; the instructions that were not cached, FROM aside."""
    log = pybuild("build", "--progress=plain", "-t", "app", *options, context).stderr
    names = dict(re.findall(r"^#(\d+) \[.*?\d+/\d+\] (.*)$", log, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED", log, re.MULTILINE))
    # an unchanged build is recalled without naming a step
    return {
        name
        for number, name in names.items()
        if number not in cached and not name.startswith("FROM")
    }


# ------------------------------------------------------------------ ADD url
class Download:
    """A file on a server: its text and time may change."""

    def __init__(self) -> None:
        self.text, self.day = "one", 1
        self.sent = 0

    def __call__(self, asked: Asked) -> Answer:
        etag = f'"{self.text}-{self.day}"'
        headers = {"ETag": etag, "Last-Modified": f"Thu, {self.day:02} Jan 2026 00:00:00 GMT"}
        if asked.headers.get("if-none-match") == etag:
            return Answer(status=304, headers=headers)
        self.sent += asked.method == "GET"
        return Answer(body=self.text.encode(), headers=headers)


@pytest.fixture
def download() -> Iterator[tuple[Download, ScriptedServer]]:
    file = Download()
    with ScriptedServer(file) as server:
        yield file, server


def test_an_added_url_is_asked_for_again_and_counts_by_content(
    pybuild: Pybuild, context: Context, download: tuple[Download, ScriptedServer]
) -> None:
    file, server = download
    add = f"ADD {server.url}/f.txt /"
    app = context(f"FROM scratch\n{add}\n")
    assert again(pybuild, app) == {add}
    assert again(pybuild, app) == set()
    assert file.sent == 1
    file.text = "two"
    assert again(pybuild, app) == {add}
    file.day = 2
    assert again(pybuild, app) == set()
    assert file.sent == 3


def test_an_added_url_counts_by_its_file_name(
    pybuild: Pybuild, context: Context, download: tuple[Download, ScriptedServer]
) -> None:
    _, server = download
    context(f"FROM scratch\nADD {server.url}/f.txt /\n")
    app = context(f"FROM scratch\nADD {server.url}/f.txt /\n")
    again(pybuild, app)
    context(f"FROM scratch\nADD {server.url}/g.txt /\n")
    assert again(pybuild, app) == {f"ADD {server.url}/g.txt /"}


# ------------------------------------------------------------------ ADD git
def git(folder: Path, *words: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *words],
        cwd=folder,
        env=os.environ | identity,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A repository, and the URL of a server that speaks git's plain file protocol."""
    folder = tmp_path / "repo.git"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, "one")

    def serve(asked: Asked) -> Answer:
        path = (
            folder / ".git" / asked.path.partition("?")[0].removeprefix("/repo.git/")
        ).resolve()
        if not path.is_file():
            return Answer(status=404)
        return Answer(body=path.read_bytes(), headers={"Content-Type": "text/plain"})

    with ScriptedServer(serve) as server:
        yield folder, f"{server.url}/repo.git"


def commit(folder: Path, text: str) -> None:
    (folder / "a.txt").write_text(text)
    git(folder, "add", "a.txt")
    git(folder, "commit", "-qm", text)
    git(folder, "update-server-info")


def test_an_added_repository_counts_by_commit_and_not_by_ref(
    pybuild: Pybuild, context: Context, repository: tuple[Path, str]
) -> None:
    folder, url = repository

    def add(ref: str, *more: str) -> set[str]:
        line = " ".join(["ADD", *more, f"{url}#{ref}", "/src"])
        found = again(pybuild, context(f"FROM scratch\n{line}\n"))
        assert found <= {line}
        return found

    assert add("main")
    assert not add("main")
    git(folder, "branch", "same")
    git(folder, "update-server-info")
    assert not add("same")
    assert add("main", "--keep-git-dir")
    commit(folder, "two")
    assert add("main")
    assert not add("same")


# ------------------------------------------------------------------ FROM
def test_a_base_counts_by_digest_and_not_by_tag(
    busybox: Pybuild, context: Context, tiny_tar: bytes
) -> None:
    run = "RUN echo x > /x"
    assert again(busybox, context(f"FROM busybox\n{run}\n")) == {run}
    busybox("tag", "busybox", "other:1")
    assert again(busybox, context(f"FROM other:1\n{run}\n")) == set()
    busybox("import", "-c", "ENV NEW=1", "-", "busybox:latest", stdin=tiny_tar)
    assert again(busybox, context(f"FROM busybox\n{run}\n")) == {run}


# ------------------------------------------------------------------ COPY
def test_a_renamed_match_of_a_pattern_is_copied_again(pybuild: Pybuild, context: Context) -> None:
    app = context("FROM scratch\nCOPY *.txt /\n", {"a.txt": "a", "b.md": "b"})
    assert again(pybuild, app) == {"COPY *.txt /"}
    (app / "b.md").rename(app / "c.md")
    assert again(pybuild, app) == set()
    (app / "a.txt").rename(app / "z.txt")
    assert again(pybuild, app) == {"COPY *.txt /"}


def test_a_linked_copy_does_not_count_its_base(busybox: Pybuild, context: Context) -> None:
    text = "FROM busybox\nRUN echo {} > /x\nCOPY{} a /a\n"
    for link, expected in ((" --link", set()), ("", {"COPY a /a"})):
        again(busybox, context(text.format("1", link), {"a": "a"}))
        changed = again(busybox, context(text.format("2" + link, link), {"a": "a"}))
        assert {name for name in changed if name.startswith("COPY")} == expected


def test_a_linked_copy_is_explained_by_its_files_or_as_put_on_another_base(
    busybox: Pybuild, context: Context
) -> None:
    text = "FROM busybox\nRUN echo {} > /x\nCOPY --link a /a\n"
    busybox("build", context(text.format(1), {"a": "a"}))
    done = busybox("build", "--explain", context(text.format(2)))
    assert "COPY --link a /a: put on a new base without being copied again" in done.stderr
    app = context(None, {"a": "b"})
    for words in (["build", "--dry-run", app], ["build", "--explain", app]):
        assert "COPY --link a /a: 1 file changed (a)" in busybox(*words).stderr


def test_arguments_and_variables_count_for_runs_and_not_for_copies(
    busybox: Pybuild, context: Context
) -> None:
    run = "RUN cat /a > /b"
    text = "FROM busybox\nARG V=1\nENV E={}\nCOPY a /a\n" + run + "\nLABEL l={}\n"
    app = context(text.format(1, 1), {"a": "a"})
    assert again(busybox, app) == {"COPY a /a", run}
    assert again(busybox, app, "--build-arg=V=2") == {run}
    assert again(busybox, context(text.format(2, 1))) == {run}
    assert again(busybox, context(text.format(2, 2))) == set()
    assert again(busybox, app, "--label=other=1") == set()


def test_proxies_secrets_and_addresses_of_hosts_do_not_count(
    busybox: Pybuild, context: Context
) -> None:
    run = "RUN --mount=type=secret,id=s cat /run/secrets/s /etc/hosts > /dev/null"
    app = context(f"FROM busybox\n{run}\n")

    def build(secret: str, *options: str) -> set[str]:
        (app.parent / "secret").write_text(secret)
        return again(busybox, app, f"--secret=id=s,src={app.parent}/secret", *options)

    assert build("one", "--add-host=db:10.0.0.1") == {run}
    assert build("two", "--add-host=db:10.0.0.2") == set()
    assert build("two", "--add-host=db:10.0.0.2", "--build-arg=HTTP_PROXY=http://p:1") == set()
    assert build("two", "--add-host=other:10.0.0.2") == {run}


def test_a_mount_counts_by_the_content_of_its_source(busybox: Pybuild, context: Context) -> None:
    run = "RUN --mount=type=bind,source=d,target=/d --mount=type=cache,target=/c ls /d"
    app = context(f"FROM busybox\n{run}\n", {"d/a": "a", "e": "e"})
    assert again(busybox, app) == {run}
    (app / "e").write_text("changed")
    os.utime(app / "d" / "a", (1, 1))
    assert again(busybox, app) == set()
    (app / "d" / "a").write_text("changed")
    assert again(busybox, app) == {run}


def test_a_working_directory_counts_by_path_and_by_what_is_below(
    busybox: Pybuild, context: Context
) -> None:
    text = "FROM busybox\nRUN echo {} > /x\nWORKDIR {}\n"
    again(busybox, context(text.format(1, "/one")))
    assert again(busybox, context(text.format(1, "/two"))) == {"WORKDIR /two"}
    assert "WORKDIR /two" in again(busybox, context(text.format(2, "/two")))
    assert again(busybox, context(text.format(1, "/one"))) == set()


def explained(pybuild: Pybuild, app: Path, *options: str) -> list[str]:
    said = pybuild("build", "--explain", "--progress=plain", *options, app).stderr
    return [line.removeprefix("ran: ") for line in said.splitlines() if line.startswith("ran: ")]


def test_a_record_that_is_too_old_is_said_to_be(busybox: Pybuild, context: Context) -> None:
    app = context("FROM busybox\nRUN echo hello\n")
    busybox("build", app)
    time.sleep(1.1)
    assert explained(busybox, app, "--cache-ttl=1s") == [
        "RUN echo hello: its record is older than --cache-ttl"
    ]


def test_a_miss_is_compared_with_the_same_build_first(busybox: Pybuild, context: Context) -> None:
    app = context("FROM busybox\nCOPY a /a\n", {"a": "one"})
    busybox("build", app)
    other = app.parent / "other"
    other.mkdir()
    (other / "a").write_text("two")
    (other / "Dockerfile").write_text("FROM busybox\nCOPY --chmod=600 a /a\n")
    busybox("build", other)
    context("FROM busybox\nCOPY --chmod=600 a /a\n")
    assert explained(busybox, app) == ["COPY --chmod=600 a /a: the instruction was: COPY a /a"]


def test_a_here_document_a_mount_and_a_step_before_are_explained(
    busybox: Pybuild, context: Context
) -> None:
    text = "FROM busybox\nCOPY <<E /x\n{}\nE\nRUN --mount=type=cache,target=/c{} echo hello\n"
    app = context(text.format("one", ""))
    busybox("build", app)
    context(text.format("two", ",uid=5"))
    mount = "--mount=type=cache,target=/c"
    assert explained(busybox, app) == [
        "COPY <<E /x: here-document E one → two",
        f"RUN {mount},uid=5 echo hello: {mount}: uid 0 → 5",
    ]


def test_a_file_that_has_the_content_of_another_one_is_named_itself(
    pybuild: Pybuild, context: Context
) -> None:
    app = context("FROM scratch\nCOPY a b /x/\n", {"a": "one", "b": "two"})
    pybuild("build", app)
    context(None, {"a": "two", "b": "one"})
    assert explained(pybuild, app) == ["COPY a b /x/: 2 files changed (a, b)"]


def test_a_changed_default_is_explained_as_an_argument(busybox: Pybuild, context: Context) -> None:
    text = "FROM busybox\nARG VERSION={}\nRUN echo hello\n"
    busybox("build", context(text.format("1.2")))
    done = busybox("build", "--explain", context(text.format("1.3")))
    assert "RUN echo hello: ARG VERSION 1.2 → 1.3" in done.stderr


def test_a_pruned_step_with_variables_is_no_first_build(
    busybox: Pybuild, context: Context
) -> None:
    folder = context(
        "FROM busybox\nARG N=1\nWORKDIR /w$N\nCOPY a /x-$N\nRUN echo $N\n", {"a": "a"}
    )
    busybox("build", folder)
    busybox("prune", "-f")
    busybox("rmi", *busybox("images", "-q", "-f", "dangling=true").stdout.split(), status=None)
    busybox("prune", "-f")
    said = busybox("build", "--explain", folder).stderr
    assert "first build" not in said
    assert "COPY a /x-$N: its record was removed from the cache" in said


def test_which_of_two_sources_is_mounted_or_copied_a_second_time_counts(
    busybox: Pybuild, context: Context
) -> None:
    mounts = "--mount=type=bind,source=x,target=/1 --mount=type=bind,source=y,target=/2"
    run = "RUN " + mounts + " --mount=type=bind,source={},target=/3 cat /1/f /2/f /3/f > /all"
    for text in (run, "COPY x/f y/f {}/f /d/"):
        files = {"x/f": "x\n", "y/f": "y\n"}
        again(busybox, context(f"FROM busybox\n{text.format('x')}\n", files))
        line = text.format("y")
        assert again(busybox, context(f"FROM busybox\n{line}\n", files)) == {line}
