"""COPY, ADD and WORKDIR as they show in the image: what layers hold, and what is said."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
EMPTY_LAYER = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


def layers(pybuild: Pybuild, directory: Path) -> list[list[tarfile.TarInfo]]:
    """The entries of every layer of the image that a directory builds to."""
    out = pybuild.directory / "image.tar"
    pybuild("build", "-q", "-o", f"type=oci,dest={out}", directory)
    with tarfile.open(out) as image:

        def blob(digest: str) -> bytes:
            file = image.extractfile("blobs/" + digest.replace(":", "/"))
            assert file is not None
            return file.read()

        index = image.extractfile("index.json")
        assert index is not None
        manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
        found = []
        for layer in manifest["layers"]:
            data = gzip.decompress(blob(layer["digest"]))
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                found.append(tar.getmembers())
            assert found[-1] or hashlib.sha256(data).hexdigest() in EMPTY_LAYER
        return found


def test_steps_that_change_nothing_have_an_empty_layer(pybuild: Pybuild, context: Context) -> None:
    text = (
        "FROM scratch\nCOPY a.txt /srv/app/\nWORKDIR /srv/app\nWORKDIR /srv\n"
        "COPY nothing* /srv/app/\n"
    )
    found = layers(pybuild, context(text, {"a.txt": "1"}))
    assert [[entry.name for entry in layer] for layer in found] == [
        ["srv", "srv/app", "srv/app/a.txt"],
        [],
        [],
        [],
    ]


def test_an_unknown_owner_is_an_error_at_its_line(pybuild: Pybuild, context: Context) -> None:
    text = "FROM scratch\nUSER app\nWORKDIR /srv\nCOPY --chown=app a.txt /srv/\n"
    done = pybuild("build", "--progress=plain", context(text, {"a.txt": "1"}), status=1)
    assert "Dockerfile:4" in done.stderr
    assert 'there is no user "app" in /etc/passwd of the image' in done.stderr.splitlines()[-1]


def test_an_unknown_user_of_a_working_directory_is_warned_of(
    pybuild: Pybuild, context: Context
) -> None:
    text = "FROM scratch\nUSER app\nWORKDIR /srv\nWORKDIR /srv/x\n"
    done = pybuild("build", "--progress=plain", context(text, {}))
    assert done.stderr.count('there is no user "app" in /etc/passwd') == 1


@pytest.mark.requires("userns")
def test_owners_that_a_single_id_cannot_have_are_warned_of_once(
    pybuild: Pybuild, context: Context
) -> None:
    text = "FROM scratch\nCOPY --chown=5:6 a.txt /\nCOPY --chown=7 a.txt /b\nADD c.tar /c/\n"
    directory = context(text, {"a.txt": "1"})
    with tarfile.open(directory / "c.tar", "w") as tar:
        member = tarfile.TarInfo("null")
        member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
        tar.addfile(member)
    command = pybuild.command("build", "--progress=plain", directory)
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        unshare + command,
        env=pybuild.variables(),
        cwd=pybuild.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("files of other owners belong to root") == 1
    assert done.stderr.count("device nodes were left out") == 1


@pytest.mark.root
def test_the_tree_of_a_copy_is_what_the_source_and_the_flags_say(
    pybuild: Pybuild, context: Context
) -> None:
    text = (
        "FROM scratch AS one\nCOPY --chown=3:4 d /x/d\n"
        "FROM scratch\nCOPY --chmod=640 d /o/\nCOPY --from=one /x /y\nCOPY d/l /z/\n"
    )
    directory = context(text, {"d/f": "1", "d/s/g": "2"})
    (directory / "d/l").symlink_to("s/g")
    (directory / "d/h").hardlink_to(directory / "d/f")
    os.chmod(directory / "d/s", 0o1777)
    os.chmod(directory / "d/f", 0o4755)
    found = {
        entry.name: (oct(entry.mode), entry.uid, entry.gid, entry.linkname)
        for layer in layers(pybuild, directory)
        for entry in layer
    }
    assert found == {
        "o": ("0o640", 0, 0, ""),
        "o/f": ("0o640", 0, 0, ""),
        "o/h": ("0o640", 0, 0, "o/f"),
        "o/l": ("0o777", 0, 0, "s/g"),
        "o/s": ("0o640", 0, 0, ""),
        "o/s/g": ("0o640", 0, 0, ""),
        "y": ("0o755", 0, 0, ""),
        "y/d": ("0o755", 3, 4, ""),
        "y/d/f": ("0o4755", 3, 4, ""),
        "y/d/h": ("0o4755", 3, 4, "y/d/f"),
        "y/d/l": ("0o777", 3, 4, "s/g"),
        "y/d/s": ("0o1777", 3, 4, ""),
        "y/d/s/g": ("0o644", 3, 4, ""),
        "z": ("0o755", 0, 0, ""),
        "z/l": ("0o644", 0, 0, ""),
    }
