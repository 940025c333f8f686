"""The same build on two roots that have nothing else in common."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """FROM busybox
RUN mkdir -p /made/deep && for i in 9 3 7 1; do echo $i > /made/$i; done && ln /made/1 /made/one
COPY . /files/
COPY --chown=5:6 --chmod=0640 files/b /b
ADD archive.tar /unpacked/
WORKDIR /work
LABEL b=2 a=1
"""


def lay_out(folder: Path, seed: int) -> None:
    """The same files, made in another order and at other times."""
    names = ["b", "a", "ü", "Z", "c d", "sub/x", "sub/y"]
    random.Random(seed).shuffle(names)
    for name in names:
        path = folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(0o644)
        os.utime(path, (1_600_000_000 + seed, 1_600_000_000 + seed))
    for directory in (folder / "files", folder / "files" / "sub"):
        directory.chmod(0o755)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "Dockerfile").chmod(0o644)


def other_clock(offset: str) -> dict[str, str]:
    """What gives a program another clock, by Debian's libfaketime; times of files stay real."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": os.fspath(library), "FAKETIME": offset, "FAKETIME_NO_CACHE": "1"}


@pytest.mark.requires("libfaketime")
@pytest.mark.parametrize("output", ["type=oci", "type=docker", "type=tar"])
def test_two_roots_give_byte_identical_archives(
    busybox: Pybuild, tmp_path: Path, output: str, context: Callable[..., Path]
) -> None:
    busybox("save", "-o", tmp_path / "base.tar", "busybox")
    packed = tmp_path / "archive.tar"
    (context() / "in").write_text("in")
    subprocess.run(["tar", "-cf", packed, "-C", context(), "in"], check=True)
    archives = []
    for seed, mask, clock in ((1, 0o022, "-400d"), (86400 * 30, 0o077, "+400d")):
        place = tmp_path / f"place-{seed}"
        folder = place / "somewhere" / str(seed)
        folder.mkdir(parents=True)
        lay_out(folder, seed)
        shutil.copyfile(packed, folder / "archive.tar")
        (folder / "archive.tar").chmod(0o644)
        other = Pybuild(root=place / "root", directory=place)
        other.environment.update(
            TZ="Asia/Kolkata" if mask == 0o077 else "UTC",
            LC_ALL="C" if mask == 0o077 else "C.UTF-8",
            PYTHONHASHSEED=str(seed),
            **other_clock(clock),
        )
        before = os.umask(mask)
        try:
            other("load", "-i", tmp_path / "base.tar")
            # no provenance: it tells when and where a build ran, which is its purpose
            words = ["--provenance=false", "-t", "app:1", "-o", f"{output},dest=out.tar"]
            other("build", *words, folder)
        finally:
            os.umask(before)
        archives.append((place / "out.tar").read_bytes())
    assert archives[0] == archives[1]
