from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from buildkit_py.digest import sha256
from buildkit_py.errors import CorruptArchive, UsageError
from buildkit_py.layers.compression import (
    Compression,
    Decompressor,
    Growth,
    open_compressor,
    open_decompressor,
)
from buildkit_py.layers.estargz import CHUNK, TOC_DIGEST, UNCOMPRESSED_SIZE, EstargzWriter
from buildkit_py.layers.tar import DIRECTORY, LayerWriter, TarEntry


def text(size: int) -> bytes:
    chance = random.Random(4)
    words = [b"layer", b"snapshot", b"digest", b"\0" * 40, b"overlay", chance.randbytes(30)]
    return b" ".join(chance.choices(words, k=size // 8))[:size]


DATA = text(2_200_000)


def packed(data: bytes, kind: str, level: int | None, step: int) -> bytes:
    out = io.BytesIO()
    with open_compressor(out, Compression(kind=kind, level=level)) as compressor:
        for start in range(0, len(data), step):
            compressor.write(data[start : start + step])
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("gzip", None),
        ("gzip", 1),
        ("gzip", 9),
        ("zstd", None),
        ("zstd", 1),
        ("uncompressed", None),
    ],
)
def test_what_goes_in_comes_out_and_writes_do_not_matter(kind: str, level: int | None) -> None:
    whole = packed(DATA, kind, level, len(DATA))
    assert packed(DATA, kind, level, 99_991) == whole
    with open_decompressor(io.BytesIO(whole)) as stream:
        assert stream.kind == kind
        assert stream.read() == DATA
    if kind == "gzip":
        assert gzip.decompress(whole) == DATA
        assert whole[4:10] == bytes(5) + b"\xff"  # no time, no system


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_nothing_at_all_compresses(kind: str) -> None:
    with open_decompressor(io.BytesIO(packed(b"", kind, None, 1))) as stream:
        assert stream.read() == b""


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids="gzip bzip2 xz zstd".split(),
)
def test_members_in_a_row_are_one_stream(pack: Any) -> None:
    data = pack(DATA) + pack(b"more")
    assert open_decompressor(io.BytesIO(data)).read() == DATA + b"more"


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids="gzip bzip2 xz zstd".split(),
)
def test_damage_is_a_typed_error(pack: Any) -> None:
    data = pack(DATA)
    middle = len(data) // 2
    with pytest.raises(CorruptArchive):
        open_decompressor(io.BytesIO(data[:middle] + b"damage!!" * 8 + data[middle:])).read()


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress], ids="gzip bzip2 xz".split()
)
def test_an_end_too_early_is_an_error(pack: Any) -> None:
    with pytest.raises(CorruptArchive, match="ends too early"):
        open_decompressor(io.BytesIO(pack(DATA)[:5000])).read()


def test_padding_after_gzip_is_ignored() -> None:
    assert open_decompressor(io.BytesIO(gzip.compress(b"x") + bytes(2000))).read() == b"x"


def test_a_bomb_meets_the_limit() -> None:
    stream = open_decompressor(io.BytesIO(gzip.compress(bytes(50 << 20))), limit=10 << 20)
    with pytest.raises(CorruptArchive, match="past the limit"):
        stream.read()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_data_that_grows_beyond_all_measure_is_refused(kind: str) -> None:
    growth = Growth(base=1 << 20, factor=250)
    for data, refused in ((bytes(50 << 20), True), (random.Random(1).randbytes(3 << 20), False)):
        packed = io.BytesIO()
        with open_compressor(packed, Compression(kind=kind)) as out:
            out.write(data)
        stream = Decompressor(io.BytesIO(packed.getvalue()), growth=growth)
        if refused:
            with pytest.raises(CorruptArchive, match="past the limit"):
                stream.read()
        else:
            assert stream.read() == data


@pytest.mark.parametrize(("kind", "level"), [("lzma", None), ("gzip", 10), ("zstd", 23)])
def test_unknown_kinds_and_levels_are_refused(kind: str, level: int | None) -> None:
    with pytest.raises(UsageError):
        Compression(kind=kind, level=level)


# ------------------------------------------------------------------ estargz
def estargz() -> tuple[EstargzWriter, bytes]:
    tar = io.BytesIO()
    writer = LayerWriter(tar)
    writer.add(TarEntry(name=b"d/", kind=DIRECTORY, mode=0o755))
    writer.add(TarEntry(name=b"d/small", size=5, xattrs={"user.a": b"1"}), b"hello")
    big = text(CHUNK + 1000)
    writer.add(TarEntry(name=b"d/big", size=len(big)), big)
    writer.add(TarEntry(name=b"d/empty"))
    writer.finish()
    out = io.BytesIO()
    compressor = EstargzWriter(out)
    with compressor:
        compressor.write(tar.getvalue())
    return compressor, out.getvalue()


def test_an_estargz_layer_is_an_ordinary_gzip_tar() -> None:
    compressor, data = estargz()
    plain = gzip.decompress(data)
    assert sha256(plain) == compressor.diff_id
    assert int(compressor.annotations[UNCOMPRESSED_SIZE]) == len(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert tar.getnames() == ["d", "d/small", "d/big", "d/empty", "stargz.index.json"]
        found = tar.extractfile("d/small")
        assert found is not None
        assert found.read() == b"hello"


def test_the_footer_leads_to_the_toc_and_the_toc_to_every_chunk() -> None:
    compressor, data = estargz()
    footer = data[-51:]
    assert footer[12:14] == b"SG"
    assert footer[32:38] == b"STARGZ"
    place = int(footer[16:32], 16)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data[place:-51]))) as tar:
        index = tar.extractfile("stargz.index.json")
        assert index is not None
        text_of_toc = index.read()
    assert compressor.annotations[TOC_DIGEST] == sha256(text_of_toc)
    entries = json.loads(text_of_toc)["entries"]
    assert [(e["name"], e["type"]) for e in entries] == [
        ("d/", "dir"),
        ("d/small", "reg"),
        ("d/big", "reg"),
        ("d/big", "chunk"),
        ("d/empty", "reg"),
    ]
    for entry in entries:
        if "chunkDigest" in entry:
            size = entry.get("chunkSize", entry.get("size"))
            content = open_decompressor(io.BytesIO(data[entry["offset"] :])).read(size)
            while len(content) < size:
                content += open_decompressor(io.BytesIO(data[entry["offset"] :])).read()[
                    len(content) : size
                ]
            assert sha256(content) == entry["chunkDigest"]


PRINT_DIGEST = """
import hashlib, io, sys
from buildkit_py.layers.compression import Compression, open_compressor
out = io.BytesIO()
with open_compressor(out, Compression(kind="gzip")) as packer:
    packer.write(open(sys.argv[1], "rb").read())
print(hashlib.sha256(out.getvalue()).hexdigest())
"""


@pytest.mark.requires("qemu-x86_64-static")
@pytest.mark.parametrize("processor", ["Nehalem", "Haswell"])
def test_gzip_of_another_processor_is_the_same(tmp_path: Path, processor: str) -> None:
    """From SSE4.2 (2008) on; the library has other code for each generation."""
    if os.uname().machine != "x86_64":
        pytest.skip("other machines have other generations")
    data = tmp_path / "data"
    data.write_bytes(DATA)
    emulated = ["qemu-x86_64-static", "-cpu", processor]
    command = [os.path.realpath(sys.executable), "-c", PRINT_DIGEST, os.fspath(data)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*emulated, *command], env=paths, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"sha256:{done.stdout.decode().strip()}" == sha256(packed(DATA, "gzip", None, 99_991))
