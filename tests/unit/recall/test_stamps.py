"""Stat data of a context: what is looked at, and when it can be relied upon."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.cache.keys import Selection
from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.filestamps import STAMP, same_stamps
from buildkit_py.sources.local import ContextSource

HOUR = 3600 * 10**9


def source(root: Path, *ignored: str, ahead: int = HOUR) -> ContextSource:
    """A context that is read an hour after its files were written."""
    matcher = IgnoreMatcher(ignored) if ignored else None
    return ContextSource(root, matcher, clock_ns=lambda: time.time_ns() + ahead)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/one", "a/deep/two", "b/three", "b/skip/four", "top"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "link").symlink_to("a")
    return tmp_path


def names(context: ContextSource) -> list[str]:
    found = context.stamps()
    assert found is not None
    assert len(found[1]) == STAMP * len(found[0])
    return [os.fsdecode(name) for name in found[0]]


def test_a_selection_is_stamped_with_what_leads_to_it(root: Path) -> None:
    context = source(root)
    context.digest(Selection(paths=("/a/deep",)))
    assert names(context) == ["", "/a", "/a/deep", "/a/deep/two"]


def test_a_link_on_the_way_is_stamped(root: Path) -> None:
    context = source(root)
    context.digest(Selection(paths=("/link/one",)))
    assert {"/link", "/a", "/a/one"} <= set(names(context))


def test_a_pattern_stamps_the_directories_that_it_listed(root: Path) -> None:
    context = source(root)
    context.digest(Selection(paths=("/*/o*",), wildcard=True))
    assert {"", "/a", "/b", "/a/one"} <= set(names(context))
    assert "/b/three" not in names(context)


def test_excluded_files_are_not_stamped_and_excluded_directories_that_were_listed_are(
    root: Path,
) -> None:
    context = source(root, "b", "!b/three", "top")
    context.digest(Selection())
    found = names(context)
    assert {"/b", "/b/three"} <= set(found)
    assert "/top" not in found


def test_a_file_as_new_as_the_build_gives_no_stamps(root: Path) -> None:
    context = source(root, ahead=0)
    (root / "top").write_text("new")
    context.digest(Selection())
    assert context.stamps() is None


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "a/one").write_text("other"),
    "mode": lambda root: (root / "a/one").chmod(0o600),
    "a new file": lambda root: (root / "a/deep/new").write_text(""),
    "a file gone": lambda root: (root / "b/three").unlink(),
    "a directory renamed": lambda root: (root / "b/skip").rename(root / "b/other"),
    "a link elsewhere": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("b")),
    "a directory replaced by a link": lambda root: (
        (root / "a").rename(root / "c"),
        (root / "a").symlink_to("c"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows(root: Path, change: str) -> None:
    context = source(root)
    context.digest(Selection())
    found = context.stamps()
    assert found is not None
    directory = os.fsencode(os.path.realpath(root))
    assert same_stamps(directory, *found)
    CHANGES[change](root)
    assert not same_stamps(directory, *found)
