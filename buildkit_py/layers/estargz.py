"""eStargz: a gzip layer whose files can be fetched one by one.

Every file's content begins a gzip member of its own, and a last tar entry, `stargz.index.json`,
tells their offsets; a fixed-size footer tells where that entry is. Any gzip reader sees an
ordinary tar. Headers are packed anew, and the table of contents is one more entry, so the layer
has another diff_id than the tar that went in: `diff_id` and `annotations` are there at the end.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
import tempfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from buildkit_py.digest import Digest, sha256
from buildkit_py.layers.gzip_blocks import deflate_engine
from buildkit_py.layers.tar import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Sink,
    TarEntry,
    pack_entry,
)
from buildkit_py.layers.tar_reader import LayerReader

TOC_NAME = b"stargz.index.json"
TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
CHUNK = 4 << 20
_SPOOL = 16 << 20
_TYPES = {
    DIRECTORY: "dir",
    REGULAR: "reg",
    SYMLINK: "symlink",
    HARD_LINK: "hardlink",
    CHARACTER: "char",
    BLOCK_DEVICE: "block",
    FIFO: "fifo",
}


class EstargzWriter:
    """Takes a tar; writes it as eStargz at the end of its `with` block.

    The tar is spooled to a temporary file, since content is only known to be whole at the end.
    """

    def __init__(self, out: Sink, level: int | None = None) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - see __exit__
        self._members = _Members(out, level)
        self.annotations: dict[str, str] = {}
        self.diff_id = Digest("")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._spool:
            if error is None:
                self._spool.seek(0)
                self._convert()

    def write(self, data: bytes) -> int:
        """Take all of the bytes."""
        return self._spool.write(data)

    def _convert(self) -> None:
        toc: list[dict[str, Any]] = []
        reader = LayerReader(self._spool)
        members = self._members
        for entry in reader:
            if entry.name.lstrip(b"./") == TOC_NAME:
                continue
            members.write(pack_entry(entry))
            described = _describe(entry)
            toc.append(described)
            if entry.kind == REGULAR and entry.size:
                self._content(reader, entry, described, toc)
        text = json.dumps({"version": 1, "entries": toc}, indent="\t", ensure_ascii=False)
        body = text.encode("utf-8", "surrogatepass")
        members.cut()
        place = members.offset
        members.write(pack_entry(TarEntry(name=TOC_NAME, size=len(body), mode=0o444)))
        members.write(body + bytes(-len(body) % BLOCK) + bytes(2 * BLOCK))
        members.cut()
        members.footer(place)
        self.diff_id = members.digest
        self.annotations = {TOC_DIGEST: sha256(body), UNCOMPRESSED_SIZE: str(members.size)}

    def _content(
        self,
        reader: LayerReader,
        entry: TarEntry,
        described: dict[str, Any],
        toc: list[dict[str, Any]],
    ) -> None:
        """Write a file's content in members of at most CHUNK bytes, each with a TOC entry."""
        whole = hashlib.sha256()
        done = 0
        current = described
        for chunk in _regroup(reader, CHUNK):
            if done:
                current = {"name": described["name"], "type": "chunk", "chunkOffset": done}
                toc.append(current)
            self._members.cut()
            current["offset"] = self._members.offset
            if entry.size > CHUNK:
                current["chunkSize"] = len(chunk)
            current["chunkDigest"] = sha256(chunk)
            whole.update(chunk)
            self._members.write(chunk)
            done += len(chunk)
        self._members.write(bytes(-entry.size % BLOCK))
        described["digest"] = "sha256:" + whole.hexdigest()


def _regroup(reader: LayerReader, size: int) -> Iterator[bytes]:
    """The content of the current entry in pieces of exactly `size` bytes, but the last."""
    pending: list[bytes] = []
    have = 0
    for piece in reader.chunks():
        rest = piece
        while have + len(rest) >= size:
            cut = size - have
            pending.append(rest[:cut])
            yield b"".join(pending)
            pending, have, rest = [], 0, rest[cut:]
        if rest:
            pending.append(rest)
            have += len(rest)
    if have:
        yield b"".join(pending)


class _Members:
    """A sequence of gzip members; counts and hashes both sides."""

    def __init__(self, out: Sink, level: int | None) -> None:
        self._out = out
        self._engine, self._level = deflate_engine(level)
        self._packer: Any = None
        self._hash = hashlib.sha256()
        self.offset = 0
        self.size = 0

    @property
    def digest(self) -> Digest:
        """The digest of everything uncompressed."""
        return Digest("sha256:" + self._hash.hexdigest())

    def write(self, data: bytes) -> None:
        """Add to the current member, beginning one if there is none."""
        if not data:
            return
        if self._packer is None:
            self._packer = self._engine.compressobj(self._level, zlib.DEFLATED, 31)
        self._hash.update(data)
        self.size += len(data)
        self._emit(self._packer.compress(data))

    def cut(self) -> None:
        """End the current member."""
        if self._packer is not None:
            self._emit(self._packer.flush())
            self._packer = None

    def footer(self, place: int) -> None:
        """An empty member of 51 bytes, whose extra field says where the TOC's member begins."""
        extra = b"SG" + struct.pack("<H", 22) + b"%016xSTARGZ" % place
        header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra
        self._emit(header + b"\x01\0\0\xff\xff" + bytes(8))

    def _emit(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self.offset += len(data)


def _describe(entry: TarEntry) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(
        seconds=max(-(1 << 35), min(entry.mtime_ns // 10**9, 1 << 37))
    )
    found: dict[str, Any] = {
        "name": entry.name.decode("utf-8", "replace").removeprefix("./"),
        "type": _TYPES[entry.kind],
        "modtime": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
    }
    if entry.kind == REGULAR:
        found["size"] = entry.size
        found["offset"] = 0
    if entry.link:
        found["linkName"] = entry.link.decode("utf-8", "replace")
    if entry.kind in {CHARACTER, BLOCK_DEVICE}:
        found["devMajor"], found["devMinor"] = entry.major, entry.minor
    if entry.xattrs:
        found["xattrs"] = {
            name: base64.b64encode(value).decode() for name, value in entry.xattrs.items()
        }
    return {key: value for key, value in found.items() if value or key == "name"}
