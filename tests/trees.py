"""File trees for tests: made from a mapping, and read back as comparable values.

A key that ends in `/` is a directory. Values: bytes or str for content, `Link(target)`, `Hard(path
of an earlier entry)`, `Node(...)` for a device or a FIFO, all with optional attributes by `With`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildkit_py.layers.tree import MergedTree, Tree

DEFAULT_TIME = 1_600_000_000


@dataclass(frozen=True)
class Link:
    target: str


@dataclass(frozen=True)
class Hard:
    path: str


@dataclass(frozen=True)
class Special:
    kind: int
    device: int = 0


@dataclass(frozen=True)
class With:
    content: Any
    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime: int = DEFAULT_TIME
    xattrs: tuple[tuple[str, bytes], ...] = ()


def make_tree(root: Path, entries: Mapping[str, Any]) -> Path:
    """Make the entries below `root`, directories on the way with mode 0755."""
    root.mkdir(parents=True, exist_ok=True)
    for name, value in entries.items():
        path = root / name.rstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = value if isinstance(value, With) else With(value)
        _make(root, path, name, wanted.content)
        if isinstance(wanted.content, Hard):
            continue
        _dress(path, wanted)
    for folder, _, _ in os.walk(root, topdown=False):
        if Path(folder) != root:
            os.utime(folder, (DEFAULT_TIME, DEFAULT_TIME))
    for name, value in entries.items():
        if isinstance(value, With) and name.endswith("/"):
            os.utime(root / name, (value.mtime, value.mtime))
    return root


def _make(root: Path, path: Path, name: str, content: Any) -> None:
    if isinstance(content, Link):
        path.symlink_to(content.target)
    elif isinstance(content, Hard):
        path.hardlink_to(root / content.path)
    elif isinstance(content, Special):
        os.mknod(path, content.kind | 0o644, content.device)
    elif name.endswith("/"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o644)


def _dress(path: Path, wanted: With) -> None:
    if wanted.owner is not None:
        os.lchown(path, *wanted.owner)
    if wanted.mode is not None:
        path.chmod(wanted.mode)
    for name, value in wanted.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)
    os.utime(path, (wanted.mtime, wanted.mtime), follow_symlinks=False)


def read_tree(tree: Tree, *, times: bool = False, owners: bool = True) -> dict[str, Any]:
    """Everything visible in a tree, by path."""
    found: dict[str, Any] = {}
    links: dict[Any, str] = {}
    stack = [tree.root()]
    while stack:
        node = stack.pop()
        if node.is_dir:
            stack.extend(child for _, child in reversed(tree.children(node)))
        if node.path == b"/":
            continue
        name = os.fsdecode(node.path)
        value: list[Any] = [stat.filemode(node.mode)]
        if owners:
            value.append((node.uid, node.gid))
        if node.is_file:
            with os.fdopen(tree.open(node), "rb") as file:
                value.append(file.read())
            key = tree.link_key(node)
            if key is not None:
                value.append("linked to " + links.setdefault(key, name))
        elif node.is_symlink:
            value.append(os.fsdecode(tree.readlink(node)))
        elif not node.is_dir:
            value.append(node.rdev)
        xattrs = tree.xattrs(node)
        if xattrs:
            value.append(tuple(sorted(xattrs.items())))
        if times:
            value.append(node.mtime_ns // 1_000_000_000)
        found[name] = tuple(value)
    return found


def read_stack(*directories: Path, times: bool = False) -> dict[str, Any]:
    """The merged view of overlay directories, lowest first."""
    return read_tree(MergedTree(directories), times=times)


def contents(*directories: Path) -> dict[str, str]:
    """Paths of files and links to what they hold, directories left out."""
    out: dict[str, str] = {}
    tree = MergedTree(directories)
    for node in tree.walk():
        name = os.fsdecode(node.path)
        if node.is_file:
            with os.fdopen(tree.open(node), "rb") as file:
                out[name] = file.read().decode("latin-1")
        elif node.is_symlink:
            out[name] = "-> " + os.fsdecode(tree.readlink(node))
    return out
