"""What a checkout says of a context that lies in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_py.sources.vcs import vcs_facts
from tests.repositories import git

pytestmark = pytest.mark.requires("git")

PATH = {"PATH": os.environ["PATH"]}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "app").mkdir(parents=True)
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    git(folder, "remote", "add", "origin", "https://me:secret@example.com/app.git")
    return folder


def test_commit_remote_and_places_are_named_without_credentials(checkout: Path) -> None:
    places = {"context": checkout / "app", "dockerfile": checkout}
    assert vcs_facts(places, PATH) == {
        "revision": git(checkout, "rev-parse", "HEAD"),
        "source": "https://example.com/app.git",
        "localdir:context": "app",
        "localdir:dockerfile": ".",
    }


def test_the_remote_of_the_branch_comes_first_and_places_outside_are_not_named(
    checkout: Path, tmp_path: Path
) -> None:
    git(checkout, "remote", "add", "fork", "git@example.com:fork.git")
    git(checkout, "config", "branch.main.remote", "fork")
    found = vcs_facts({"context": checkout, "dockerfile": tmp_path}, PATH)
    assert found["source"] == "git@example.com:fork.git"
    assert "localdir:dockerfile" not in found


def test_a_changed_checkout_is_marked_only_when_asked(checkout: Path) -> None:
    (checkout / "new").write_text("")
    places = {"context": checkout}
    assert not vcs_facts(places, PATH)["revision"].endswith("-dirty")
    asked = PATH | {"BUILDX_GIT_CHECK_DIRTY": "true"}
    assert vcs_facts(places, asked)["revision"].endswith("-dirty")


def test_nothing_is_said_outside_of_a_checkout_or_when_turned_off(
    checkout: Path, tmp_path: Path
) -> None:
    assert vcs_facts({"context": tmp_path}, PATH) == {}
    assert vcs_facts({"context": checkout}, PATH | {"BUILDX_GIT_INFO": "false"}) == {}


def test_a_checkout_starts_no_program_and_may_be_broken(checkout: Path) -> None:
    marker = checkout / "ran"
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand"):
        git(checkout, "config", key, f"touch {marker}")
    vcs_facts({"context": checkout}, PATH | {"BUILDX_GIT_CHECK_DIRTY": "1"})
    assert not marker.exists()
    (checkout / ".git" / "HEAD").write_text("rubbish")
    assert vcs_facts({"context": checkout}, PATH) == {"localdir:context": "."}
