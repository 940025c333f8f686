"""`images`, `history`, `inspect`, `tag`, `rmi`, `save`, `load`, `import`, `export`, `prune`."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import Answer, Asked, ScriptedServer


def test_images_has_dockers_columns(busybox: Pybuild) -> None:
    header, line = busybox("images").stdout.splitlines()
    assert header.split("  ")[0] == "REPOSITORY"
    assert [word.strip() for word in header.split("   ") if word.strip()] == [
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
    ]
    assert line.split()[:2] == ["busybox", "latest"]


def test_a_second_name_and_its_removal(busybox: Pybuild) -> None:
    busybox("tag", "busybox", "localhost:5000/team/app:v1")
    listed = busybox("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert sorted(listed) == ["busybox:latest", "localhost:5000/team/app:v1"]
    image_id = busybox("images", "-q", "--no-trunc").stdout.split()[0]
    refused = busybox("rmi", image_id[7:19], status=1)
    assert "several names" in refused.stderr
    assert busybox("rmi", "busybox").stdout == "Untagged: busybox:latest\n"
    assert busybox("rmi", image_id[7:19]).stdout.splitlines() == [
        "Untagged: localhost:5000/team/app:v1",
        f"Deleted: {image_id}",
    ]
    assert busybox("images", "-q").stdout == ""
    assert list((busybox.root / "snapshots").iterdir()) == []
    assert "sound" in busybox("system", "check").stdout


def test_inspect_answers_paths_and_json(busybox: Pybuild) -> None:
    (image,) = json.loads(busybox("inspect", "busybox").stdout)
    assert image["RepoTags"] == ["busybox:latest"]
    assert image["Config"]["Cmd"] == ["sh"]
    assert busybox("inspect", "-f", "{{.Config.Cmd}}", "busybox").stdout == "[sh]\n"
    assert busybox("inspect", "-f", "{{json .Os}}", "busybox").stdout == '"linux"\n'
    wrong = busybox("inspect", "-f", "{{.Confg}}", "busybox", status=2)
    assert 'no field "Confg"' in wrong.stderr


def test_history_shows_the_layer_of_an_import(busybox: Pybuild) -> None:
    busybox("import", "-m", "a message", "-", "mine:1", stdin=empty_tar())
    header, line = busybox("history", "mine:1").stdout.splitlines()
    assert header.split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert line.endswith("a message")
    assert "0B" in line


def empty_tar() -> bytes:
    out = io.BytesIO()
    tarfile.open(fileobj=out, mode="w").close()
    return out.getvalue()


def test_saved_to_a_pipe_and_loaded_elsewhere(busybox: Pybuild, tmp_path: Path) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    data = (tmp_path / "saved.tar").read_bytes()
    assert other("load", stdin=data).stdout == "Loaded image: busybox:latest\n"
    assert other("images", "-q").stdout == busybox("images", "-q").stdout
    tar = other("export", "-o", tmp_path / "root.tar", "busybox")
    assert tar.stdout == ""
    with tarfile.open(tmp_path / "root.tar") as members:
        assert "bin/busybox" in members.getnames()


@pytest.mark.parametrize("cut", [100, 1000, 100_000])
def test_a_cut_archive_is_one_error_and_stores_nothing(
    busybox: Pybuild, tmp_path: Path, cut: int
) -> None:
    busybox("save", "-o", tmp_path / "saved.tar", "busybox")
    other = Pybuild(root=tmp_path / "other", directory=tmp_path)
    failed = other("load", stdin=(tmp_path / "saved.tar").read_bytes()[:cut], status=1)
    assert failed.stderr.startswith("ERROR: ")
    assert "Traceback" not in failed.stderr
    assert other("images", "-q").stdout == ""
    assert not list((tmp_path / "other" / "blobs" / "sha256").iterdir())


def test_absent_images_are_errors_without_a_traceback(pybuild: Pybuild) -> None:
    for words in (["inspect", "nope"], ["rmi", "nope"], ["history", "nope"], ["tag", "a", "b"]):
        failed = pybuild(*words, status=1)
        assert "no such image" in failed.stderr
    assert "there is no image yet" in pybuild("history", status=1).stderr


def test_a_change_that_is_not_allowed_names_those_that_are(pybuild: Pybuild) -> None:
    failed = pybuild("import", "-c", "RUN true", "-", stdin=empty_tar(), status=2)
    assert "RUN is not a valid change command" in failed.stderr


def test_prune_asks_first_and_removes_images_without_a_name(
    busybox: Pybuild, tiny_tar: bytes
) -> None:
    old = busybox("images", "-q", "--no-trunc").stdout.strip()
    busybox("import", "-m", "newer", "-", "busybox:latest", stdin=tiny_tar)
    assert "[y/N]" in busybox("prune", stdin=b"n\n").stdout
    assert len(busybox("images", "-q").stdout.split()) == 2
    assert f"Deleted: {old}" in busybox("prune", "-f").stdout
    assert len(busybox("images", "-q").stdout.split()) == 1
    assert "sound" in busybox("system", "check").stdout


def test_a_repository_without_a_tag_is_saved_with_all_its_tags(busybox: Pybuild) -> None:
    for name in ("one:1", "one:2", "other:1"):
        busybox("tag", "busybox", name)
    busybox("save", "-o", "all.tar", "one")
    with tarfile.open(busybox.directory / "all.tar") as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        assert json.load(file)[0]["RepoTags"] == ["one:1", "one:2"]


def test_import_from_a_url(pybuild: Pybuild, tiny_tar: bytes) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(200, gzip.compress(tiny_tar)) if asked.path == "/root.tgz" else Answer(404)

    with ScriptedServer(answer) as server:
        made = pybuild("import", f"{server.url}/root.tgz", "got:1").stdout.strip()
        failed = pybuild("import", f"{server.url}/absent", status=1)
    [shown] = json.loads(pybuild("inspect", "got:1").stdout)
    assert shown["Id"] == made
    assert shown["Comment"] == f"Imported from {server.url}/root.tgz"
    assert "answers 404" in failed.stderr
    assert "http:// and https:// are known" in pybuild("import", "ftp://x/y", status=2).stderr


@pytest.mark.parametrize("data", [b"FROM scratch\n", b"no tar at all, though longer\n" * 99])
def test_what_is_no_tar_is_called_so(pybuild: Pybuild, data: bytes) -> None:
    for words in (["load"], ["import", "-"]):
        assert "not a tar archive" in pybuild(*words, stdin=data, status=1).stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_without_permission_is_one_error(pybuild: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    failed = pybuild("images", "--root", tmp_path / "locked" / "state", status=1)
    assert "permission denied" in failed.stderr
    assert "--root" in failed.stderr


def test_an_image_made_here_has_a_name_by_its_digest(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    busybox("build", "--tag=team/app:1", "--tag=other:1", context("FROM busybox\nUSER 7\n"))
    digest = busybox("images", "--digests", "--format={{.Digest}}", "team/app").stdout.strip()
    name = f"team/app@{digest}"
    assert busybox("inspect", "--format={{.Config.User}}", name).stdout == "7\n"
    assert busybox("run", "--rm", name, "id", "-u").stdout == "7\n"
    assert "USER 7" in busybox("history", name).stdout
    busybox("save", "-o", tmp_path / "app.tar", name)
    assert (tmp_path / "app.tar").stat().st_size > 10_000
    busybox("tag", name, "again:1")
    assert "no such image" in busybox("inspect", f"team/ap@{digest}", status=1).stderr
    assert busybox("rmi", name).stdout == f"Untagged: {name}\n"
    left = busybox("images", "--format={{.Repository}}").stdout.split()
    assert sorted(left) == ["again", "busybox", "other"]
    assert (
        busybox("rmi", "again:1", f"other@{digest}")
        .stdout.splitlines()[-1]
        .startswith("Deleted: sha256:")
    )


def test_a_variant_can_be_asked_for(busybox: Pybuild, context: Callable[..., Path]) -> None:
    folder = context("FROM scratch\nCOPY a /\n", {"a": "a"})
    for platform, variant in (("linux/arm/v6", "v6"), ("linux/arm64", ""), ("linux/arm64/v8", "")):
        busybox("build", f"--platform={platform}", "--tag=any:1", folder)
        assert busybox("inspect", "--format={{.Variant}}", "any:1").stdout == f"{variant}\n"
