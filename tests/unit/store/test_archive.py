from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from buildkit_py.digest import sha256
from buildkit_py.errors import ContentError, CorruptArchive, DigestMismatch
from buildkit_py.oci.descriptor import MediaType
from buildkit_py.store import Store
from buildkit_py.store.archive import describe, load_archive
from tests.unit.store.samples import image_config, layer_tar

LAYER = layer_tar({"etc/motd": b"hello"})


def pack(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return out.getvalue()


def docker_files(layer: bytes = LAYER, **changes: object) -> dict[str, bytes]:
    config = image_config([sha256(LAYER)])
    entry: dict[str, object] = {
        "Config": "config.json",
        "RepoTags": ["old/app:1"],
        "Layers": ["abc/layer.tar"],
    }
    return {
        "config.json": config,
        "abc/layer.tar": layer,
        "manifest.json": json.dumps([entry | changes]).encode(),
    }


def blob(data: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data)}


def oci_files(layer: bytes, media_type: str, **annotations: str) -> dict[str, bytes]:
    config = image_config([sha256(LAYER)])
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MediaType.OCI_MANIFEST,
            "config": blob(config, MediaType.OCI_CONFIG),
            "layers": [blob(layer, media_type)],
        }
    ).encode()
    root = blob(manifest, MediaType.OCI_MANIFEST) | {"annotations": annotations}
    index = json.dumps({"schemaVersion": 2, "manifests": [root]}).encode()
    blobs = {f"blobs/sha256/{sha256(d)[7:]}": d for d in (config, manifest, layer)}
    return {"oci-layout": b"{}", "index.json": index, **blobs}


def load(store: Store, archive: bytes) -> list[str]:
    return describe(load_archive(store, io.BytesIO(archive)))


def content_of(store: Store, name: str) -> bytes:
    (directory,) = store.snapshots.directories(store.images.get(name).snapshot)
    return (directory / "etc" / "motd").read_bytes()


def test_a_docker_archive_is_loaded_under_its_name(store: Store) -> None:
    assert load(store, pack(docker_files())) == ["Loaded image: old/app:1"]
    assert content_of(store, "old/app:1") == b"hello"


def test_layers_of_old_archives_may_be_links(store: Store) -> None:
    files = docker_files(Layers=["xyz/layer.tar"])
    load(store, pack(files, {"xyz/layer.tar": "../abc/layer.tar"}))
    assert content_of(store, "old/app:1") == b"hello"


@pytest.mark.parametrize(
    "squeeze",
    [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_archives_and_their_layers_may_be_compressed(
    store: Store, squeeze: Callable[[bytes], bytes]
) -> None:
    load(store, squeeze(pack(docker_files(squeeze(LAYER)))))
    assert content_of(store, "old/app:1") == b"hello"


def test_an_oci_archive_is_loaded_and_keeps_its_manifest(store: Store) -> None:
    layer = gzip.compress(LAYER, mtime=0)
    name = {"io.containerd.image.name": "example.com/app:2"}
    files = oci_files(layer, MediaType.OCI_LAYER_GZIP, **name)
    assert load(store, pack(files)) == ["Loaded image: example.com/app:2"]
    image = store.images.get("example.com/app:2")
    assert image.manifest is not None
    assert f"blobs/sha256/{image.manifest.digest[7:]}" in files
    assert content_of(store, "example.com/app:2") == b"hello"


def test_a_layout_directory_is_loaded_too(store: Store, tmp_path: Path) -> None:
    reference = {"org.opencontainers.image.ref.name": "app:3"}
    for name, data in oci_files(LAYER, MediaType.OCI_LAYER, **reference).items():
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert describe(load_archive(store, tmp_path / "layout")) == ["Loaded image: app:3"]


def test_an_image_without_a_name_is_told_by_its_id(store: Store) -> None:
    files = oci_files(LAYER, MediaType.OCI_LAYER, **{"org.opencontainers.image.ref.name": "v1"})
    (line,) = load(store, pack(files))
    assert line == f"Loaded image ID: {store.images.list()[0].id}"


def broken_archives() -> dict[str, bytes]:
    whole = pack(docker_files())
    oci = oci_files(LAYER, MediaType.OCI_LAYER)
    layer_name = f"blobs/sha256/{sha256(LAYER)[7:]}"
    nested = json.dumps({"manifests": []}).encode()
    return {
        "not a tar": b"this is no archive" * 100,
        "empty": b"",
        "cut in a header": whole[:700],
        "cut in content": whole[: whole.index(b"hello") + 2],
        "cut gzip": gzip.compress(whole)[:-20],
        "no documents": pack({"etc/passwd": b"root"}),
        "broken JSON": pack(docker_files() | {"manifest.json": b"{"}),
        "no list": pack(docker_files() | {"manifest.json": b"3"}),
        "no layers list": pack(docker_files(Layers=3)),
        "missing layer": pack(docker_files(Layers=["nowhere/layer.tar"])),
        "missing config": pack(docker_files(Config="nowhere.json")),
        "config is no JSON": pack(docker_files() | {"config.json": b"\0"}),
        "too many layers": pack(docker_files(Layers=["abc/layer.tar", "abc/layer.tar"])),
        "bad name": pack(docker_files(RepoTags=["app:not a tag"])),
        "another layer": pack(docker_files(layer_tar({"etc/motd": b"hullo"}))),
        "truncated layer": pack(docker_files(LAYER[:700])),
        "truncated gzip layer": pack(docker_files(gzip.compress(LAYER)[:-9])),
        "blob of another digest": pack(oci | {layer_name: b"hullo"}),
        "blob is missing": pack({k: v for k, v in oci.items() if k != layer_name}),
        "index is a manifest": pack(oci | {"index.json": b'{"config": {}}'}),
        "index is empty": pack(oci | {"index.json": nested}),
        "name outside": pack(docker_files() | {"../../etc/passwd": b"x"}),
        "link loop": pack(
            {k: v for k, v in docker_files().items() if k != "abc/layer.tar"},
            {"abc/layer.tar": "../b", "b": "abc/layer.tar"},
        ),
    }


@pytest.mark.parametrize("archive", broken_archives().values(), ids=broken_archives().keys())
def test_a_broken_archive_is_one_clear_error_and_leaves_nothing(
    store: Store, archive: bytes
) -> None:
    with pytest.raises(ContentError) as caught:
        load(store, archive)
    assert "\n" not in caught.value.message
    assert store.images.list() == ()
    assert store.content.all_digests() == []


def test_the_mismatch_of_a_layer_names_its_number(store: Store) -> None:
    with pytest.raises(DigestMismatch, match="layer 1 of the image"):
        load(store, pack(docker_files(layer_tar({"etc/motd": b"hullo"}))))


def test_a_root_filesystem_given_to_load_gets_a_hint(store: Store) -> None:
    with pytest.raises(CorruptArchive) as caught:
        load(store, pack({"etc/passwd": b"root"}))
    assert "pybuild import" in (caught.value.hint or "")


def test_a_failed_load_keeps_blobs_that_others_need(store: Store) -> None:
    load(store, pack(docker_files()))
    before = store.content.all_digests()
    with pytest.raises(ContentError):
        load(store, pack(docker_files(Layers=["abc/layer.tar", "abc/layer.tar"])))
    assert store.content.all_digests() == before
    assert content_of(store, "old/app:1") == b"hello"
