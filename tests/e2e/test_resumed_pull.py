"""A pull that is killed in the middle is gone on with by the next one, from a real registry."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import real_registry

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("docker-registry")]

_LAYER = 160 << 20


def test_a_killed_pull_is_gone_on_with(
    pybuild: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    folder = context("FROM scratch\nCOPY data /data\n")
    (folder / "data").write_bytes(os.urandom(1 << 20) * (_LAYER >> 20))
    place = tmp_path / "registry"
    place.mkdir()
    with real_registry(place) as registry:
        name = f"{registry.host}/big:1"
        output = f"type=registry,name={name},compression=uncompressed"
        pybuild("build", "-o", output, folder)
        fresh = Pybuild(root=tmp_path / "fresh", directory=tmp_path)
        kill_in_the_middle(fresh, name)
        (left,) = (fresh.root / "partial").iterdir()
        had = left.stat().st_size
        assert 0 < had < _LAYER
        log = place / "log"
        before = log.stat().st_size
        fresh("pull", "-q", name)
        served = [
            line for line in log.read_bytes()[before:].decode().splitlines() if " 206 " in line
        ]
    assert len(served) == 1
    assert f" 206 {left_to_send(fresh, had)}" in served[0]
    assert not left.exists()
    assert "Store is sound" in fresh("system", "check").stdout
    fresh("run", "--rm", name, "/data", status=126)  # its files are there: it is no program


def kill_in_the_middle(pybuild: Pybuild, name: str) -> None:
    """Start a pull and kill it once some of the layer has come."""
    process = subprocess.Popen(
        pybuild.command("pull", "-q", name), env=pybuild.variables(None), stdout=subprocess.DEVNULL
    )
    partial = pybuild.root / "partial"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if partial.is_dir() and any(item.stat().st_size > 4 << 20 for item in partial.iterdir()):
            break
    process.kill()
    process.wait()


def left_to_send(pybuild: Pybuild, had: int) -> int:
    """How many bytes of the layer were missing."""
    sizes = [item.stat().st_size for item in (pybuild.root / "blobs" / "sha256").iterdir()]
    return max(sizes) - had
