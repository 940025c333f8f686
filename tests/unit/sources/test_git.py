"""Git sources: URLs, refs, trees, and what a repository must not do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.errors import SourceError, UsageError
from buildkit_py.graph import GitOp
from buildkit_py.remotes import is_git_url, parse_git_url
from buildkit_py.sources.git import GitSource
from buildkit_py.store.database import open_database
from tests.registries import Answer, ScriptedServer
from tests.repositories import git

pytestmark = pytest.mark.requires("git")

Checkout = Callable[..., Path]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, an annotated tag on the first, a branch `dev`, links and an executable."""
    folder = tmp_path / "repository"
    (folder / "sub").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "a.txt").write_text("one")
    (folder / "sub" / "run").write_text("#!/bin/sh\n")
    (folder / "sub" / "run").chmod(0o755)
    (folder / "link").symlink_to("/etc")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    git(folder, "tag", "-a", "v1", "-m", "v1")
    git(folder, "branch", "dev")
    (folder / "a.txt").write_text("two")
    git(folder, "commit", "-qam", "two")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Iterator[GitSource]:
    with open_database(tmp_path / "state") as db:
        yield GitSource(db, dict(os.environ), allow_local=True)


@pytest.fixture
def checkout(source: GitSource, repository: Path, tmp_path: Path) -> Checkout:
    def make(op: GitOp | None = None, *, fragment: str = "", name: str = "out") -> Path:
        ref, _, subdir = fragment.partition(":")
        op = op or GitOp(remote=f"file://{repository}", ref=ref, subdir=subdir)
        folder = tmp_path / name
        folder.mkdir()
        source.write(op, source.resolve(op), folder)
        return folder

    return make


@pytest.mark.parametrize(
    ("fragment", "text"),
    [("", "two"), ("main", "two"), ("dev", "one"), ("v1", "one"), ("refs/tags/v1", "one")],
)
def test_ref_leads_to_its_commit(checkout: Checkout, fragment: str, text: str) -> None:
    assert (checkout(fragment=fragment) / "a.txt").read_text() == text


def test_commit_is_checked_out_by_its_name(checkout: Checkout, repository: Path) -> None:
    commit = git(repository, "rev-parse", "v1^{}")
    assert (checkout(fragment=commit) / "a.txt").read_text() == "one"


def test_tree_is_as_git_has_it_at_the_commits_time(checkout: Checkout) -> None:
    out = checkout()
    assert sorted(os.listdir(out)) == ["a.txt", "link", "sub"]
    assert (out / "sub" / "run").stat().st_mode & 0o777 == 0o755
    assert (out / "a.txt").stat().st_mode & 0o777 == 0o644
    assert os.readlink(out / "link") == "/etc"
    assert {os.lstat(out / name).st_mtime for name in ("a.txt", "link", "sub")} == {1700000000}


def test_subdirectory_becomes_the_root(checkout: Checkout) -> None:
    assert os.listdir(checkout(fragment="main:sub")) == ["run"]


@pytest.mark.parametrize("subdir", ["link", "missing", "a.txt", "link/ssl"])
def test_subdirectory_cannot_lead_out(checkout: Checkout, subdir: str) -> None:
    with pytest.raises(SourceError, match="has no directory"):
        checkout(fragment=f"main:{subdir}")


def test_kept_git_directory_stands_by_itself(
    checkout: Checkout, repository: Path, tmp_path: Path
) -> None:
    op = GitOp(remote=f"file://{repository}", ref="v1", keep_git_dir=True)
    out = checkout(op)
    assert git(out, "status", "--short") == ""
    assert git(out, "log", "--format=%s") == "one"
    assert not (out / ".git" / "objects" / "info" / "alternates").exists()


def test_moved_branch_is_seen(checkout: Checkout, repository: Path) -> None:
    checkout(name="before")
    (repository / "a.txt").write_text("three")
    git(repository, "commit", "-qam", "three")
    assert (checkout(name="after") / "a.txt").read_text() == "three"


def test_submodule_is_checked_out_without_its_git_file(
    checkout: Checkout, repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "s.txt").write_text("s")
    git(other, "add", ".")
    git(other, "commit", "-qm", "s")
    git(repository, "submodule", "add", f"file://{other}", "module")
    git(repository, "commit", "-qm", "module")
    assert os.listdir(checkout() / "module") == ["s.txt"]
    without = GitOp(remote=f"file://{repository}", submodules=False)
    assert os.listdir(checkout(without, name="without") / "module") == []


