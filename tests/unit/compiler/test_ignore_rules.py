"""The rules of ignore files, one by one, on a directory: what a context shows of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_py.dockerignore import IgnoreError, IgnoreMatcher, read_patterns
from buildkit_py.layers.context import ContextTree

FILES = (
    "#x", "!y", " x", "a.md", "docs/a.md", "docs/deep/b.md", "foo", "lib/foo",
    "node_modules/m/i.js", "volume/data/oneline.txt", "volume/data/other", "x y",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def hidden(folder: Path, text: str) -> set[str]:
    """The files that an ignore file of this text hides."""
    tree = ContextTree(folder, IgnoreMatcher(read_patterns(text)))
    shown = {os.fsdecode(node.path[1:]) for node in tree.walk() if not node.is_dir}
    return set(FILES) - shown


DOCS = {"docs/a.md", "docs/deep/b.md"}


@pytest.mark.parametrize(
    ("text", "files"),
    [
        pytest.param("\ufefffoo\n", {"foo"}, id="reading-1-byte-order-mark"),
        pytest.param("#x\n", set(), id="reading-1-comment"),
        pytest.param(" #x\n", {"#x"}, id="reading-1-no-comment-behind-a-blank"),
        pytest.param("\t foo \r\n\n   \n", {"foo"}, id="reading-1-blanks-are-trimmed"),
        pytest.param("x y\n", {"x y"}, id="reading-1-blanks-inside-stay"),
        pytest.param("docs\n! docs/a.md\n", {"docs/deep/b.md"}, id="reading-2-exception"),
        pytest.param("./docs//deep/../deep/\n", {"docs/deep/b.md"}, id="reading-3-cleaned"),
        pytest.param("/foo\n", {"foo"}, id="reading-3-leading-slash"),
        pytest.param("foo\n", {"foo"}, id="reading-3-anchored-at-the-root"),
        pytest.param("[#]x\n", {"#x"}, id="reading-4-class-escapes-a-comment"),
        pytest.param("\\!y\n", {"!y"}, id="reading-4-backslash-escapes-an-exception"),
        pytest.param("*.md\n!a.md\na.md\n", {"a.md"}, id="matching-last-one-decides"),
        pytest.param("!foo\n", set(), id="matching-exception-alone"),
        pytest.param("docs\n", DOCS, id="matching-parent-directory"),
        pytest.param("*/*.md\n", {"docs/a.md"}, id="matching-star-stays-in-a-component"),
        pytest.param("**/*.md\n", DOCS | {"a.md"}, id="matching-two-stars-any-depth"),
        pytest.param("**/foo\n", {"foo", "lib/foo"}, id="matching-two-stars-no-depth"),
        pytest.param("docs/**\n", DOCS, id="matching-trailing-two-stars"),
        pytest.param("fo?\n", {"foo"}, id="matching-question-mark"),
        pytest.param("[e-g]oo\n", {"foo"}, id="matching-class"),
        pytest.param("*\n", set(FILES), id="matching-star-alone"),
        pytest.param("**\n", set(FILES), id="matching-two-stars-alone"),
        pytest.param(".\n", set(), id="matching-dot-alone"),
        pytest.param(
            "volume/\n!**/oneline.txt\n", {"volume/data/other"}, id="walk-wildcard-exception"
        ),
        pytest.param(
            "*\n!volume/data/oneline.txt\n",
            set(FILES) - {"volume/data/oneline.txt"},
            id="walk-plain-exception",
        ),
    ],
)
def test_rule(folder: Path, text: str, files: set[str]) -> None:
    assert hidden(folder, text) == files


def test_reading_2_a_lone_exclamation_mark_is_an_error() -> None:
    with pytest.raises(IgnoreError, match='illegal exclusion pattern: "!"'):
        IgnoreMatcher(read_patterns("foo\n!\n"))


def test_matching_a_bad_pattern_is_an_error() -> None:
    with pytest.raises(IgnoreError, match="syntax error in pattern"):
        IgnoreMatcher(read_patterns("foo\n[\n"))


@pytest.mark.parametrize(
    ("text", "entered"),
    [
        ("node_modules\nvolume\n", set()),
        ("node_modules\nvolume\n!volume/data/oneline.txt\n", {"volume", "volume/data"}),
        ("node_modules\nvolume\n!foo\n", set()),
        (
            "node_modules\nvolume\n!**/oneline.txt\n",
            {"node_modules", "node_modules/m", "volume", "volume/data"},
        ),
    ],
    ids=["no-exception", "plain-exception", "exception-elsewhere", "wildcard-exception"],
)
def test_walk_enters_an_excluded_directory_for_an_exception_only(
    folder: Path, text: str, entered: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    real = os.scandir

    def watching(path: bytes) -> object:
        seen.add(os.path.relpath(os.fsdecode(path), folder))
        return real(path)

    monkeypatch.setattr(os, "scandir", watching)
    tree = ContextTree(folder, IgnoreMatcher(read_patterns(text)))
    list(tree.walk())
    assert {path for path in seen if path.startswith(("node_modules", "volume"))} == entered


def test_walk_shows_the_parents_of_what_an_exception_brings_back(folder: Path) -> None:
    (folder / "volume").chmod(0o750)
    tree = ContextTree(folder, IgnoreMatcher(read_patterns("*\n!volume/data/oneline.txt\n")))
    found = {os.fsdecode(node.path): node.mode & 0o777 for node in tree.walk() if node.is_dir}
    assert found["/volume"] == 0o750
    assert set(found) == {"/", "/volume", "/volume/data"}
