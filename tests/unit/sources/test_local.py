from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.cache.keys import Selection
from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.errors import CopyError
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import Node, Tree
from buildkit_py.sources import local
from buildkit_py.sources.local import ContextSource
from buildkit_py.sources.statcache import is_settled

ALL = Selection()
FUTURE = 1 << 62  # nanoseconds: everything has settled by then


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "src").mkdir(parents=True)
    for number in range(250):
        (root / "src" / f"f{number}").write_text(str(number))
    return root


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths of entries whose digest was taken anew."""
    seen: list[bytes] = []
    real = local.entry_digest

    def counting(tree: Tree, node: Node) -> bytes:
        seen.append(node.path)
        return real(tree, node)

    monkeypatch.setattr(local, "entry_digest", counting)
    return seen


def scan(root: Path, memory: Path, clock: Callable[[], int] = lambda: FUTURE) -> str:
    source = ContextSource(root, cache=memory, clock_ns=clock)
    digest = source.digest(ALL)
    source.save()
    return digest


def test_an_unchanged_context_is_not_read_again(
    root: Path, tmp_path: Path, read_files: list[bytes]
) -> None:
    first = scan(root, tmp_path / "memory")
    assert len(read_files) == 252
    read_files.clear()
    assert scan(root, tmp_path / "memory") == first
    assert read_files == []


def test_only_a_changed_file_is_read_again(
    root: Path, tmp_path: Path, read_files: list[bytes]
) -> None:
    first = scan(root, tmp_path / "memory")
    read_files.clear()
    (root / "src" / "f7").write_text("seven")
    assert scan(root, tmp_path / "memory") != first
    assert read_files == [b"/src/f7"]


def test_a_change_that_keeps_size_and_mtime_is_seen(root: Path, tmp_path: Path) -> None:
    first = scan(root, tmp_path / "memory")
    before = (root / "src" / "f7").stat()
    (root / "src" / "f7").write_text("8")
    os.utime(root / "src" / "f7", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert scan(root, tmp_path / "memory") != first


def test_a_file_changed_as_it_was_read_is_read_again(
    root: Path, tmp_path: Path, read_files: list[bytes]
) -> None:
    now = (root / "src" / "f0").stat().st_ctime_ns
    scan(root, tmp_path / "memory", lambda: now)
    read_files.clear()
    scan(root, tmp_path / "memory", lambda: now)
    assert len(read_files) == 252


def test_a_clock_of_whole_seconds_needs_a_longer_rest() -> None:
    assert is_settled(10_500_000_000, 10_700_000_000)
    assert not is_settled(10_500_000_000, 10_510_000_000)
    assert not is_settled(10_000_000_000, 11_000_000_000)
    assert is_settled(10_000_000_000, 12_100_000_000)


def test_a_damaged_memory_is_forgotten(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    first = scan(root, memory)
    for path in memory.iterdir():
        path.write_bytes(b"\x00damaged")
    assert scan(root, memory) == first


def test_an_excluded_directory_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "node_modules" / "x").mkdir(parents=True)
    (tmp_path / "src").mkdir()
    source = ContextSource(tmp_path, IgnoreMatcher(("node_modules",)))
    opened: list[bytes] = []
    real = os.scandir

    def watching(path: bytes) -> object:
        opened.append(path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", watching)
        source.digest(ALL)
    assert opened == [os.fsencode(tmp_path), os.fsencode(tmp_path / "src")]


def test_only_what_is_selected_is_looked_at(
    root: Path, tmp_path: Path, read_files: list[bytes]
) -> None:
    (root / "README").write_text("x")
    source = ContextSource(root, cache=tmp_path / "memory")
    source.digest(Selection(paths=("/README",)))
    assert read_files == [b"/README"]


def test_an_ignored_file_that_is_named_is_explained(root: Path) -> None:
    source = ContextSource(root, IgnoreMatcher(("src/f1",)))
    with pytest.raises(CopyError) as caught:
        source.digest(Selection(paths=("/src/f1",)))
    assert caught.value.message == 'failed to compute cache key: "/src/f1": not found'
    assert caught.value.hint == "/src/f1 is excluded by the ignore file of the build context"


def test_an_ignored_file_does_not_count(root: Path) -> None:
    ignore = IgnoreMatcher(("**/f1",))
    before = ContextSource(root, ignore).digest(ALL)
    (root / "src" / "f1").write_text("changed")
    assert ContextSource(root, ignore).digest(ALL) == before


def test_normalized_modes_are_those_that_git_knows(root: Path) -> None:
    (root / "src" / "f1").chmod(0o755)

    def digest(*, normalize: bool) -> str:
        return ContextSource(root, normalize_modes=normalize).digest(ALL)

    strict, relaxed = digest(normalize=False), digest(normalize=True)
    for path in (root, *root.rglob("*")):
        path.chmod(path.stat().st_mode | 0o020)  # another umask
    assert digest(normalize=False) != strict
    assert digest(normalize=True) == relaxed
    (root / "src" / "f1").chmod(0o664)
    assert digest(normalize=True) != relaxed


def test_a_change_after_the_digest_is_noticed(root: Path) -> None:
    source = ContextSource(root)
    digest = source.digest(ALL)
    assert source.unchanged(ALL, digest)
    (root / "src" / "f1").write_text("changed")
    assert not source.unchanged(ALL, digest)
    assert source.digest(ALL) == digest  # what this build works with stays as it was


@pytest.fixture
def settled(root: Path) -> Path:
    """The context with all its changes so long ago that stamps tell the next one."""
    time.sleep(0.15)
    return root


@pytest.mark.parametrize("change", ["content", "same size", "mode", "added", "gone", "link"])
def test_every_change_is_noticed_by_stamps(settled: Path, change: str) -> None:
    file = settled / "src" / "f1"
    source = ContextSource(settled)
    digest = source.digest(ALL)
    assert source.unchanged(ALL, digest)
    size = file.stat().st_size
    changes: dict[str, Callable[[], object]] = {
        "content": lambda: file.write_text("changed"),
        "same size": lambda: file.write_bytes(b"?" * size),
        "mode": lambda: file.chmod(0o711),
        "added": (settled / "src" / "more").touch,
        "gone": file.unlink,
        "link": lambda: (settled / "src" / "to").symlink_to("f1"),
    }
    changes[change]()
    assert not source.unchanged(ALL, digest)
    assert not source.unchanged(ALL, digest)  # the second look has renewed what is remembered


def test_a_change_between_two_selections_is_noticed_for_the_first(settled: Path) -> None:
    source = ContextSource(settled)
    whole = source.digest(ALL)
    (settled / "src" / "f1").write_text("changed")
    time.sleep(0.15)
    part = Selection(paths=("/src",))
    inner = source.digest(part)  # reads the file again and remembers it so
    assert source.stamps() is None  # a recalled build would hold the old file for ever
    assert not source.unchanged(ALL, whole)
    assert source.unchanged(part, inner)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(paths=("/src/f1*",), wildcard=True),
        Selection(paths=("/src/f1",), parents=True),
        Selection(paths=("/**/f1",), wildcard=True, parents=True),
    ],
    ids=["wildcard", "parents", "both"],
)
def test_a_change_between_two_patterns_is_noticed_for_the_first(
    settled: Path, selection: Selection
) -> None:
    source = ContextSource(settled)
    source.digest(selection)
    assert source.stamps() is not None
    (settled / "src" / "f1").write_text("changed")
    time.sleep(0.15)
    source.digest(Selection(paths=("/*/f1",), wildcard=True))
    assert source.stamps() is None


def test_of_what_was_copied_only_files_that_were_read_are_looked_at_again(settled: Path) -> None:
    scan(settled, settled.parent / "memory")
    source = ContextSource(settled, cache=settled.parent / "memory")
    digest = source.digest(ALL)
    file, other = settled / "src" / "f1", settled / "src" / "f2"
    os.close(source.tree.open(source.tree.lookup("/src/f2")))  # type: ignore[arg-type]
    file.write_text("changed after it was linked to the same content")
    assert source.unchanged(ALL, digest)
    assert not source.unchanged(ALL, digest, mounted=True)
    other.write_text("changed after it was read, or before")
    assert not source.unchanged(ALL, digest)


def test_a_copy_lists_what_the_digest_was_taken_of(settled: Path) -> None:
    tree = (source := ContextSource(settled)).tree
    source.digest(ALL)
    folder = tree.lookup("/src")
    assert folder is not None
    (settled / "src" / "f1").chmod(0o711)
    assert dict(tree.children(folder))[b"f1"].mode & 0o777 != 0o711
    assert not tree.listed_again
    (settled / "src" / "more").touch()
    assert b"more" in dict(tree.children(folder))
    assert tree.listed_again


def test_excluded_files_are_not_looked_at(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.log").touch()
    (tmp_path / "keep").touch()
    tree = ContextTree(tmp_path, IgnoreMatcher(("*", "!keep")))
    seen: list[str] = []
    real = ContextTree._node

    def watching(self: ContextTree, path: bytes, *rest: Any) -> Any:
        seen.append(os.fsdecode(path))
        return real(self, path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContextTree, "_node", watching)
        assert [name for name, _ in tree.children(tree.root())] == [b"keep"]
    assert seen == ["/", "/keep"]
