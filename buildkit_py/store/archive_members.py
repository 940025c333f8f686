"""What `load` reads: the members of a tar, or the files of a directory."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import CorruptArchive
from buildkit_py.layers.tar import HARD_LINK, REGULAR, SYMLINK
from buildkit_py.store.content import READ_SIZE

if TYPE_CHECKING:
    from buildkit_py.layers.tar_reader import LayerReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file (or link) of an archive; its content is read once, before the next member."""

    name: str
    size: int
    link: str | None
    chunks: Iterable[bytes]


def tar_members(reader: LayerReader) -> Iterator[Member]:
    """The files and links of a tar. Raises CorruptArchive for names that lead outside."""
    for entry in reader:
        name = posixpath.normpath(os.fsdecode(entry.name).lstrip("/"))
        if name.startswith("../") or name == "..":
            raise CorruptArchive(f"archive holds a name outside itself: {name}")
        if entry.kind in {SYMLINK, HARD_LINK}:
            target = os.fsdecode(entry.link)
            if entry.kind == SYMLINK:
                target = posixpath.join(posixpath.dirname(name), target)
            yield Member(name=name, size=0, link=posixpath.normpath(target), chunks=())
        elif entry.kind == REGULAR:
            yield Member(name=name, size=entry.size, link=None, chunks=reader.chunks())


def directory_members(root: Path) -> Iterator[Member]:
    """The files below a directory; links there are not followed."""
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_symlink() or not path.is_file():
                continue
            relative = path.relative_to(root).as_posix()
            with path.open("rb") as file:
                yield Member(
                    name=relative,
                    size=path.stat().st_size,
                    link=None,
                    chunks=iter(lambda file=file: file.read(READ_SIZE), b""),  # type: ignore[misc]
                )
