"""Layers and archives that try to leave their root: by load, ADD and pull."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import ScriptedServer, fake_image, serve_image

# members of each archive: (name,) of a file, (name, target, "sym" or "hard") of a link, or a file
# with a PAX record; {out} is a directory of the host, {deep} the way to it by `..`
KINDS: dict[str, list[tuple[str, ...]]] = {
    "absolute": [("{out}/owned",)],
    "parent": [("{deep}/owned",)],
    "through-link": [("way", "{deep}", "sym"), ("way/owned",)],
    "through-absolute-link": [("way", "{out}", "sym"), ("way/owned",)],
    "hard-link": [("stolen", "{deep}/secret", "hard")],
    "hard-link-to-link": [
        ("way", "{out}/secret", "sym"),
        ("stolen", "way", "hard"),
        ("way",),
    ],
    "duplicate": [("way",), ("way", "{out}", "sym"), ("way/owned",), ("way/owned",)],
    "root-is-a-link": [(".", "{out}", "sym"), ("owned",)],
    "whiteout-through-link": [("way", "{out}", "sym"), ("way/.wh.secret",)],
    "deep": [("d/" * 2000 + "f",)],
    "attribute": [("f", "SCHILY.xattr.user.large", "v" * 200_000, "pax")],
}
NAMES = list(KINDS)


def hostile(kind: str, outside: Path) -> bytes:
    """A tar that would write `outside/owned`, or read `outside/secret`, if it could."""
    out = io.BytesIO()
    deep = "../" * 20 + os.fspath(outside).lstrip("/")
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in [("harmless",), *KINDS[kind]]:
            words = [word.format(out=outside, deep=deep) for word in member]
            info = tarfile.TarInfo(words[0])
            if words[-1] in {"sym", "hard"}:
                info.type = tarfile.SYMTYPE if words[-1] == "sym" else tarfile.LNKTYPE
                info.linkname = words[1]
            else:
                info.size = 5
            if words[-1] == "pax":
                info.pax_headers = {words[1]: words[2]}
            tar.addfile(info, io.BytesIO(b"owned"))
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


def clean(done: subprocess.CompletedProcess[str]) -> None:
    """It went well, or one line says what is wrong with the archive."""
    assert done.returncode in {0, 1}
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    if done.returncode:
        assert done.stderr.splitlines()[-1].startswith("ERROR: ")


def check(pybuild: Pybuild, name: str) -> None:
    """What came in holds nothing of the host."""
    pybuild("export", "-o", "root.tar", name)
    assert b"the host's" not in (pybuild.directory / "root.tar").read_bytes()


@pytest.mark.parametrize("kind", NAMES)
def test_import_and_load_write_nothing_outside(pybuild: Pybuild, outside: Path, kind: str) -> None:
    done = pybuild("import", "-", "bad:1", stdin=hostile(kind, outside), status=None)
    clean(done)
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
    clean(done)
    if done.returncode == 0:
        check(pybuild, "bad:1")


@pytest.mark.parametrize("kind", NAMES)
def test_a_pulled_layer_writes_nothing_outside(pybuild: Pybuild, outside: Path, kind: str) -> None:
    with ScriptedServer(serve_image(fake_image(hostile(kind, outside)))) as server:
        name = f"{server.host}/bad:1"
        done = pybuild("pull", name, status=None)
        clean(done)
        if done.returncode == 0:
            exported = pybuild("export", "-o", "root.tar", name, status=None)
            clean(exported)
            if exported.returncode == 0:
                check(pybuild, name)


@pytest.mark.parametrize("kind", NAMES)
def test_a_context_on_standard_input_writes_nothing_outside(
    pybuild: Pybuild, outside: Path, kind: str
) -> None:
    file = b"FROM scratch\nCOPY . /all/\nCOPY way* harmless /\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(file)
        tar.addfile(info, io.BytesIO(file))
    data = out.getvalue()[:1024] + hostile(kind, outside)
    done = pybuild("build", "-t", "bad:1", "-", stdin=data, status=None)
    clean(done)
    if done.returncode == 0:
        check(pybuild, "bad:1")
