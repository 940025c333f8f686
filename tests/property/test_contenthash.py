"""The scan of a build context against the plain definition of a selection's digest."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_py.cache.contenthash import selection_digest, selection_files
from buildkit_py.cache.keys import Selection
from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.errors import CopyError
from buildkit_py.layers.context import ContextTree
from buildkit_py.sources.local import ContextSource

NAMES = st.sampled_from(["a", "b", "c.txt", "d", "a.b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
KINDS = st.sampled_from(["file", "file", "dir", "link"])
TREES = st.lists(st.tuples(PATHS, KINDS, st.integers(0, 2)), max_size=9)
PATTERNS = st.lists(
    st.sampled_from(["a", "a/*", "*.txt", "**/d", "!a/b", "!**/c.txt", "b", "*", "!a", "d/a"]),
    max_size=3,
).map(tuple)
SELECTIONS = st.builds(
    Selection,
    paths=PATHS.map(lambda path: ("/" + path,)) | st.just(("/",)),
    exclude=st.just(()) | st.just(("*.txt",)) | st.just(("a", "!a/b")),
)


def build(root: Path, tree: list[tuple[str, str, int]]) -> None:
    for path, kind, value in tree:
        place = root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if kind == "dir":
                place.mkdir()
            elif kind == "link":
                place.symlink_to(["a", "../b", "/d/a"][value])
            else:
                place.write_text(str(value))
                place.chmod(0o644 + value)
        except (FileExistsError, NotADirectoryError, IsADirectoryError, OSError):
            continue


def plain(root: Path, ignore: IgnoreMatcher, selection: Selection) -> str | None:
    try:
        return selection_digest(ContextTree(root, ignore), selection)
    except CopyError:
        return None


def scanned(source: ContextSource, selection: Selection) -> str | None:
    try:
        return source.digest(selection)
    except CopyError:
        return None


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


@given(TREES, PATTERNS, SELECTIONS)
@settings(max_examples=120, deadline=None)
def test_the_scan_gives_the_digest_of_the_plain_walk(
    tree: list[tuple[str, str, int]], patterns: tuple[str, ...], selection: Selection
) -> None:
    with scratch() as name:
        root = Path(name)
        build(root, tree)
        ignore = IgnoreMatcher(patterns)
        source = ContextSource(root, ignore)
        wanted = plain(root, ignore, selection)
        assert scanned(source, selection) == wanted
        if wanted is not None:
            files = selection_files(ContextTree(root, ignore), selection)
            assert dict(source.files(selection)) == dict(files)


@given(TREES, TREES)
@settings(max_examples=60, deadline=None)
def test_remembered_digests_never_hide_a_change(
    tree: list[tuple[str, str, int]], later: list[tuple[str, str, int]]
) -> None:
    with scratch() as name:
        root, memory = Path(name, "root"), Path(name, "memory")
        root.mkdir()
        build(root, tree)
        first = ContextSource(root, cache=memory, clock_ns=lambda: 1 << 62)
        first.digest(Selection())
        # whatever the worth of it: force it to be kept
        first._stats._new_bytes = 1 << 30
        first.save()
        for path in list(root.iterdir())[:1]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        build(root, later)
        again = ContextSource(root, cache=memory)
        assert again.digest(Selection()) == ContextSource(root).digest(Selection())


@given(TREES, TREES)
@settings(max_examples=60, deadline=None)
def test_equal_digests_mean_equal_files(
    one: list[tuple[str, str, int]], other: list[tuple[str, str, int]]
) -> None:
    with scratch() as name:
        left, right = Path(name, "left"), Path(name, "right")
        left.mkdir()
        right.mkdir()
        build(left, one)
        build(right, other)
        same = ContextSource(left).digest(Selection()) == ContextSource(right).digest(Selection())
        assert same == (shape(left) == shape(right))


def shape(root: Path) -> list[tuple[str, int, str]]:
    out = []
    for path in sorted(root.rglob("*")):
        text = ""
        if path.is_symlink():
            text = os.readlink(path)
        elif path.is_file():
            text = path.read_text()
        out.append((os.fspath(path.relative_to(root)), path.lstat().st_mode, text))
    return out
