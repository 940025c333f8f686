"""The tar torture suite: what we write, read back by tarfile, GNU tar and ourselves."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.errors import CorruptArchive
from buildkit_py.layers.tar import (
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    LayerWriter,
    TarEntry,
    pack_entry,
)
from buildkit_py.layers.tar_reader import LayerReader, TarLimits

LONG = b"d/" + b"x" * 298
TORTURE = [
    TarEntry(name=b"d/", kind=DIRECTORY, mode=0o1777, mtime_ns=10**18),
    TarEntry(name=LONG, size=3, uid=2_097_152, gid=4_000_000_000),
    TarEntry(name=b"d/\xff\xfe\x80", mode=0o4755),
    TarEntry(name="d/öäü".encode()),
    TarEntry(name=b"split/" + b"a" * 120 + b"/" + b"b" * 90),
    TarEntry(name=b"l" * 100, size=600),
    TarEntry(name=b"l" * 101),
    TarEntry(name=b"new\nline and space "),
    TarEntry(name=b"d/link", kind=SYMLINK, mode=0o777, link=b"/t" * 100),
    TarEntry(name=b"d/hard", kind=HARD_LINK, link=LONG, uid=2_097_152, gid=4_000_000_000),
    TarEntry(name=b"null", kind=CHARACTER, major=1, minor=3),
    TarEntry(name=b"big-minor", kind=CHARACTER, major=259, minor=70000),
    TarEntry(name=b"pipe", kind=FIFO),
    TarEntry(name=b"before-1970", mtime_ns=-5_000_000_000),
    TarEntry(name=b"year-9999", mtime_ns=200_000_000_000 * 10**7),
    TarEntry(
        name=b"caps", xattrs={"security.capability": b"\x01\0\0\x02\0\x20\0\0\n=x", "user.a": b""}
    ),
    TarEntry(name=b"dir/.wh.gone", mode=0),
]


def written(*entries: TarEntry) -> bytes:
    out = io.BytesIO()
    writer = LayerWriter(out)
    for entry in entries:
        writer.add(entry, b"z" * entry.size)
    writer.finish()
    return out.getvalue()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 5000, 1 << 19])
@pytest.mark.parametrize("header", [512, 2048, 300 << 10])
def test_files_are_read_into_the_tar_whatever_their_headers_length(
    tmp_path: Path, size: int, header: int
) -> None:
    (tmp_path / "file").write_bytes(b"z" * size)
    out, wanted = io.BytesIO(), io.BytesIO()
    writer = LayerWriter(out)
    for _ in range(5):
        with (tmp_path / "file").open("rb") as file:
            assert writer.put_file(b"h" * header, file.fileno(), size) == size
        wanted.write(b"h" * header + b"z" * size + bytes(-size % 512))
    writer.finish()
    assert out.getvalue() == wanted.getvalue() + bytes(1024)


def test_every_entry_reads_back_as_it_was() -> None:
    assert list(LayerReader(io.BytesIO(written(*TORTURE)))) == TORTURE


def test_tarfile_reads_the_same() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(*TORTURE))) as tar:
        members = tar.getmembers()
    assert len(members) == len(TORTURE)
    for member, entry in zip(members, TORTURE, strict=True):
        assert member.name.encode("utf-8", "surrogateescape") == entry.name.rstrip(b"/")
        assert (member.uid, member.gid, member.mode) == (entry.uid, entry.gid, entry.mode)
        assert int(member.mtime) == entry.mtime_ns // 10**9
        assert member.size == entry.size
        assert member.linkname.encode("utf-8", "surrogateescape") == entry.link
        assert (member.uname, member.gname) == ("", "")
        if entry.kind == CHARACTER:
            assert (member.devmajor, member.devminor) == (entry.major, entry.minor)


@pytest.mark.requires("tar")
def test_gnu_tar_lists_all_names() -> None:
    found = subprocess.run(
        ["tar", "--quoting-style=escape", "-tf", "-"],
        input=written(*TORTURE),
        capture_output=True,
        check=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    assert found.stderr == b""
    assert len(found.stdout.splitlines()) == len(TORTURE)
    assert LONG in found.stdout


def test_a_size_of_nine_gigabytes_fits_its_header() -> None:
    size = 9 << 30
    header = pack_entry(TarEntry(name=b"sparse-looking", size=size))
    with tarfile.open(fileobj=io.BytesIO(header)) as tar:
        member = tar.next()
    assert member is not None
    assert member.size == size
    [entry] = _first(LayerReader(io.BytesIO(header)))
    assert entry.size == size


def _first(reader: LayerReader) -> list[TarEntry]:
    return [next(iter(reader))]


def test_times_are_truncated_not_rounded() -> None:
    [entry] = LayerReader(io.BytesIO(written(TarEntry(name=b"f", mtime_ns=1_999_999_999))))
    assert entry.mtime_ns == 1_000_000_000


def test_an_empty_layer_has_the_well_known_digest() -> None:
    digest = hashlib.sha256(written()).hexdigest()
    assert digest == "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def test_plain_headers_need_no_pax() -> None:
    assert len(pack_entry(TarEntry(name=b"a" * 100, uid=2_097_151))) == 512
    assert len(pack_entry(TarEntry(name=b"p" * 100 + b"/" + b"n" * 100))) == 512


# ------------------------------------------------------------------ reading others' tars
@pytest.mark.parametrize(
    "form",
    [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT],
    ids="gnu pax ustar".split(),
)
def test_other_formats_are_read(form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        name = "dir/" * 20 + "n" * 90
        if form != tarfile.USTAR_FORMAT:
            name = "dir/" * 50 + "n" * 90
        info = tarfile.TarInfo(name)
        info.size, info.uid, info.mtime = 5, 1000, 123
        if form == tarfile.GNU_FORMAT:
            info.uid = 3_000_000_000
            info.mtime = -7
        tar.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("l")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 99
        tar.addfile(link)
    reader = LayerReader(io.BytesIO(out.getvalue()))
    entries = iter(reader)
    first = next(entries)
    assert first.name.decode() == name
    assert (first.uid, first.mtime_ns) == (info.uid, int(info.mtime) * 10**9)
    assert reader.read_all() == b"hello"
    assert next(entries).link == b"t" * 99
    assert next(entries, None) is None


def test_pax_times_keep_their_fraction() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("f")
        info.mtime = 1.25
        tar.addfile(info)
    [entry] = LayerReader(io.BytesIO(out.getvalue()))
    assert entry.mtime_ns == 1_250_000_000


class Dribble:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.stream.read(min(size, 7))


def test_short_reads_change_nothing() -> None:
    reader = LayerReader(Dribble(written(*TORTURE)))
    sizes = [len(b"".join(reader.chunks())) for _ in reader]
    assert sizes == [entry.size for entry in TORTURE]


def test_content_that_is_not_read_is_skipped() -> None:
    data = written(TarEntry(name=b"a", size=5000), TarEntry(name=b"b", size=1))
    assert [entry.name for entry in LayerReader(io.BytesIO(data))] == [b"a", b"b"]


def _damaged() -> Iterator[tuple[str, bytes]]:
    good = written(TarEntry(name=b"f", size=100))
    yield "cut in content", good[:560]
    yield "cut in header", good[:300]
    yield "checksum", b"x" + good[1:]
    yield "text", b"this is not a tar archive" * 40
    huge = pack_entry(TarEntry(name=b"f", size=1 << 60))
    yield "promises more than there is", huge
    pax = pack_entry(TarEntry(name=b"f" * 300))
    yield "pax length", pax[:512] + pax[512:].replace(b"310 path", b"999 path")


@pytest.mark.parametrize(
    ("what", "data"), list(_damaged()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_damage_is_a_typed_error(what: str, data: bytes) -> None:
    with pytest.raises(CorruptArchive):
        for _ in LayerReader(io.BytesIO(data)):
            pass


def test_limits_stop_bombs() -> None:
    many = written(*[TarEntry(name=b"%d" % number) for number in range(20)])
    with pytest.raises(CorruptArchive, match="more than 10 entries"):
        list(LayerReader(io.BytesIO(many), TarLimits(entries=10)))
    large = written(TarEntry(name=b"a", size=600), TarEntry(name=b"b", size=600))
    with pytest.raises(CorruptArchive, match="more than 1000 bytes"):
        list(LayerReader(io.BytesIO(large), TarLimits(total_size=1000)))
    name = written(TarEntry(name=b"n" * 5000))
    with pytest.raises(CorruptArchive):
        list(LayerReader(io.BytesIO(name)))


def test_headers_without_an_entry_are_bounded() -> None:
    for kind in (b"x", b"g"):
        header = pack_entry(TarEntry(name=b"n" * 300))
        one = _with_kind(header[:1024], kind)
        with pytest.raises(CorruptArchive, match="too many"):
            list(LayerReader(io.BytesIO(one * 100), TarLimits(special_total=10_000)))
        with pytest.raises(CorruptArchive, match="ends in the middle"):
            list(LayerReader(io.BytesIO(_with_kind(header[:1024], b"x"))))


def _with_kind(header: bytes, kind: bytes) -> bytes:
    changed = header[:148] + b" " * 8 + kind + header[157:]
    checksum = b"%06o\0 " % sum(changed[:512])
    return changed[:148] + checksum + changed[156:]


def test_what_follows_an_archive_is_bounded() -> None:
    reader = LayerReader(io.BytesIO(written() + bytes(5 << 20)), TarLimits(tail=1 << 20))
    assert list(reader) == []
    with pytest.raises(CorruptArchive, match="follow the archive"):
        reader.drain()


def test_a_volume_label_is_no_file_and_a_dump_directory_is_a_directory() -> None:
    label = _with_kind(pack_entry(TarEntry(name=b"label")), b"V")
    dump = _with_kind(pack_entry(TarEntry(name=b"d/", size=4)), b"D") + b"Yf\0\0" + bytes(508)
    found = list(LayerReader(io.BytesIO(label + dump + written(TarEntry(name=b"f")))))
    assert [(entry.name, entry.kind) for entry in found] == [(b"d/", DIRECTORY), (b"f", REGULAR)]


# ------------------------------------------------------------------ sparse files of GNU tar
_FORMS = {
    "old": ("--format=gnu",),
    "0.0": ("--format=posix", "--sparse-version=0.0"),
    "0.1": ("--format=posix", "--sparse-version=0.1"),
    "1.0": ("--format=posix", "--sparse-version=1.0"),
}


@pytest.fixture
def sparse(tmp_path: Path) -> Callable[[str], tuple[bytes, bytes]]:
    """Makes a tar of a sparse file with 40 parts and a plain one; gives the file and the tar."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for part in range(40):
            file.seek((part * 3 + 1) << 16)
            file.write(b"part %d" % part)
        file.truncate(9 << 20)
    (tmp_path / "plain").write_bytes(b"plain")

    def make(form: str) -> tuple[bytes, bytes]:
        words = ["tar", "-C", os.fspath(tmp_path), "-cSf", "-", *_FORMS[form], "sparse", "plain"]
        done = subprocess.run(words, check=True, capture_output=True)
        return path.read_bytes(), done.stdout

    return make


