"""Archives and layouts against the programs that others read and write them with."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildkit_py.exporters import open_exporter, parse_output
from buildkit_py.exporters.base import BuiltImage, ExportRequest
from buildkit_py.oci.config import History, ImageConfig
from buildkit_py.store import Store, open_store
from tests.conftest import Pybuild


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """What can be said of every file below a directory."""
    out: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        content: object = None
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
            content = status.st_rdev
        first = inodes.setdefault(status.st_ino, name)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
        }
        seconds = int(status.st_mtime) if kind != stat.S_IFDIR else None
        out[name] = (status.st_mode, status.st_uid, status.st_gid, content, first, xattrs, seconds)
    return out


XATTRS = {
    "opaque trusted.overlay.opaque": b"y",
    "becomes-dir trusted.overlay.opaque": b"y",
    "dir/new user.note": b"text",
}


def commit(store: Store, parent: int | None, script: str, xattrs: Mapping[str, bytes]) -> int:
    """A snapshot made by a shell script in its upper directory."""
    with store.snapshots.prepare(parent) as active:
        subprocess.run(["sh", "-ec", script], cwd=active.upper, check=True)
        for name, value in xattrs.items():
            path, _, key = name.partition(" ")
            os.setxattr(active.upper / path, key, value)
        return store.snapshots.commit(active).id


BASE = """
mkdir -p dir/sub opaque gone/deep etc
echo kept > dir/kept; echo old > dir/old; echo x > dir/sub/x
echo hidden > opaque/hidden; echo f > file; echo d > gone/deep/d
mkdir becomes-file; echo y > becomes-file/y; echo z > becomes-dir
ln -s dir/kept link; ln -s /nowhere dangling
echo linked > one; ln one two; ln one etc/three
mknod null c 1 3; mkfifo pipe; chmod 4755 file; chown 12:34 dir/kept
"""
CHANGES = """
mkdir -p dir etc; mknod dir/old c 0 0; echo new > dir/new; echo changed > dir/kept
mkdir opaque; echo shown > opaque/shown
mknod gone c 0 0; echo now > becomes-file; mkdir becomes-dir
echo in > becomes-dir/in; chmod 1777 etc
"""


@pytest.mark.root
@pytest.mark.requires("umoci")
@pytest.mark.parametrize("compression", ["gzip", "uncompressed"])  # zstd: not by Debian's
def test_umoci_unpacks_our_layout_to_what_we_export(
    state_root: Path, tmp_path: Path, compression: str
) -> None:
    with open_store(state_root) as store:
        top = commit(store, commit(store, None, BASE, {}), CHANGES, XATTRS)
        config = ImageConfig(history=(History(created_by="base"), History(created_by="changes")))
        request = ExportRequest(
            images=(BuiltImage(config=config, snapshot=top),), names=("app:1",), directory=tmp_path
        )
        layout = f"type=oci,dest=layout,tar=false,compression={compression}"
        open_exporter(parse_output(layout), store).export(request)
        open_exporter(parse_output("type=local,dest=ours"), store).export(request)
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    theirs, ours = tree(tmp_path / "bundle" / "rootfs"), tree(tmp_path / "ours")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == theirs[name], name
    assert {"opaque/shown", "becomes-dir/in", "becomes-file", "dir/new"} <= ours.keys()
    assert not {"opaque/hidden", "gone", "dir/old", "becomes-file/y"} & ours.keys()


@pytest.mark.requires("skopeo")
def test_skopeo_reads_what_save_writes(busybox: Pybuild, tmp_path: Path) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    image_id = busybox("images", "-q", "--no-trunc").stdout.strip()
    for transport in ("docker-archive", "oci-archive"):
        raw = run("skopeo", "inspect", "--config", "--raw", f"{transport}:{tmp_path}/saved.tar")
        assert json.loads(raw)["config"]["Cmd"] == ["sh"]
    listed = json.loads(run("skopeo", "inspect", f"docker-archive:{tmp_path}/saved.tar"))
    layers = json.loads(busybox("inspect", "-f", "{{json .RootFS.Layers}}", image_id).stdout)
    assert listed["Layers"] == layers


@pytest.mark.requires("skopeo")
@pytest.mark.parametrize("target", ["docker-archive", "oci-archive"])
def test_what_skopeo_writes_is_loaded_with_the_same_id(
    busybox: Pybuild, tmp_path: Path, target: str
) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    image_id = busybox("images", "-q", "--no-trunc").stdout.strip()
    source = f"docker-archive:{tmp_path}/saved.tar"
    run("skopeo", "copy", source, f"{target}:{tmp_path}/other.tar:example.com/copied:7")
    assert "Untagged" in busybox("rmi", "busybox").stdout
    loaded = busybox("load", "-i", tmp_path / "other.tar").stdout
    assert loaded == "Loaded image: example.com/copied:7\n"
    found = busybox("inspect", "-f", "{{.Id}} {{.Config.Cmd}}", "example.com/copied:7").stdout
    assert found.split() == [image_id, "[sh]"] or target == "oci-archive"
    assert found.endswith("[sh]\n")


@pytest.mark.requires("skopeo")
def test_a_directory_of_skopeos_dir_is_loaded(busybox: Pybuild, tmp_path: Path) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    run("skopeo", "copy", f"oci-archive:{tmp_path}/saved.tar", f"dir:{tmp_path}/plain")
    manifest = (tmp_path / "plain" / "manifest.json").read_bytes()
    image_id = json.loads(manifest)["config"]["digest"]
    busybox("rmi", "busybox")
    assert busybox("load", "-i", tmp_path / "plain").stdout == f"Loaded image ID: {image_id}\n"
    assert busybox("inspect", "-f", "{{.Config.Cmd}}", image_id).stdout == "[sh]\n"


@pytest.mark.root
@pytest.mark.requires("podman")
def test_podman_loads_what_save_writes_and_we_load_what_podman_saves(
    busybox: Pybuild, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    short = tempfile.mkdtemp(prefix="pb")  # podman takes no more than 50 characters here
    request.addfinalizer(lambda: shutil.rmtree(short, ignore_errors=True))
    podman = ["podman", f"--root={tmp_path}/podman", f"--runroot={short}"]
    podman += ["--storage-driver=vfs"]
    assert "busybox" in run(*podman, "load", "-i", tmp_path / "saved.tar")
    run(*podman, "save", "-o", tmp_path / "theirs.tar", "docker.io/library/busybox")
    image_id = busybox("images", "-q", "--no-trunc").stdout.strip()
    busybox("rmi", "busybox")
    busybox("load", "-i", tmp_path / "theirs.tar")
    assert busybox("images", "-q", "--no-trunc").stdout.strip() == image_id


def test_exported_files_have_the_times_of_their_layers(
    busybox: Pybuild, context: Callable[..., Path]
) -> None:
    """Files that the build made are settled, those of a container are as new as they are."""
    folder = context("FROM busybox\nCOPY new /new\nRUN mkdir /made\n", {"new": "x"})
    busybox("build", "-t", "app", "--output=type=tar,dest=out.tar", "--output=type=image", folder)
    busybox("run", "--name", "after", "app", "touch", "/later")
    for name in ("app", "after"):
        busybox("export", "-o", f"{name}.tar", name)
    built = times_of(busybox.directory / "out.tar")
    assert times_of(busybox.directory / "app.tar") == built
    ran = times_of(busybox.directory / "after.tar")
    assert ran["later"] > built["new"]
    assert {name: time for name, time in ran.items() if name in built} == built


def times_of(archive: Path) -> dict[str, float]:
    with tarfile.open(archive) as tar:
        return {member.name: member.mtime for member in tar if member.name.split("/")[0] in NAMES}


NAMES = {"new", "made", "later"}
