"""Awkward files on their whole way: an archive, ADD and RUN, a layer, and other programs."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

LONG = "long/" + "d" * 150 + "/" + "n" * 200  # 356 bytes
ODD = "odd/\udcff\udcfe\udc80"  # bytes that are no UTF-8
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
DOCKERFILE = r"""FROM busybox
ADD awkward.tar /t/
RUN mkfifo /pipe && mknod /null c 1 3 && mknod /disk b 259 7000 && chown 4000000:5000000 /pipe \
 && mkdir -p /a/one /b/two && echo set > /a/one/f && ln /a/one/f /b/two/g && ln /a/one/f /h \
 && ln -s f /a/one/link && ln /a/one/link /b/hard-to-link && chmod 6755 /h \
 && touch "$(printf '/new\nline')" "/ blank " && printf x > "$(printf '/\377\376')" \
 && mkdir /deleted && echo x > /deleted/x
RUN rm -r /deleted && mkdir /deleted && echo y > /deleted/y && rm /t/plain
"""


def awkward() -> bytes:
    """What tools put into archives, in PAX form."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def file(name: str, **attributes: Any) -> None:
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))

        file("plain")
        file(LONG, uid=3_000_000, gid=4_000_000_000, mode=0o4711)
        file(ODD, mtime=1_234_567_890.75)
        file("ümlaut")
        file("old", mtime=0)
        file("late", mtime=4_100_000_000)
        text = CAPABILITY.decode("latin-1")
        assert text.isascii()
        file("able", pax_headers={"SCHILY.xattr.security.capability": text})
        for kind, name in ((tarfile.LNKTYPE, "first"), (tarfile.LNKTYPE, "deep/er/second")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "able"
            tar.addfile(info)
        info = tarfile.TarInfo("far")
        info.type, info.linkname = tarfile.SYMTYPE, "../" * 60 + "x" * 100
        tar.addfile(info)
    return out.getvalue()


def layers(path: Path) -> list[bytes]:
    with tarfile.open(path) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))  # type: ignore[arg-type]
        found = [outer.extractfile(name) for name in manifest[0]["Layers"]]
        return [file.read() for file in found if file is not None]


@pytest.fixture
def built(busybox: Pybuild, context: Callable[..., Path]) -> Pybuild:
    folder = context(DOCKERFILE)
    (folder / "awkward.tar").write_bytes(awkward())
    busybox("build", "--timestamps=keep", "-t", "awkward", folder)
    return busybox


def test_python_reads_every_awkward_entry(built: Pybuild) -> None:
    built("save", "-o", "awkward.tar", "awkward")
    added, made, last = layers(built.directory / "awkward.tar")[-3:]
    with tarfile.open(fileobj=io.BytesIO(added)) as tar:
        by_name = {item.name: item for item in tar}
    long, odd = by_name[f"t/{LONG}"], by_name[f"t/{ODD}"]
    assert (long.uid, long.gid, long.mode) == (3_000_000, 4_000_000_000, 0o4711)
    assert odd.mtime == 1_234_567_890
    assert by_name["t/late"].mtime == 4_100_000_000
    capability = by_name["t/able"].pax_headers["SCHILY.xattr.security.capability"]
    assert capability.encode("utf-8", "surrogateescape") == CAPABILITY
    links = {item.name: item.linkname for item in by_name.values() if item.islnk()}
    assert links == {"t/deep/er/second": "t/able", "t/first": "t/able"}
    assert by_name["t/far"].linkname == "../" * 60 + "x" * 100
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        names = [item.name for item in tar]
        by_name = {item.name: item for item in tar}
    assert len(names) == len(set(names))
    pipe, disk = by_name["pipe"], by_name["disk"]
    assert (pipe.isfifo(), pipe.uid, pipe.gid) == (True, 4_000_000, 5_000_000)
    assert (disk.isblk(), disk.devmajor, disk.devminor) == (True, 259, 7000)
    assert by_name["b/two/g"].linkname == by_name["a/one/f"].linkname == "h"
    assert by_name["b/hard-to-link"].linkname == "a/one/link"
    assert {"new\nline", " blank ", "\udcff\udcfe"} <= set(names)
    with tarfile.open(fileobj=io.BytesIO(last)) as tar:
        assert {"deleted/.wh.x", "t/.wh.plain"} <= set(tar.getnames()) or {
            "deleted/.wh..wh..opq",
            "t/.wh.plain",
        } <= set(tar.getnames())


def facts(path: Path) -> dict[bytes, tuple[Any, ...]]:
    """What a tree holds, with the sets of names that are one file."""
    top = os.fsencode(path)
    out: dict[bytes, tuple[Any, ...]] = {}
    names: dict[int, bytes] = {}
    for folder, directories, files in os.walk(top):
        directories.sort()
        for name in sorted((*directories, *files)):
            real = folder + b"/" + name
            status = os.lstat(real)
            is_directory = stat.S_ISDIR(status.st_mode)
            first = names.setdefault(status.st_ino, real[len(top) :])
            out[real[len(top) :]] = (
                oct(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                0 if is_directory else int(status.st_mtime),
                os.readlink(real) if stat.S_ISLNK(status.st_mode) else b"",
                {} if stat.S_ISLNK(status.st_mode) else xattrs(real),
                first if not is_directory and status.st_nlink > 1 else b"",
            )
    return out


def xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name)
        for name in os.listxattr(path)
        if name == "security.capability"
    }


@pytest.mark.requires("umoci")
def test_gnu_tar_and_umoci_unpack_what_the_build_made(built: Pybuild, tmp_path: Path) -> None:
    built("export", "-o", "root.tar", "awkward")
    mine = tmp_path / "tar"
    mine.mkdir()
    words = ["tar", "-C", os.fspath(mine), "--numeric-owner", "--same-owner", "-p", "--xattrs"]
    words += [
        "--warning=no-timestamp",
        "--xattrs-include=*",
        "-xf",
        os.fspath(built.directory / "root.tar"),
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    built("save", "-o", "oci.tar", "awkward")
    layout = tmp_path / "layout"
    layout.mkdir()
    subprocess.run(
        ["tar", "-C", layout, "-xf", built.directory / "oci.tar"], check=True, capture_output=True
    )
    tag = json.loads((layout / "index.json").read_bytes())["manifests"][0]["annotations"]
    name = tag["org.opencontainers.image.ref.name"]
    words = ["umoci", "unpack", "--image", f"{layout}:{name}", os.fspath(tmp_path / "bundle")]
    subprocess.run(words, check=True, capture_output=True)
    expected = facts(mine)
    assert facts(tmp_path / "bundle" / "rootfs") == expected
    assert expected[b"/t/able"][6] == {"security.capability": CAPABILITY}
    assert expected[b"/t/first"][7] == expected[b"/t/deep/er/second"][7] == b"/t/able"
    assert b"/t/plain" not in expected
    assert b"/deleted/x" not in expected
