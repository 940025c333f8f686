"""Packages out of rpm's databases and Go's programs."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest

from buildkit_py.attest.sbom import Bill, package_url, spdx_document
from buildkit_py.inspection.golang import GoModule, read_modules
from buildkit_py.inspection.packages import (
    Distribution,
    Package,
    find_distribution,
    find_packages,
)
from buildkit_py.inspection.rpm import read_packages, read_packages_db, read_sqlite
from buildkit_py.layers.tree import MergedTree

SPEC = """\
Name: {name}
{epoch}
Version: 1.5
Release: 3
Summary: x
License: {license}
BuildArch: noarch
%description
x
%files
"""
WANTED = [
    ("hello", "1.5", "3", 2, "noarch", "MIT"),
    ("large", "1.5", "3", None, "noarch", "x" * 9000),
]


def shown(packages: list[object]) -> list[tuple[object, ...]]:
    return sorted(
        tuple(getattr(item, key) for key in item.__slots__)  # type: ignore[attr-defined]
        for item in packages
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `rpmdb.sqlite` of two packages, made by rpm itself."""
    place = tmp_path_factory.mktemp("rpm")
    for name, license_, epoch in (("hello", "MIT", "Epoch: 2"), ("large", "x" * 9000, "")):
        spec = place / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, license=license_, epoch=epoch))
        words = ["rpmbuild", "--quiet", "-bb", "--define", f"_topdir {place}", os.fspath(spec)]
        subprocess.run(words, check=True, capture_output=True)
    made = sorted(map(os.fspath, place.glob("RPMS/noarch/*.rpm")))
    words = ["rpm", "--dbpath", f"{place}/db", "-i", "--justdb", "--nodeps", *made]
    subprocess.run(words, check=True, capture_output=True)
    return place / "db" / "rpmdb.sqlite"


def headers(database: Path) -> list[bytes]:
    with sqlite3.connect(database) as connection:
        return [row[0] for row in connection.execute("SELECT blob FROM Packages ORDER BY hnum")]


@pytest.mark.requires("rpmbuild")
def test_the_database_that_rpm_writes_is_read(database: Path, tmp_path: Path) -> None:
    assert shown(list(read_sqlite(database))) == WANTED
    root = tmp_path / "root"
    (root / "var/lib/rpm").mkdir(parents=True)
    shutil.copy(database, root / "var/lib/rpm/rpmdb.sqlite")
    found = find_packages(MergedTree([root]))
    assert [(item.kind, item.name, item.version) for item in found] == [
        ("rpm", "hello", "2:1.5-3"),
        ("rpm", "large", "1.5-3"),
    ]


