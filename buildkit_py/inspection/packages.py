"""Packages that an image holds, read from its files: dpkg, apk, Python, npm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from buildkit_py.layers.tree import MergedTree, Node

_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """An installed package; `kind` is that of a package URL (deb, apk, pypi, npm)."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    license: str = ""


def find_packages(tree: MergedTree) -> list[Package]:
    """Every package of a root, sorted. Damaged databases give what can be read of them."""
    found: set[Package] = set()
    found.update(_dpkg(_read(tree, b"/var/lib/dpkg/status")))
    folder = tree.lookup(b"/var/lib/dpkg/status.d")
    if folder is not None and folder.is_dir:
        for name, node in tree.children(folder):
            if node.is_file and not name.endswith(b".md5sums"):
                found.update(_dpkg(_content(tree, node), installed=True))
    found.update(_apk(_read(tree, b"/lib/apk/db/installed")))
    for node in tree.walk():
        reader = _reader(node.path) if node.is_file else None
        if reader is not None:
            found.update(reader(_content(tree, node)))
    return sorted(found)


def _reader(path: bytes) -> Callable[[bytes], Iterator[Package]] | None:
    if path.endswith((b".dist-info/METADATA", b".egg-info/PKG-INFO")):
        return _python
    if path.endswith(b"/package.json") and path.count(b"/node_modules/"):
        inside = path.rpartition(b"/node_modules/")[2].split(b"/")
        if len(inside) == 2 + inside[0].startswith(b"@"):
            return _npm
    return None


def _read(tree: MergedTree, path: bytes) -> bytes:
    node = tree.lookup(path)
    return _content(tree, node) if node is not None and node.is_file else b""


def _content(tree: MergedTree, node: Node) -> bytes:
    with os.fdopen(tree.open(node), "rb") as file:
        return file.read(_LIMIT)


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    for block in data.decode("utf-8", "replace").split("\n\n"):
        values: dict[str, str] = {}
        for line in block.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line[:1].isspace():
                values.setdefault(key, value.strip())
        if values:
            yield values


def _dpkg(data: bytes, *, installed: bool = False) -> Iterator[Package]:
    for values in _paragraphs(data):
        there = installed or values.get("Status", "").endswith(" installed")
        if there and values.get("Package") and values.get("Version"):
            yield Package(
                "deb", values["Package"], values["Version"], values.get("Architecture", "")
            )


def _apk(data: bytes) -> Iterator[Package]:
    for values in _paragraphs(data):
        if values.get("P") and values.get("V"):
            yield Package(
                "apk", values["P"], values["V"], values.get("A", ""), values.get("L", "")
            )


def _python(data: bytes) -> Iterator[Package]:
    for values in _paragraphs(data):
        if values.get("Name") and values.get("Version"):
            text = values.get("License-Expression", "")
            yield Package("pypi", values["Name"], values["Version"], "", text)
        return


def _npm(data: bytes) -> Iterator[Package]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict) and values.get("name") and values.get("version"):
        text = values.get("license")
        yield Package(
            "npm",
            str(values["name"]),
            str(values["version"]),
            "",
            text if isinstance(text, str) else "",
        )