@pytest.mark.parametrize("form", _FORMS)
def test_sparse_files_are_read_with_their_holes(
    sparse: Callable[[str], tuple[bytes, bytes]], form: str
) -> None:
    content, data = sparse(form)
    assert len(data) < 1 << 20
    reader = LayerReader(io.BytesIO(data))
    found = [(entry.name, entry.size, b"".join(reader.chunks())) for entry in reader]
    assert found == [(b"sparse", 9 << 20, content), (b"plain", 5, b"plain")]
    assert [entry.name for entry in LayerReader(io.BytesIO(data))] == [b"sparse", b"plain"]


@pytest.mark.parametrize("form", _FORMS)
def test_holes_are_bounded_and_damaged_maps_are_refused(
    sparse: Callable[[str], tuple[bytes, bytes]], form: str
) -> None:
    _, data = sparse(form)
    with pytest.raises(CorruptArchive, match="sparse files stand for more"):
        list(LayerReader(io.BytesIO(data), TarLimits(holes=1 << 20)))
    for place in range(0, 8192, 61):
        damaged = bytearray(data)
        damaged[place] ^= 0x5A
        reader = LayerReader(io.BytesIO(bytes(damaged)), TarLimits(total_size=32 << 20))
        with contextlib.suppress(CorruptArchive):
            for _ in reader:
                assert sum(len(piece) for piece in reader.chunks()) <= 32 << 20
