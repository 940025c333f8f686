"""Packages that an image holds, read from its files: dpkg, apk, rpm, Python, npm, Go programs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildkit_py.inspection import golang, rpm
from buildkit_py.layers.tree import Node, Tree

_LIMIT = 64 << 20
_DATABASE_LIMIT = 1 << 30
_RPM_FOLDERS = (b"/var/lib/rpm", b"/usr/lib/sysimage/rpm", b"/usr/share/rpm")
_OS_RELEASE_LIMIT = 1 << 16
_SMALLEST_PROGRAM = 4096


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """An installed package; `kind` is that of a package URL (deb, apk, rpm, pypi, npm, golang).

    The version of a deb or an rpm has its epoch in front (`1:2.3-4`).
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """What `os-release` calls the system, as it stands in package URLs: `debian`, `debian-12`."""

    vendor: str = ""
    release: str = ""


def find_distribution(tree: Tree) -> Distribution:
    """The system that a root holds; empty where it does not say."""
    text = _read(tree, b"/etc/os-release") or _read(tree, b"/usr/lib/os-release")
    values: dict[str, str] = {}
    for line in text[:_OS_RELEASE_LIMIT].decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals:
            values[key.strip()] = value.strip().strip("\"'")
    vendor, version = values.get("ID", ""), values.get("VERSION_ID", "")
    return Distribution(vendor=vendor, release=f"{vendor}-{version}" if version else vendor)


def find_packages(tree: Tree) -> list[Package]:
    """Every package of a root, sorted. Damaged databases give what can be read of them."""
    found: set[Package] = set(_rpm(tree))
    found.update(_dpkg(_read(tree, b"/var/lib/dpkg/status")))
    folder = tree.lookup(b"/var/lib/dpkg/status.d")
    if folder is not None and folder.is_dir:
        for name, node in tree.children(folder):
            if node.is_file and not name.endswith(b".md5sums"):
                found.update(_dpkg(_content(tree, node), installed=True))
    found.update(_apk(_read(tree, b"/lib/apk/db/installed")))
    for node in _walk(tree):
        if not node.is_file:
            continue
        reader = _reader(node.path)
        if reader is not None:
            found.update(reader(_content(tree, node)))
        elif node.mode & 0o111 and node.size > _SMALLEST_PROGRAM:
            found.update(_go(tree, node))
    return sorted(found)


def _walk(tree: Tree) -> Iterator[Node]:
    stack = [tree.root()]
    while stack:
        node = stack.pop()
        yield node
        if node.is_dir:
            stack.extend(child for _, child in reversed(tree.children(node)))


def _reader(path: bytes) -> Callable[[bytes], Iterator[Package]] | None:
    if path.endswith((b".dist-info/METADATA", b".egg-info/PKG-INFO")):
        return _python
    if path.endswith(b"/package.json") and path.count(b"/node_modules/"):
        inside = path.rpartition(b"/node_modules/")[2].split(b"/")
        if len(inside) == 2 + inside[0].startswith(b"@"):
            return _npm
    return None


def _read(tree: Tree, path: bytes) -> bytes:
    node = tree.lookup(path)
    return _content(tree, node) if node is not None and node.is_file else b""


def _content(tree: Tree, node: Node, limit: int = _LIMIT) -> bytes:
    with os.fdopen(tree.open(node), "rb") as file:
        return file.read(limit)


def _go(tree: Tree, node: Node) -> Iterator[Package]:
    with os.fdopen(tree.open(node), "rb") as file:
        for module in golang.read_modules(file):
            yield Package("golang", module.path, module.version)


def _rpm(tree: Tree) -> Iterator[Package]:
    for folder in _RPM_FOLDERS:
        found = _rpm_sqlite(tree, folder)
        for name, read in (
            (b"Packages.db", rpm.read_packages_db),
            (b"Packages", rpm.read_packages),
        ):
            node = tree.lookup(folder + b"/" + name)
            if node is not None and node.is_file:
                found += read(_content(tree, node, _DATABASE_LIMIT))
        for item in found:
            epoch = "" if item.epoch is None else f"{item.epoch}:"
            version = f"{epoch}{item.version}-{item.release}"
            yield Package("rpm", item.name, version, item.architecture, item.license)


def _rpm_sqlite(tree: Tree, folder: bytes) -> list[rpm.RpmPackage]:
    """Read a copy: SQLite writes beside a database with a WAL, and follows links."""
    database = tree.lookup(folder + b"/rpmdb.sqlite")
    if database is None or not database.is_file or database.size > _DATABASE_LIMIT:
        return []
    with tempfile.TemporaryDirectory(prefix="rpmdb-") as place:
        copy = Path(place) / "rpmdb.sqlite"
        for suffix in ("", "-wal"):
            node = tree.lookup(folder + b"/rpmdb.sqlite" + suffix.encode())
            if node is not None and node.is_file and node.size <= _DATABASE_LIMIT:
                with (
                    os.fdopen(tree.open(node), "rb") as source,
                    copy.with_name(copy.name + suffix).open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
        return rpm.read_sqlite(copy)


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