@pytest.mark.requires("rpmbuild")
def test_what_is_still_in_the_write_ahead_log_is_seen(database: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root/usr/lib/sysimage/rpm"
    folder.mkdir(parents=True)
    live = tmp_path / "live.sqlite"
    connection = sqlite3.connect(live)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    for blob in headers(database):
        connection.execute("INSERT INTO Packages (blob) VALUES (?)", (blob,))
    connection.commit()
    shutil.copy(live, folder / "rpmdb.sqlite")
    shutil.copy(f"{live}-wal", folder / "rpmdb.sqlite-wal")
    connection.close()
    assert len(find_packages(MergedTree([tmp_path / "root"]))) == 2


@pytest.mark.requires("rpmbuild", "db5.3_load")
@pytest.mark.parametrize("page", [512, 4096, 65536])
def test_a_berkeley_database_is_read(database: Path, tmp_path: Path, page: int) -> None:
    lines = ["VERSION=3", "format=bytevalue", "type=hash", f"db_pagesize={page}", "HEADER=END"]
    for number, blob in enumerate([b"\0\0\0\2", *headers(database)]):
        lines += [f" {number:08x}", f" {blob.hex()}"]
    text = "\n".join([*lines, "DATA=END", ""])
    path = tmp_path / "Packages"
    words = ["db5.3_load", os.fspath(path)]
    subprocess.run(words, input=text.encode(), check=True, capture_output=True)
    assert shown(list(read_packages(path.read_bytes()))) == WANTED


@pytest.mark.requires("rpmbuild")
def test_a_database_of_the_ndb_form_is_read(database: Path) -> None:
    blobs = headers(database)
    slots = struct.pack("<4sIIIIIII", b"RpmP", 0, 7, 1, len(blobs) + 1, 0, 0, 0)
    body = b""
    for number, blob in enumerate(blobs, start=1):
        start = (4096 + len(body)) // 16
        entry = struct.pack("<4sIII", b"BlbS", number, 7, len(blob)) + blob
        entry += bytes(-(len(entry) + 12) % 16) + struct.pack("<II4s", 0, len(blob), b"BlbE")
        slots += struct.pack("<4sIII", b"Slot", number, start, len(entry) // 16)
        body += entry
    slots += b"Slot" + bytes(12)  # a free one
    data = slots.ljust(4096, b"\0") + body
    assert shown(list(read_packages_db(data))) == WANTED


def test_damaged_databases_give_what_can_be_read_and_no_error(tmp_path: Path) -> None:
    sqlite = tmp_path / "rpmdb.sqlite"
    for data in (b"", b"x" * 100, bytes(5000), b"RpmP" + b"\xff" * 8000):
        sqlite.write_bytes(data)
        assert read_sqlite(sqlite) == []
        assert read_packages_db(data) == []
        assert read_packages(data) == []
    hash_page = bytearray(bytes(12) + struct.pack("<II", 0x00061561, 9) + bytes(8192))
    hash_page[20:24] = struct.pack("<I", 512)
    hash_page[512 + 20 : 512 + 22] = struct.pack("<H", 200)
    hash_page[512 + 25] = 13
    hash_page[512 + 26 : 1024] = b"\3\2\1\0" * 121 + b"\0\0"
    assert read_packages(bytes(hash_page)) == []


def test_a_hostile_database_does_not_run_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "rpmdb.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS"
            " (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT max(blob) AS blob FROM n"
        )
    assert read_sqlite(path) == []


# ------------------------------------------------------------------ Go
INFO = """path\tgithub.com/you/app
mod\tgithub.com/you/app\tv1.2.3\th1:x=
dep\tgolang.org/x/net\tv0.1.0\th1:y=
dep\tgithub.com/old/name\tv1.0.0
=>\tgithub.com/new/name\tv2.0.0\th1:z=
build\t-compiler=gc
"""


def varint(size: int) -> bytes:
    out = b""
    while size >= 0x80:
        out += bytes([size & 0x7F | 0x80])
        size >>= 7
    return out + bytes([size])


def program(info: str, *, wide: bool = True, order: str = "<") -> bytes:
    """An ELF file with nothing but build information, as Go's linker lays it out."""
    text = b"0" * 16 + info.encode() + b"1" * 16
    version = b"go1.22.5"
    data = b"\xff Go buildinf:".ljust(15, b"\x08") + b"\x02" + bytes(16)
    data += varint(len(version)) + version + varint(len(text)) + text
    names = b"\0.shstrtab\0.go.buildinfo\0"
    head_size, row_size = (64, 64) if wide else (52, 40)
    start = 64
    table = start + len(data) + len(names)
    word = "Q" if wide else "I"
    head = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    head += struct.pack(f"{order}HHI", 2, 62, 1) + struct.pack(f"{order}3{word}", 0, 0, table)
    head += struct.pack(f"{order}I6H", 0, head_size, 0, 0, row_size, 3, 1)

    def row(name: int, offset: int, size: int) -> bytes:
        return struct.pack(f"{order}II{word * 4}", name, 1, 0, 0, offset, size).ljust(
            row_size, b"\0"
        )

    rows = bytes(row_size) + row(1, start + len(data), len(names)) + row(11, start, len(data))
    return head.ljust(64, b"\0") + data + names + rows


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_modules_of_a_go_program_are_found(wide: bool, order: str) -> None:
    assert read_modules(io.BytesIO(program(INFO, wide=wide, order=order))) == [
        GoModule(path="stdlib", version="1.22.5"),
        GoModule(path="github.com/you/app", version="v1.2.3"),
        GoModule(path="golang.org/x/net", version="v0.1.0"),
        GoModule(path="github.com/new/name", version="v2.0.0"),
    ]


@pytest.mark.requires("skopeo")
def test_a_real_program_says_which_go_made_it(tmp_path: Path) -> None:
    found = shutil.which("skopeo")
    assert found is not None
    with Path(found).open("rb") as file:
        modules = read_modules(file)
    assert modules[0].path == "stdlib"
    assert modules[0].version[:2] == "1."


def test_damaged_programs_are_no_go_programs() -> None:
    whole = program(INFO)
    assert read_modules(io.BytesIO(b"#!/bin/sh\n" * 10)) == []
    for cut in range(0, len(whole), 9):
        read_modules(io.BytesIO(whole[:cut]))
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        read_modules(io.BytesIO(bytes(damaged)))


# ------------------------------------------------------------------ SPDX
@pytest.mark.parametrize(
    ("package", "url"),
    [
        (
            Package("deb", "libc6", "2.36-9+b1", "amd64"),
            "pkg:deb/debian/libc6@2.36-9%2Bb1?arch=amd64&distro=debian-12",
        ),
        (
            Package("rpm", "bash", "1:5.1-2", "x86_64"),
            "pkg:rpm/debian/bash@5.1-2?arch=x86_64&distro=debian-12&epoch=1",
        ),
        (Package("npm", "@a/b", "1"), "pkg:npm/%40a/b@1"),
        (Package("golang", "golang.org/x/net", "v1"), "pkg:golang/golang.org/x/net@v1"),
    ],
)
def test_package_urls_name_the_distribution(package: Package, url: str) -> None:
    assert package_url(package, Distribution(vendor="debian", release="debian-12")) == url


def test_the_distribution_is_that_of_os_release(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('ID="rocky"\n# x\nVERSION_ID="9.4"\n')
    found = find_distribution(MergedTree([tmp_path]))
    assert (found.vendor, found.release) == ("rocky", "rocky-9.4")


def test_a_bill_is_valid_spdx_and_the_same_each_time() -> None:
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    packages = [
        Package("deb", "libc6", "2.36", "amd64"),
        Package("apk", "musl", "1.2", "x86_64", "MIT"),
        Package("apk", "odd", "1", "x86_64", "GPL-2.0-only AND (MIT OR BSD-3-Clause)"),
        Package("rpm", "old", "2:1-1", "noarch", "GPLv2+ and freely redistributable"),
    ]
    bill = Bill(
        name="sbom",
        packages=packages,
        distribution=Distribution(),
        created=1_600_000_000.5,
        tool="pybuild",
    )
    made = spdx_document(bill)
    assert made == spdx_document(bill)
    assert made["spdxVersion"] == "SPDX-2.3"
    document = JsonLikeDictParser().parse(made)
    assert validate_full_spdx_document(document) == []
    licenses = {item["name"]: item.get("licenseDeclared") for item in made["packages"]}
    assert licenses["odd"] == "GPL-2.0-only AND (MIT OR BSD-3-Clause)"
    assert licenses["old"] == licenses["libc6"] == "NOASSERTION"
