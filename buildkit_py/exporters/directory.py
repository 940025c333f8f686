"""The root file system as files: `type=local`.

Owners stay when root exports (`owner=keep`), since a root file system is worth little without
them; otherwise everything belongs to the caller. What the destination has in the place of an
exported entry makes way; links there are never followed. With several platforms each has its own
folder, unless `platform-split=false`.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.exporters.attestations import attestation_files
from buildkit_py.exporters.attributes import flag
from buildkit_py.exporters.base import BuiltImage, ExportRequest, ExportResult
from buildkit_py.layers.tree import MergedTree, Node
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.trash import remove_tree

if TYPE_CHECKING:
    from buildkit_py.exporters import OutputSpec
    from buildkit_py.store import Store

_PIECE = 1 << 20


class DirectoryExporter:
    """`type=local,dest=DIR`."""

    def __init__(self, spec: OutputSpec, store: Store) -> None:
        self._spec = spec
        self._store = store

    def export(self, request: ExportRequest) -> ExportResult:
        """Write the files of all platforms."""
        attributes = self._spec.attributes
        dest = self._spec.destination
        if not dest or dest == "-":
            raise UsageError("dest is required for output type local", hint="dest=DIRECTORY")
        mode = attributes.get("mode", "copy")
        if mode not in {"copy", "delete"}:
            raise UsageError(f'invalid mode "{mode}" for output type local', hint="copy or delete")
        split = flag(attributes, "platform-split", default=request.multi_platform)
        folder = request.directory / dest
        writer = TreeCopier(keep_owners=_keep_owners(attributes), epoch=request.epoch)
        merged = not split and len(request.images) > 1
        if merged:
            refuse_collisions(self._store, request.images)
        with explain_os_errors(f"cannot write to {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(request.images):
                target = folder / image.platform.identifier if split else folder
                target.mkdir(exist_ok=True)
                tree = image_tree(self._store, image)
                writer.copy(tree, target, delete=mode == "delete" and (split or not number))
                for name, data in statements(image, tree, attributes, merged=merged):
                    write_beside(target, name, data)
        return ExportResult(warnings=writer.warnings())


def write_beside(folder: Path, name: str, data: bytes) -> None:
    """A file of ours in a directory, in place of whatever has that name. Follows no link."""
    if "/" in name:
        raise UsageError(f'invalid attestation-prefix: "{name}" is no file name')
    path = folder / name
    _make_way(os.fsencode(path))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
        file.write(data)


def image_tree(store: Store, image: BuiltImage) -> MergedTree:
    """The merged files of a built image."""
    return MergedTree(store.snapshots.directories(image.snapshot))


def _keep_owners(attributes: Mapping[str, str]) -> bool:
    value = attributes.get("owner", "")
    if value not in {"", "keep", "caller"}:
        raise UsageError(f'invalid owner "{value}" for output type local', hint="keep or caller")
    return value == "keep" or (value == "" and os.geteuid() == 0)


def refuse_collisions(store: Store, images: Sequence[BuiltImage]) -> None:
    """Raise UsageError where files of several platforms would be one."""
    seen: dict[bytes, str] = {}
    for image in images:
        platform = str(image.platform)
        for node in image_tree(store, image).walk():
            other = seen.setdefault(node.path, platform) if not node.is_dir else platform
            if other != platform:
                raise UsageError(
                    f"cannot merge platforms into one directory: {os.fsdecode(node.path)} is in"
                    f" both {other} and {platform}",
                    hint="leave platform-split=false away",
                )


def statements(
    image: BuiltImage, tree: MergedTree, attributes: Mapping[str, str], *, merged: bool
) -> Iterator[tuple[str, bytes]]:
    """The files of attestations; where platforms are merged their names tell the platform."""
    for name, data in attestation_files(image.attestations, tree):
        base, dot, suffix = name.rpartition(".")
        own = f"{base}.{image.platform.identifier}{dot}{suffix}" if merged else name
        yield attributes.get("attestation-prefix", "") + own, data


@dataclass(slots=True, kw_only=True)
class TreeCopier:
    """Copies a tree into a directory. Counts what this process may not make."""

    keep_owners: bool
    epoch: int | None = None
    skipped_devices: int = 0
    _links: dict[tuple[int, int, int], bytes] = field(default_factory=dict)

    def warnings(self) -> tuple[str, ...]:
        """What could not be copied, in a sentence."""
        if not self.skipped_devices:
            return ()
        return (f"{self.skipped_devices} device nodes were left out: making them needs root",)

    def copy(self, tree: MergedTree, target: Path, *, delete: bool = False) -> None:
        """Write every entry of the tree below `target`."""
        base = os.fsencode(target)
        self._links.clear()
        waiting = [(tree.root(), base)]
        filled: list[tuple[Node, bytes]] = []
        while waiting:
            node, real = waiting.pop()
            filled.append((node, real))
            below = self._directory(tree, node, real, delete=delete)
            waiting.extend(reversed(below))
        for node, real in reversed(filled):  # what is inside comes before its directory
            self._finish(tree, node, real)

    def _directory(
        self, tree: MergedTree, node: Node, real: bytes, *, delete: bool
    ) -> list[tuple[Node, bytes]]:
        """Write the files of a directory and make its directories, which are given back."""
        children = tree.children(node)
        below = []
        if delete:
            names = {name for name, _ in children}
            for name in os.listdir(real):
                if name not in names:
                    remove_tree(Path(os.fsdecode(real + b"/" + name)))
        for name, child in children:
            path = real + b"/" + name
            if child.is_dir:
                self._make_directory(path)
                below.append((child, path))
            else:
                _make_way(path)
                self._entry(tree, child, path)
        return below

    @staticmethod
    def _make_directory(path: bytes) -> None:
        with suppress(FileNotFoundError):
            if modes.S_ISDIR(os.lstat(path).st_mode):
                os.chmod(path, 0o700)  # its final mode may not let us write into it
                return
            os.unlink(path)
        os.mkdir(path, 0o700)

    def _entry(self, tree: MergedTree, node: Node, path: bytes) -> None:
        key = tree.link_key(node)
        if key is not None:
            first = self._links.setdefault(key, path)
            if first != path:
                os.link(first, path, follow_symlinks=False)
                return
        if node.is_file:
            _copy_file(tree, node, path)
        elif node.is_symlink:
            os.symlink(tree.readlink(node), path)
        elif not self._special(node, path):
            return
        self._finish(tree, node, path)

    def _special(self, node: Node, path: bytes) -> bool:
        try:
            os.mknod(path, node.mode, node.rdev)
        except PermissionError:
            self.skipped_devices += 1
            return False
        return True

    def _finish(self, tree: MergedTree, node: Node, path: bytes) -> None:
        if self.keep_owners:
            with suppress(PermissionError):
                os.chown(path, node.uid, node.gid, follow_symlinks=False)
        for name, value in tree.xattrs(node).items() if node.parts else ():
            with suppress(OSError):  # not every file system and user may have them all
                os.setxattr(path, name, value, follow_symlinks=False)
        if not node.is_symlink:
            os.chmod(path, node.mode & 0o7777)
        time = node.mtime_ns if self.epoch is None else self.epoch * 1_000_000_000
        os.utime(path, ns=(time, time), follow_symlinks=False)


def _make_way(path: bytes) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if modes.S_ISDIR(status.st_mode):
        remove_tree(Path(os.fsdecode(path)))
    else:
        os.unlink(path)


def _copy_file(tree: MergedTree, node: Node, path: bytes) -> None:
    source = tree.open(node)
    try:
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy_bytes(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_bytes(source: int, target: int) -> None:
    try:
        while os.copy_file_range(source, target, _PIECE * 64):
            pass
    except OSError:
        # not between these two file systems; go on from where it stopped
        while piece := os.read(source, _PIECE):
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
