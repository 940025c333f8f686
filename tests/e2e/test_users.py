"""USER with base images as they come."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay")]


def test_users_enter_an_image_whose_root_entry_is_closed_to_them(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    busybox("export", "-o", tmp_path / "root.tar", "busybox")
    entry = tarfile.TarInfo("./")
    entry.type, entry.mode = tarfile.DIRTYPE, 0o700  # that of a `mktemp -d`
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(entry)
    (tmp_path / "closed.tar").write_bytes(out.getvalue())
    subprocess.run(
        ["tar", "--concatenate", "-f", tmp_path / "closed.tar", tmp_path / "root.tar"], check=True
    )
    busybox("import", tmp_path / "closed.tar", "closed")
    directory = context(
        "FROM closed\nUSER 1000\nRUN ls / > /dev/null && touch /tmp/mine || true\n"
    )
    busybox("build", "-t", "open", directory)
    done = busybox("run", "--rm", "-u", "1000", "open", "ls", "-ld", "/")
    assert done.stdout.startswith("drwxr-xr-x")
