from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.cache.contenthash import selected, selection_digest, selection_files
from buildkit_py.cache.keys import Selection
from buildkit_py.errors import CopyError
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import MergedTree

ALL = Selection()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "src" / "lib").mkdir(parents=True)
    (root / "src" / "a.py").write_text("a")
    (root / "src" / "lib" / "b.py").write_text("b")
    (root / "README").write_text("read me")
    (root / "link").symlink_to("src/a.py")
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def digest(root: Path, selection: Selection = ALL) -> str:
    return selection_digest(ContextTree(root), selection)


def names(root: Path, selection: Selection) -> list[str]:
    return [os.fsdecode(name) for name, _ in selected(ContextTree(root), selection)]


def _touch(root: Path) -> None:
    os.utime(root / "README", ns=(1, 1))


def _same_content_in_a_new_inode(root: Path) -> None:
    (root / "new").write_text("read me")
    (root / "new").chmod(0o644)
    (root / "new").replace(root / "README")


@pytest.mark.parametrize("change", [_touch, _same_content_in_a_new_inode])
def test_times_and_inodes_do_not_count(tree: Path, change: Callable[[Path], None]) -> None:
    before = digest(tree)
    change(tree)
    assert digest(tree) == before


def test_the_place_of_the_tree_does_not_count(tree: Path, tmp_path: Path) -> None:
    before = digest(tree)
    tree.rename(tmp_path / "moved")
    assert digest(tmp_path / "moved") == before


def _content(root: Path) -> None:
    (root / "README").write_text("read  e")


def _mode(root: Path) -> None:
    (root / "README").chmod(0o755)


def _directory_mode(root: Path) -> None:
    (root / "src").chmod(0o700)


def _link_target(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("src/b.py")


def _rename(root: Path) -> None:
    (root / "README").rename(root / "README2")


def _new_empty_directory(root: Path) -> None:
    (root / "empty").mkdir()


def _file_to_link(root: Path) -> None:
    (root / "README").unlink()
    (root / "README").symlink_to("read me")


@pytest.mark.parametrize(
    "change",
    [_content, _mode, _directory_mode, _link_target, _rename, _new_empty_directory, _file_to_link],
)
def test_everything_that_a_layer_shows_counts(tree: Path, change: Callable[[Path], None]) -> None:
    before = digest(tree)
    change(tree)
    assert digest(tree) != before


def test_an_xattr_counts(tree: Path) -> None:
    before = digest(tree)
    try:
        os.setxattr(tree / "README", "user.note", b"x")
    except OSError:
        pytest.skip("no user xattrs on this file system")
    assert digest(tree) != before


def test_owner_does_not_count_in_a_context_but_does_in_a_snapshot(tree: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to change owners")
    context, snapshot = digest(tree), selection_digest(MergedTree([tree]), ALL)
    os.chown(tree / "README", 7, 7)
    assert digest(tree) == context
    assert selection_digest(MergedTree([tree]), ALL) != snapshot


def test_a_socket_counts_as_an_empty_file(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # the name of a socket is limited
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        (tree / "s").chmod(0o644)
        with_socket = digest(tree)
    (tree / "s").unlink()
    (tree / "s").touch(0o644)
    (tree / "s").chmod(0o644)
    assert digest(tree) == with_socket


def test_names_are_relative_to_what_is_selected(tree: Path) -> None:
    before = digest(tree, Selection(paths=("/src",)))
    (tree / "src").rename(tree / "moved")
    assert digest(tree, Selection(paths=("/moved",))) == before


def test_files_beside_the_selection_do_not_count(tree: Path) -> None:
    before = digest(tree, Selection(paths=("/src",)))
    (tree / "README").write_text("other")
    assert digest(tree, Selection(paths=("/src",))) == before


def test_a_link_named_as_source_is_followed(tree: Path) -> None:
    before = digest(tree, Selection(paths=("/link",)))
    assert before == digest(tree, Selection(paths=("/src/a.py",)))
    (tree / "src" / "a.py").write_text("changed")
    assert digest(tree, Selection(paths=("/link",))) != before


def test_a_link_out_of_the_tree_stays_inside(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tree / "up").symlink_to("../../../../../../" + os.fspath(tmp_path / "secret"))
    with pytest.raises(CopyError):
        digest(tree, Selection(paths=("/up",)))


def test_a_missing_path_is_named(tree: Path) -> None:
    with pytest.raises(CopyError) as caught:
        digest(tree, Selection(paths=("/src/nope",)))
    assert caught.value.message == 'failed to compute cache key: "/src/nope": not found'


def test_renaming_a_match_of_a_pattern_counts(tree: Path) -> None:
    pattern = Selection(paths=("/src/*.py",), wildcard=True)
    before = digest(tree, pattern)
    (tree / "src" / "a.py").rename(tree / "src" / "z.py")
    assert digest(tree, pattern) != before


def test_a_pattern_without_match_selects_nothing(tree: Path) -> None:
    assert names(tree, Selection(paths=("/*.go",), wildcard=True)) == []


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("/*", ["README", "link", "src", "src/a.py", "src/lib", "src/lib/b.py"]),
        ("/R*E", ["README"]),
        ("/src/?.py", ["a.py"]),
        ("/*/*.py", ["a.py"]),
        ("/[Q-S]EADME", ["README"]),
        ("/[^R]*k", ["link"]),
        ("/README\\*", []),
        ("/s[^x]c/lib", ["lib", "lib/b.py"]),
    ],
)
def test_patterns_select_as_go_matches(tree: Path, pattern: str, wanted: list[str]) -> None:
    assert names(tree, Selection(paths=(pattern,), wildcard=True)) == wanted


def test_two_stars_cross_directories_only_with_parents(tree: Path) -> None:
    deep = Selection(paths=("/**/b.py",), wildcard=True, parents=True)
    assert names(tree, deep) == ["/src", "/src/lib", "/src/lib/b.py"]
    flat = Selection(paths=("/**/b.py",), wildcard=True)
    assert names(tree, flat) == []


@pytest.mark.parametrize("pattern", ["/[", "/[a", "/a\\", "/[]a]", "/[a-]"])
def test_a_bad_pattern_is_refused(tree: Path, pattern: str) -> None:
    with pytest.raises(CopyError, match="syntax error in pattern"):
        names(tree, Selection(paths=(pattern,), wildcard=True))


def test_files_of_a_selection_are_named_in_the_tree(tree: Path) -> None:
    found = selection_files(ContextTree(tree), Selection(paths=("/src",)))
    assert list(found) == ["src", "src/a.py", "src/lib", "src/lib/b.py"]