def test_checksum_is_compared_with_the_commit(source: GitSource, repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    good = GitOp(remote=f"file://{repository}", checksum=commit[:10])
    assert source.resolve(good).facts["commit"] == commit
    with pytest.raises(SourceError, match="expected checksum to match deadbeef, got"):
        source.resolve(GitOp(remote=f"file://{repository}", checksum="deadbeef"))


def test_unknown_ref_is_one_clear_error(checkout: Checkout) -> None:
    with pytest.raises(SourceError, match="does not contain ref nothing"):
        checkout(fragment="nothing")


def test_hooks_and_filters_of_a_repository_do_not_run(
    checkout: Checkout, repository: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    (repository / ".gitattributes").write_text("* filter=evil\n")
    git(repository, "config", "filter.evil.smudge", f"touch {mark}")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "filter")
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    checkout()
    assert not mark.exists()


@pytest.mark.parametrize(
    "remote", ["file:///etc", "/etc", "../x", "ext::sh -c id", "--upload-pack=x"]
)
def test_local_and_command_remotes_are_refused(tmp_path: Path, remote: str) -> None:
    with open_database(tmp_path / "state") as db, pytest.raises(SourceError):
        GitSource(db, dict(os.environ)).resolve(GitOp(remote=remote))


def test_token_is_sent_as_a_header_and_never_shown(tmp_path: Path) -> None:
    with ScriptedServer(lambda asked: Answer(403)) as server, open_database(tmp_path / "s") as db:
        source = GitSource(db, dict(os.environ))
        op = GitOp(remote=f"{server.url}/x.git")
        with pytest.raises(SourceError) as caught:
            source.resolve(op, {f"GIT_AUTH_TOKEN.{server.host}": b"hunter2"}.get)
        assert server.asked[0].headers["authorization"].startswith("basic ")
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ URLs
@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/x.git",
        "https://example.com/x.git#main:sub",
        "https://example.com/x.git?ref=main",
        "git@example.com:team/x",
        "ssh://git@example.com/x",
        "git://example.com/x",
    ],
)
def test_git_urls_are_known(url: str) -> None:
    assert is_git_url(url)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/x", "http://e/x.git.tar", "./x.git", "a/b", "github.com/a/b", "C:x"],
)
def test_other_sources_are_not_git(url: str) -> None:
    assert not is_git_url(url)


def test_hosted_repository_is_git_only_as_a_context() -> None:
    assert is_git_url("github.com/a/b", context=True)
    assert parse_git_url("github.com/a/b#v1").remote == "https://github.com/a/b"


def test_query_says_what_fragment_and_flags_say() -> None:
    op = parse_git_url(
        "https://e/x.git?tag=v1&subdir=/a/../b/&keep-git-dir&submodules=false&commit=abcdef0"
    )
    assert op == GitOp(
        remote="https://e/x.git",
        ref="refs/tags/v1",
        subdir="b",
        keep_git_dir=True,
        submodules=False,
        checksum="abcdef0",
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?branch=a&tag=b", "branch conflicts with tag"),
        ("?ref=a#b", 'ref conflicts: "b" vs "a"'),
        ("?colour=red", 'unexpected query "colour"'),
        ("?ref=", 'query "ref" has no value'),
        ("?subdir=a&subdir=a", 'query "subdir" has multiple values'),
        ("?submodules=perhaps", 'invalid value "perhaps" for submodules'),
        ("?mtime=never", 'invalid mtime "never"'),
        ("?commit=main", "invalid git checksum"),
        ("#--upload-pack=x", "invalid git ref"),
        ("#a..b", "invalid git ref"),
    ],
)
def test_contradictory_url_is_refused(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_git_url(f"https://e/x.git{query}")


def test_a_flag_may_not_contradict_the_url() -> None:
    url = "https://e/x.git?keep-git-dir=true&checksum=abcdef0"
    assert parse_git_url(url, keep_git_dir=True, checksum="abcdef0").keep_git_dir
    with pytest.raises(UsageError, match="inconsistent keep-git-dir configuration"):
        parse_git_url(url, keep_git_dir=False)
    with pytest.raises(UsageError, match='checksum mismatch "abcdef1" != "abcdef0"'):
        parse_git_url(url, checksum="abcdef1")
