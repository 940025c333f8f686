"""ADD's archives: recognised by content, unpacked like `tar -x` over what is there.

Names and hard link targets are taken relative to the destination, links on the way are followed
inside the root only. A directory over a directory changes its attributes; everything else
replaces what stands in its place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from buildkit_py.errors import CorruptArchive
from buildkit_py.layers.apply import EntryPlacer, attributes_of, refused
from buildkit_py.layers.attributes import Attributes
from buildkit_py.layers.compression import open_decompressor
from buildkit_py.layers.copy import TreeWriter
from buildkit_py.layers.tar_reader import LayerReader, Source, TarLimits
from buildkit_py.layers.tree import Node, Tree, clean_path


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """`owner` replaces the archive's owners; `made_at` (ns) is the time of implied directories."""

    owner: tuple[int, int] | None = None
    made_at: int = 0
    limits: TarLimits | None = None


def is_archive(tree: Tree, node: Node) -> bool:
    """Whether a regular file is a tar with at least one entry, compressed or not."""
    if not node.is_file or not node.size:
        return False
    with os.fdopen(tree.open(node), "rb", buffering=0) as file:
        try:
            with open_decompressor(file) as stream:
                return next(iter(LayerReader(stream)), None) is not None
        except CorruptArchive:
            return False


def extract_archive(
    stream: Source, writer: TreeWriter, destination: bytes, options: ExtractOptions
) -> int:
    """Unpack a tar, compressed or not, below a resolved directory; gives the bytes of content."""
    with open_decompressor(stream) as tar:
        reader = LayerReader(tar, options.limits)
        implied = Attributes(mode=0o755, mtime_ns=options.made_at)
        placer = EntryPlacer(writer, reader, base=destination, implied=implied, born_here=True)
        for entry in reader:
            wanted = replace(attributes_of(entry), mtime_ns=max(entry.mtime_ns, 0))
            if options.owner is not None:
                wanted = replace(wanted, uid=options.owner[0], gid=options.owner[1])
            path = clean_path(entry.name)
            if path != b"/":  # the destination itself stays as it is
                try:
                    placer.place(path, entry, wanted)
                except OSError as error:
                    raise refused(entry, error) from error
        return reader.size
