"""Images of several platforms: what is shared, what is emulated, and what every output holds."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = pytest.mark.sandbox

BOTH = "linux/amd64,linux/arm64"
CROSS = """FROM --platform=$BUILDPLATFORM busybox AS build
RUN echo native > /shared
ARG TARGETARCH
RUN echo for $TARGETARCH > /own
FROM scratch
COPY --from=build /shared /own /
"""


def aarch64_program() -> bytes:
    """A static program for arm64 that says hello and makes the file /made."""
    message, path = b"hello from arm64\n", b"/made\0"

    def move(register: int, value: int) -> int:
        return 0xD2800000 | value << 5 | register

    def address(register: int, at: int, target: int) -> int:
        offset = target - at
        return 0x10000000 | (offset & 3) << 29 | (offset >> 2) << 5 | register

    call, text = 0xD4000001, 14 * 4
    code = [
        move(0, 1),
        address(1, 4, text),
        move(2, len(message)),
        move(8, 64),  # write
        call,
        0x92800C60,  # x0 = AT_FDCWD
        address(1, 24, text + len(message)),
        move(2, os.O_WRONLY | os.O_CREAT),
        move(3, 0o644),
        move(8, 56),  # openat
        call,
        move(0, 0),
        move(8, 93),  # exit
        call,
    ]
    body = struct.pack("<14I", *code) + message + path
    start, header = 0x400000, 64 + 56
    size = header + len(body)
    return (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, start + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, size, size, 0x1000)
        + body
    )


@pytest.fixture
def foreign(context: Callable[..., Path]) -> Path:
    """A context whose RUN needs an emulator."""
    folder = context('FROM scratch\nCOPY hello /hello\nRUN ["/hello"]\n')
    (folder / "hello").write_bytes(aarch64_program())
    (folder / "hello").chmod(0o755)
    return folder


def documents(archive: Path | bytes) -> dict[str, Any]:
    """Every JSON document of an archive by its path."""
    data = archive if isinstance(archive, bytes) else archive.read_bytes()
    out = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            content = file.read() if file else b""
            if content[:1] in {b"{", b"["}:
                out[member.name] = json.loads(content)
    return out


def root_of(archive: Path | bytes) -> Any:
    """What index.json's first entry leads to."""
    found = documents(archive)
    algorithm, _, digits = found["index.json"]["manifests"][0]["digest"].partition(":")
    return found[f"blobs/{algorithm}/{digits}"]


def platforms(index: Any) -> list[str]:
    entries = [item["platform"] for item in index["manifests"]]
    return [f"{item['os']}/{item['architecture']}" for item in entries if item["os"] != "unknown"]


def test_native_steps_of_two_platforms_run_once(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(CROSS)
    done = busybox("build", "--progress=plain", "--platform", BOTH, "-o", "out", folder)
    assert done.stderr.count("RUN echo native > /shared\n") == 1
    assert "[linux/amd64->arm64 build 3/3] RUN echo for arm64 > /own" in done.stderr
    out = busybox.directory / "out"
    assert (out / "linux_amd64" / "own").read_text() == "for amd64\n"
    assert (out / "linux_arm64" / "own").read_text() == "for arm64\n"
    assert (out / "linux_arm64" / "shared").read_text() == "native\n"


def test_every_output_of_two_platforms_has_an_index(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder, there = context(CROSS), busybox.directory
    outputs = [
        "type=oci,dest=oci.tar",
        "type=oci,dest=layout,tar=false",
        "type=image",
        "type=tar,dest=t",
    ]
    words = [word for output in outputs for word in ("-o", output)]
    busybox("build", "--platform", BOTH, "-t", "app:1", *words, folder)
    assert platforms(root_of(there / "oci.tar")) == BOTH.split(",")
    with tarfile.open(there / "t") as tar:
        names = set(tar.getnames())
    assert {"linux_amd64/own", "linux_arm64/own"} <= names
    layout = json.loads((there / "layout" / "index.json").read_text())["manifests"][0]
    assert layout["mediaType"].endswith("index.v1+json")
    busybox("save", "-o", "saved.tar", "app:1")
    assert platforms(root_of(there / "saved.tar")) == BOTH.split(",")
    busybox("rmi", "app:1")
    busybox("load", "-i", "oci.tar")
    assert "linux/arm64" in busybox("images", "--tree").stdout
    words = ["inspect", "-f", "{{.Architecture}}", "--platform", "linux/arm64", "app:1"]
    assert busybox(*words).stdout == "arm64\n"


def test_an_index_of_one_platform_can_be_asked_for(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    folder = context(CROSS)
    wanted = ["--build-arg", "BUILDKIT_MULTI_PLATFORM=1", "-o", "type=oci,dest=o.tar"]
    busybox("build", *wanted, folder)
    assert platforms(root_of(busybox.directory / "o.tar")) == ["linux/amd64"]
    wrong = ["--build-arg", "BUILDKIT_MULTI_PLATFORM=0", "--platform", BOTH]
    done = busybox("build", *wrong, folder, status=2)
    assert "returning multiple target platforms is not allowed" in done.stderr


def test_without_an_emulator_the_step_says_what_would_help(
    pybuild: Pybuild, foreign: Path
) -> None:
    done = pybuild("build", "--platform", "linux/arm64", foreign, status=1)
    assert ">>> RUN" in done.stderr
    assert "exec format error" in done.stderr
    assert "install qemu-user-static" in done.stderr
    assert "--platform=$BUILDPLATFORM" in done.stderr


def test_a_foreign_stage_that_only_copies_needs_no_emulator(
    pybuild: Pybuild, foreign: Path
) -> None:
    (foreign / "Dockerfile").write_text("FROM scratch\nCOPY hello /hello\nWORKDIR /w\n")
    pybuild("build", "--platform", "linux/arm64", "-t", "copied", foreign)
    found = pybuild("inspect", "-f", "{{.Architecture}}", "copied").stdout
    assert found == "arm64\n"


PRIVATE_HANDLERS = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
cat /usr/lib/binfmt.d/qemu-aarch64.conf > /proc/sys/fs/binfmt_misc/register
exec "$@"
"""


@pytest.mark.requires("qemu-aarch64-static", "private-binfmt")
def test_foreign_steps_run_by_a_registered_emulator(pybuild: Pybuild, foreign: Path) -> None:
    build = ["build", "--progress=plain", "--platform", "linux/arm64", "-o", "out"]
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork"]
    command = [*unshare, "--mount-proc", "sh", "-ec", PRIVATE_HANDLERS, "sh"]
    done = subprocess.run(
        [*command, *pybuild.command(*build, foreign)],
        env=pybuild.variables(),
        cwd=pybuild.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "hello from arm64" in done.stderr
    assert (pybuild.directory / "out" / "made").exists()
