"""Layers and archives that try to leave their root: by load, ADD and pull."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import ScriptedServer, fake_image, serve_image

NAMES = ("absolute", "parent", "through-link", "through-absolute-link", "hard-link", "duplicate")


def hostile(kind: str, outside: Path) -> bytes:
    """A tar that would write `outside/owned`, or read `outside/secret`, if it could."""
    out = io.BytesIO()
    deep = "../" * 20 + os.fspath(outside).lstrip("/")
    with tarfile.open(fileobj=out, mode="w") as tar:

        def file(name: str) -> None:
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"owned"))

        def link(name: str, target: str, form: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = form, target
            tar.addfile(info)

        file("harmless")
        match kind:
            case "absolute":
                file(f"{outside}/owned")
            case "parent":
                file(f"{deep}/owned")
            case "through-link":
                link("way", deep, tarfile.SYMTYPE)
                file("way/owned")
            case "through-absolute-link":
                link("way", os.fspath(outside), tarfile.SYMTYPE)
                file("way/owned")
            case "hard-link":
                link("stolen", f"{deep}/secret", tarfile.LNKTYPE)
            case "duplicate":
                file("way")
                link("way", os.fspath(outside), tarfile.SYMTYPE)
                file("way/owned")
                file("way/owned")
    return out.getvalue()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("the host's")
    yield folder
    assert sorted(item.name for item in folder.iterdir()) == ["secret"]
    assert (folder / "secret").read_text() == "the host's"
    assert (folder / "secret").stat().st_nlink == 1


def check(pybuild: Pybuild, name: str) -> None:
    """What came in holds nothing of the host."""
    pybuild("export", "-o", "root.tar", name)
    assert b"the host's" not in (pybuild.directory / "root.tar").read_bytes()


@pytest.mark.parametrize("kind", NAMES)
def test_import_and_load_write_nothing_outside(pybuild: Pybuild, outside: Path, kind: str) -> None:
    done = pybuild("import", "-", "bad:1", stdin=hostile(kind, outside), status=None)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        check(pybuild, "bad:1")
        pybuild("save", "-o", "bad.tar", "bad:1")
        fresh = Pybuild(root=pybuild.directory / "fresh", directory=pybuild.directory)
        fresh("load", "-i", "bad.tar")
        check(fresh, "bad:1")


@pytest.mark.parametrize("kind", NAMES)
def test_add_writes_nothing_outside(
    pybuild: Pybuild, outside: Path, context: Callable[..., Path], kind: str
) -> None:
    folder = context("FROM scratch\nADD bad.tar /\n")
    (folder / "bad.tar").write_bytes(hostile(kind, outside))
    done = pybuild("build", "-t", "bad:1", folder, status=None)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    if done.returncode == 0:
        check(pybuild, "bad:1")


@pytest.mark.parametrize("kind", NAMES)
def test_a_pulled_layer_writes_nothing_outside(pybuild: Pybuild, outside: Path, kind: str) -> None:
    with ScriptedServer(serve_image(fake_image(hostile(kind, outside)))) as server:
        name = f"{server.host}/bad:1"
        done = pybuild("pull", name, status=None)
        assert "Traceback" not in done.stderr
        if done.returncode == 0:
            exported = pybuild("export", "-o", "root.tar", name, status=None)
            assert "internal error" not in exported.stderr
            if exported.returncode == 0:
                check(pybuild, name)
