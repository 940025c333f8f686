"""The merged view over overlay directories, and build contexts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import MergedTree, clean_path
from buildkit_py.layers.whiteout import default_opaque_xattr
from tests.trees import Hard, Link, Special, With, contents, make_tree

WHITEOUT = Special(stat.S_IFCHR)


@pytest.fixture
def opaque() -> tuple[tuple[str, bytes], ...]:
    return ((default_opaque_xattr(), b"y"),)


def test_upper_files_hide_lower_ones_and_directories_merge(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"d/a": "low", "d/b": "low", "x": "low"})
    top = make_tree(tmp_path / "top", {"d/b": "top", "d/c": "top"})
    assert contents(low, top) == {"/d/a": "low", "/d/b": "top", "/d/c": "top", "/x": "low"}


def test_whiteouts_hide_what_is_below_only(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"gone": "1", "dir/x": "1", "back": "1"})
    middle = make_tree(tmp_path / "mid", {"gone": WHITEOUT, "dir": WHITEOUT, "back": WHITEOUT})
    top = make_tree(tmp_path / "top", {"back": "2"})
    assert contents(low, middle, top) == {"/back": "2"}
    tree = MergedTree([low, middle, top])
    assert tree.lookup("/gone") is None
    assert tree.lookup("/dir/x") is None


def test_an_opaque_directory_hides_all_below(
    tmp_path: Path, opaque: tuple[tuple[str, bytes], ...]
) -> None:
    low = make_tree(tmp_path / "low", {"d/s/a": "1", "e": "1"})
    top = make_tree(tmp_path / "top", {"d/": With(None, xattrs=opaque), "d/b": "2"})
    assert contents(low, top) == {"/d/b": "2", "/e": "1"}
    assert MergedTree([low, top]).lookup("/d/s/a") is None


def test_both_forms_of_the_opaque_mark_are_read(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"d/a": "1"})
    mark = (("user.overlay.opaque", b"y"),)
    top = make_tree(tmp_path / "top", {"d/": With(None, xattrs=mark)})
    assert contents(low, top) == {}


def test_whiteouts_in_xattr_form_are_read(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"d/a": "1", "d/b": "1"})
    top = make_tree(
        tmp_path / "top",
        {
            "d/": With(None, xattrs=(("user.overlay.opaque", b"x"),)),
            "d/a": With("", xattrs=(("user.overlay.whiteout", b"y"),)),
        },
    )
    assert contents(low, top) == {"/d/b": "1"}
    assert MergedTree([low, top]).lookup("/d/a") is None


def test_a_file_between_directories_ends_the_merge(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"d/a": "1"})
    middle = make_tree(tmp_path / "mid", {"d": "file"})
    top = make_tree(tmp_path / "top", {"d/b": "2"})
    assert contents(low, middle, top) == {"/d/b": "2"}
    assert MergedTree([low, middle, top]).lookup("/d/a") is None


def test_overlay_attributes_do_not_show(tmp_path: Path) -> None:
    attributes = (("user.overlay.origin", b"1"), ("user.mine", b"2"))
    make_tree(tmp_path / "t", {"f": With("1", xattrs=attributes)})
    tree = MergedTree([tmp_path / "t"])
    node = tree.lookup("/f")
    assert node is not None
    assert tree.xattrs(node) == {"user.mine": b"2"}


def test_links_resolve_inside_the_tree_across_layers(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"usr/bin/sh": "1", "bin": Link("usr/bin")})
    top = make_tree(tmp_path / "top", {"usr/bin/ls": "2", "up": Link("/../../../bin/ls")})
    tree = MergedTree([low, top])
    assert tree.resolve("/bin/ls") == b"/usr/bin/ls"
    assert tree.resolve("/up") == b"/usr/bin/ls"
    assert tree.resolve("/bin/new/../x") == b"/usr/bin/x"
    assert tree.read("/up") == b"2"


def test_what_is_missing_resolves_as_written(tmp_path: Path) -> None:
    tree = MergedTree([make_tree(tmp_path / "t", {"l": Link("/a/b"), "f": "1"})])
    assert tree.resolve("/l/c/../d") == b"/a/b/d"
    assert tree.resolve("/f/x") == b"/f/x"
    assert tree.lookup("/f/x") is None
    assert tree.lookup("/" + "n" * 300) is None


def test_no_directories_are_an_empty_root() -> None:
    tree = MergedTree([])
    assert tree.root().is_dir
    assert tree.children(tree.root()) == []
    assert tree.lookup("/x") is None


def test_a_hard_link_key_does_not_join_layers(tmp_path: Path) -> None:
    low = make_tree(tmp_path / "low", {"a": "1", "b": Hard("a")})
    top = tmp_path / "top"
    top.mkdir()
    os.link(low / "a", top / "c")
    tree = MergedTree([low, top])
    keys = {name: tree.link_key(node) for name, node in tree.children(tree.root())}
    assert keys[b"a"] == keys[b"b"] is not None
    assert keys[b"c"] != keys[b"a"]


@pytest.mark.parametrize(
    ("path", "clean"),
    [("", b"/"), ("a/./b//c/", b"/a/b/c"), ("/../../x", b"/x"), (b"/a/../\xff", b"/\xff")],
)
def test_clean_path(path: str | bytes, clean: bytes) -> None:
    assert clean_path(path) == clean


# ------------------------------------------------------------------ contexts
def names(tree: ContextTree) -> list[str]:
    return [os.fsdecode(node.path) for node in tree.walk() if not node.is_dir]


def test_a_context_belongs_to_root(tmp_path: Path) -> None:
    tree = ContextTree(make_tree(tmp_path / "c", {"f": "1"}))
    node = tree.lookup("/f")
    assert node is not None
    assert (node.uid, node.gid) == (0, 0)


def test_ignored_files_are_not_there(tmp_path: Path) -> None:
    make_tree(tmp_path / "c", {"a": "1", "node_modules/x/y": "1", "src/b.pyc": "1", "src/b": "1"})
    tree = ContextTree(tmp_path / "c", IgnoreMatcher(("node_modules", "**/*.pyc")))
    assert names(tree) == ["/a", "/src/b"]
    assert tree.lookup("/node_modules/x/y") is None
    assert tree.excluded("/node_modules/x/y")


def test_an_ignored_directory_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "c", {"a": "1", "big/x": "1"})
    scanned: list[bytes] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or real(path))
    assert names(ContextTree(tmp_path / "c", IgnoreMatcher(("big",)))) == ["/a"]
    assert not [path for path in scanned if path.endswith(b"big")]


def test_excluded_directories_show_only_above_exceptions(tmp_path: Path) -> None:
    make_tree(tmp_path / "c", {"v/keep/f": "1", "v/no/f": "1", "w/x": "1"})
    tree = ContextTree(tmp_path / "c", IgnoreMatcher(("v", "w", "!v/keep")))
    assert [os.fsdecode(node.path) for node in tree.walk()] == ["/", "/v", "/v/keep", "/v/keep/f"]


def test_modes_can_be_shown_as_git_keeps_them(tmp_path: Path) -> None:
    make_tree(
        tmp_path / "c", {"d/": With(None, mode=0o2770), "d/x": With("", mode=0o775), "f": "1"}
    )
    (tmp_path / "c/f").chmod(0o664)
    tree = ContextTree(tmp_path / "c", normalize_modes=True)
    found = {os.fsdecode(node.path): stat.S_IMODE(node.mode) for node in tree.walk("/")}
    assert found == {"/": 0o755, "/d": 0o755, "/d/x": 0o755, "/f": 0o644}
