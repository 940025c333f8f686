"""Deleted and replaced files, in both directions: ours read by umoci, umoci's built on by us."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.sandbox, pytest.mark.requires("overlay", "umoci")]

_DOCKERFILE = """\
FROM busybox AS base
RUN mkdir -p /t/opaque /t/dir /t/keep && echo a > /t/gone && echo b > /t/opaque/hidden \\
 && echo c > /t/file && echo d > /t/dir/inner && echo e > /t/keep/same && ln /t/file /t/hard \\
 && chown 7:8 /t/keep/same && chmod 2750 /t/keep
FROM base
RUN rm /t/gone && rm -r /t/opaque && mkdir /t/opaque && echo shown > /t/opaque/new
RUN rm /t/file && mkdir /t/file && echo now > /t/file/inner
RUN rm -r /t/dir && echo file > /t/dir
"""


def _tree(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: Any = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        name = str(path.relative_to(root))
        found[name] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content)
    return found


def _umoci(*words: object) -> None:
    done = subprocess.run(
        ["umoci", *map(str, words)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_umoci_sees_our_deletions_and_replacements(
    busybox: Pybuild, tmp_path: Path, context: Any
) -> None:
    directory = context(_DOCKERFILE)
    outputs = ["-o", "type=oci,dest=layout,tar=false,name=w:1", "-o", "type=local,dest=ours"]
    busybox("build", *outputs, directory, cwd=tmp_path)
    _umoci("unpack", "--image", tmp_path / "layout:1", tmp_path / "bundle")
    theirs = _tree(tmp_path / "bundle" / "rootfs")
    ours = _tree(tmp_path / "ours")
    assert {k: v for k, v in ours.items() if k.startswith("t")} == {
        k: v for k, v in theirs.items() if k.startswith("t")
    }
    assert ours.keys() == theirs.keys()
    assert "t/gone" not in theirs
    assert "t/opaque/hidden" not in theirs
    assert theirs["t/opaque/new"][4] == b"shown\n"
    assert theirs["t/file/inner"][4] == b"now\n"
    assert theirs["t/dir"][4] == b"file\n"
    assert theirs["t/hard"][4] == b"c\n"


def test_we_build_on_deletions_that_umoci_wrote(
    busybox: Pybuild, tmp_path: Path, context: Any
) -> None:
    base = _DOCKERFILE.partition("FROM base")[0]
    directory = context(base)
    busybox("build", "-o", "type=oci,dest=layout,tar=false,name=w:1", directory, cwd=tmp_path)
    _umoci("unpack", "--image", tmp_path / "layout:1", tmp_path / "bundle")
    top = tmp_path / "bundle" / "rootfs" / "t"
    (top / "gone").unlink()
    (top / "opaque" / "hidden").unlink()
    (top / "opaque" / "new").write_text("shown\n")
    (top / "file").unlink()
    (top / "file").mkdir()
    (top / "file" / "inner").write_text("now\n")
    (top / "dir" / "inner").unlink()
    (top / "dir").rmdir()
    (top / "dir").write_text("file\n")
    _umoci("repack", "--image", tmp_path / "layout:2", tmp_path / "bundle")
    more = context("FROM changed\nRUN ls -R /t > /seen && echo more >> /t/keep/same")
    busybox(
        "build",
        "--build-context",
        f"changed=oci-layout://{tmp_path}/layout:2",
        "-o",
        "type=local,dest=ours",
        more,
        cwd=tmp_path,
    )
    ours, expected = _tree(tmp_path / "ours"), _tree(top)
    for name, entry in expected.items():
        if name != "keep/same":
            assert ours[f"t/{name}"] == entry, name
    assert {name for name in ours if name.startswith("t/")} == {f"t/{name}" for name in expected}
    assert ours["t/keep/same"][1:] == (0o644, 7, 8, b"e\nmore\n")
    seen = ours["seen"][4].decode()
    assert "gone" not in seen
    assert "hidden" not in seen
