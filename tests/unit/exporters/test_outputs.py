from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_py.attest.provenance import PROVENANCE_TYPES
from buildkit_py.digest import sha256
from buildkit_py.errors import ContentError, StoreError, UsageError
from buildkit_py.exporters import OutputSpec, open_exporter, parse_output
from buildkit_py.exporters.base import Attestation, ExportRequest, ExportResult
from buildkit_py.platforms import Platform
from buildkit_py.store import Store
from buildkit_py.store.archive import load_archive


def export(store: Store, text: str, request: ExportRequest) -> ExportResult:
    return open_exporter(parse_output(text), store).export(request)


@pytest.mark.parametrize(
    ("text", "kind", "attributes"),
    [
        ("out", "local", {"dest": "out"}),
        ("-", "tar", {"dest": "-"}),
        ("type=oci,dest=a.tar", "oci", {"dest": "a.tar"}),
        ('type=image,"name=a,b",push=true', "image", {"name": "a,b", "push": "true"}),
        ("type=image,annotation.a.b=c=d", "image", {"annotation.a.b": "c=d"}),
        ("type=cacheonly", "cacheonly", {}),
    ],
)
def test_outputs_are_parsed(text: str, kind: str, attributes: dict[str, str]) -> None:
    assert parse_output(text) == OutputSpec(kind=kind, attributes=attributes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("dest=a.tar", "type is required"),
        ("type=zip", 'unknown output type "zip"'),
        ("type=oci,dset=a.tar", 'unknown key "dset"'),
        ("type=local,oops", "not key=value"),
        ('type=image,"name=a', "invalid value"),
    ],
)
def test_wrong_outputs_are_usage_errors(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_output(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=oci", "dest is required"),
        ("type=local", "dest is required"),
        ("type=oci,dest=x,compression=lzma", "unsupported compression type lzma"),
        ("type=oci,dest=x,compression-level=fast", "not a number"),
        ("type=oci,dest=x,compression-level=77", "level of gzip"),
        ("type=oci,dest=x,oci-mediatypes=maybe", "not a boolean"),
        ("type=oci,dest=x,oci-mediatypes=false,compression=zstd", "conflicts"),
        ("type=oci,dest=x,oci-mediatypes=false,compression=estargz", "conflicts"),
        ("type=oci,dest=x,compatibility-version=31", "compatibility-version"),
        ("type=image,rewrite-timestamp=true,unpack=true", "conflicts with"),
        ("type=local,dest=x,mode=move", "invalid mode"),
        ("type=oci,dest=x,annotation-oops.a=b", "unknown annotation type"),
        ("type=image,name=Not:A:Name", "invalid reference"),
    ],
)
def test_attributes_that_make_no_sense_are_usage_errors(
    store: Store, request_: ExportRequest, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export(store, text, request_)
    assert not (request_.directory / "x").exists()


def test_an_image_output_stores_the_image_under_its_names(
    store: Store, request_: ExportRequest
) -> None:
    result = export(store, "type=image", request_)
    image = store.images.get("app:1")
    assert image.id == result.image_id == store.images.get("example.com/other:2").id
    assert image.snapshot == request_.images[0].snapshot
    assert image.config.created == "2023-11-14T22:13:20Z"
    assert [entry.created_by for entry in image.config.history] == [
        "COPY base",
        "CMD sh",
        "RUN top",
    ]
    assert result.metadata()["containerimage.config.digest"] == image.id


@pytest.mark.parametrize("kind", ["uncompressed", "gzip", "zstd", "estargz"])
def test_an_oci_archive_holds_what_its_digests_say(
    store: Store, request_: ExportRequest, kind: str
) -> None:
    result = export(store, f"type=oci,dest=a.tar,compression={kind}", request_)
    with tarfile.open(request_.directory / "a.tar") as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    for name, data in files.items():
        if name.startswith("blobs/"):
            assert sha256(data) == "sha256:" + name.rpartition("/")[2]
    index = json.loads(files["index.json"])
    assert result.descriptor is not None
    assert {item["digest"] for item in index["manifests"]} == {result.descriptor.digest}
    names = [item["annotations"]["io.containerd.image.name"] for item in index["manifests"]]
    assert names == ["docker.io/library/app:1", "example.com/other:2"]
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


@pytest.mark.parametrize("text", ["type=oci,dest=a.tar", "type=docker,dest=a.tar"])
def test_two_exports_give_the_same_bytes(store: Store, request_: ExportRequest, text: str) -> None:
    export(store, text, request_)
    first = (request_.directory / "a.tar").read_bytes()
    export(store, text, request_)
    assert (request_.directory / "a.tar").read_bytes() == first


def test_a_docker_archive_names_config_layers_and_tags(
    store: Store, request_: ExportRequest
) -> None:
    result = export(store, "type=docker,dest=a.tar", request_)
    with tarfile.open(request_.directory / "a.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        repositories = json.load(tar.extractfile("repositories"))  # type: ignore[arg-type]
        names = set(tar.getnames())
    (entry,) = manifest
    assert entry["RepoTags"] == ["app:1", "example.com/other:2"]
    assert entry["Config"] == f"blobs/sha256/{result.image_id[7:]}"  # type: ignore[index]
    assert {entry["Config"], *entry["Layers"]} <= names
    assert repositories["app"]["1"] == entry["Layers"][-1].rpartition("/")[2]


def test_what_was_exported_is_loaded_again_with_the_same_id(
    store: Store, request_: ExportRequest
) -> None:
    result = export(store, "type=docker,dest=a.tar", request_)
    (loaded,) = load_archive(store, request_.directory / "a.tar")
    assert loaded.image.id == result.image_id


def test_rewritten_times_are_in_the_layers_and_give_the_image_its_own_snapshots(
    store: Store, request_: ExportRequest
) -> None:
    result = export(store, "type=image,rewrite-timestamp=true", request_)
    image = store.images.get("app:1")
    assert image.id == result.image_id
    assert image.snapshot != request_.images[0].snapshot
    top = store.snapshots.directories(image.snapshot)[-1]
    assert (top / "etc" / "one").stat().st_mtime == 1_700_000_000


def test_annotations_land_in_the_documents_that_they_name(
    store: Store, request_: ExportRequest
) -> None:
    request = replace(request_, annotations=("a=1", "index-descriptor:b=2"), multi_platform=False)
    export(store, "type=oci,dest=a.tar,annotation.c=3,annotation-manifest.d=4", request)
    with tarfile.open(request_.directory / "a.tar") as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        digest = index["manifests"][0]["digest"]
        manifest = json.load(tar.extractfile(f"blobs/sha256/{digest[7:]}"))  # type: ignore[arg-type]
    assert manifest["annotations"] == {"a": "1", "c": "3", "d": "4"}
    assert index["manifests"][0]["annotations"]["b"] == "2"


def test_several_platforms_make_an_index_and_a_folder_each(
    store: Store, request_: ExportRequest
) -> None:
    (image,) = request_.images
    arm = replace(image, config=replace(image.config, platform=Platform(architecture="arm64")))
    request = replace(request_, images=(image, arm), multi_platform=True)
    result = export(store, "type=image", request)
    assert result.descriptor is not None
    assert "index" in result.descriptor.media_type
    assert store.images.get("app:1", Platform(architecture="arm64")).id != result.image_id
    export(store, "out", request)
    assert sorted(os.listdir(request.directory / "out")) == ["linux_amd64", "linux_arm64"]
    with pytest.raises(UsageError, match="manifest lists"):
        export(store, "type=docker,dest=a.tar", request)
    for output in ("type=local,dest=one", "type=tar,dest=one"):
        with pytest.raises(UsageError, match="cannot merge platforms"):
            export(store, f"{output},platform-split=false", request)
    assert not (request.directory / "one").exists()


def test_platforms_with_other_files_can_be_merged(store: Store, request_: ExportRequest) -> None:
    (image,) = request_.images
    stated = Attestation(
        predicate_type=PROVENANCE_TYPES["v1"], predicate={}, filename="provenance.json"
    )
    with store.snapshots.prepare(None) as active:
        (active.upper / "arm").write_text("its own")
        snapshot = store.snapshots.commit(active, description="arm").id
    config = replace(image.config, platform=Platform(architecture="arm64"))
    images = (
        replace(image, attestations=(stated,)),
        replace(image, config=config, snapshot=snapshot, attestations=(stated,)),
    )
    request = replace(request_, images=images, multi_platform=True)
    folder = request.directory / "out"
    folder.mkdir()
    (folder / "old").touch()
    export(store, "type=local,dest=out,platform-split=false,mode=delete", request)
    statements = ["provenance.linux_amd64.json", "provenance.linux_arm64.json"]
    assert sorted(os.listdir(folder)) == ["arm", "bin", "etc", *statements]
    export(store, "type=tar,dest=out.tar,platform-split=false", request)
    with tarfile.open(request.directory / "out.tar") as tar:
        assert {"arm", "etc/one", *statements} <= set(tar.getnames())


def test_a_layout_directory_keeps_other_names(store: Store, request_: ExportRequest) -> None:
    export(store, "type=oci,dest=lay,tar=false,name=a:1", request_)
    export(store, "type=oci,dest=lay,tar=false,name=b:2", request_)
    export(store, "type=oci,dest=lay,tar=false,name=a:1", request_)
    index = json.loads((request_.directory / "lay" / "index.json").read_text())
    tags = [
        item["annotations"]["org.opencontainers.image.ref.name"] for item in index["manifests"]
    ]
    assert sorted(tags) == ["1", "2"]


def test_a_directory_that_is_no_layout_is_not_written_into(
    store: Store, request_: ExportRequest
) -> None:
    (request_.directory / "mine").mkdir()
    (request_.directory / "mine" / "file").write_text("precious")
    with pytest.raises(UsageError, match="neither empty nor an OCI layout"):
        export(store, "type=oci,dest=mine,tar=false", request_)
    assert os.listdir(request_.directory / "mine") == ["file"]


def test_files_are_written_with_links_modes_and_the_epoch(
    store: Store, request_: ExportRequest
) -> None:
    export(store, "out", request_)
    out = request_.directory / "out"
    assert os.readlink(out / "bin") == "usr/bin"
    assert (out / "etc" / "one").stat().st_ino == (out / "etc" / "two").stat().st_ino
    assert (out / "etc" / "one").stat().st_mode & 0o7777 == 0o4711
    assert {path.lstat().st_mtime for path in out.rglob("*")} == {1_700_000_000}


def test_what_stands_in_the_way_is_replaced_and_links_are_not_followed(
    store: Store, request_: ExportRequest
) -> None:
    out, victim = request_.directory / "out", request_.directory / "victim"
    victim.mkdir()
    out.mkdir()
    (out / "etc").symlink_to(victim)
    (out / "bin").mkdir()
    (out / "bin" / "old").write_text("x")
    (out / "other").write_text("stays")
    export(store, "out", request_)
    assert os.listdir(victim) == []
    assert (out / "etc" / "motd").read_text() == "hello"
    assert (out / "bin").is_symlink()
    assert (out / "other").exists()
    export(store, "type=local,dest=out,mode=delete", request_)
    assert not (out / "other").exists()


def test_the_root_tar_holds_the_merged_tree(store: Store, request_: ExportRequest) -> None:
    buffer = io.BytesIO()
    buffer.isatty = lambda: False  # type: ignore[method-assign]
    export(store, "-", replace(request_, stdout=buffer))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        kinds = {member.name: (member.type, member.linkname) for member in tar}
    assert kinds == {
        "bin": (tarfile.SYMTYPE, "usr/bin"),
        "etc": (tarfile.DIRTYPE, ""),
        "etc/motd": (tarfile.REGTYPE, ""),
        "etc/one": (tarfile.REGTYPE, ""),
        "etc/two": (tarfile.LNKTYPE, "etc/one"),
    }


def test_a_failed_export_leaves_the_old_archive(store: Store, request_: ExportRequest) -> None:
    path: Path = request_.directory / "a.tar"
    path.write_text("the old one")
    directory = store.snapshots.get(request_.images[0].snapshot or 0).directory
    store.snapshots.diff_id(request_.images[0].snapshot or 0)
    (directory / "etc" / "one").write_text("changed behind our back")
    with pytest.raises((ContentError, StoreError)):
        export(store, "type=oci,dest=a.tar,compression=uncompressed", request_)
    assert path.read_text() == "the old one"
    assert [item for item in os.listdir(request_.directory) if item.endswith(".part")] == []


def test_no_layer_becomes_nondistributable_by_an_attribute(
    store: Store, request_: ExportRequest
) -> None:
    plain = export(store, "type=image", request_)
    preferred = export(store, "type=image,prefer-nondist-layers=true", request_)
    assert preferred.descriptor == plain.descriptor
    with pytest.raises(UsageError, match="not a boolean"):
        export(store, "type=image,prefer-nondist-layers=perhaps", request_)


@pytest.mark.parametrize(
    ("attributes", "family"),
    [
        ("compatibility-version=30", "application/vnd.oci.image."),
        ("compatibility-version=20", "application/vnd.docker."),
        ("compatibility-version=20,oci-mediatypes=true", "application/vnd.oci.image."),
        ("compatibility-version=10,compression=zstd", "application/vnd.oci.image."),
    ],
)
def test_media_types_follow_the_generation_asked_for(
    store: Store, request_: ExportRequest, attributes: str, family: str
) -> None:
    request = replace(request_, multi_platform=False, images=request_.images[:1])
    export(store, f"type=oci,dest=a.tar,{attributes}", request)
    with tarfile.open(request_.directory / "a.tar") as tar:
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert index["manifests"][0]["mediaType"].startswith(family)


def test_images_without_a_name_can_have_one_by_digest(
    store: Store, request_: ExportRequest
) -> None:
    unnamed = replace(request_, names=())
    made = export(store, "type=image,dangling-name-prefix=moby/dangling", unnamed)
    assert made.descriptor is not None
    (image,) = store.images.list()
    assert [item.familiar for item in image.digests] == [f"moby/dangling@{made.descriptor.digest}"]


def test_canonical_names_are_names_by_digest(store: Store, request_: ExportRequest) -> None:
    made = export(store, "type=image,name-canonical=true", request_)
    (image,) = store.images.list()
    assert made.descriptor is not None
    assert {item.familiar for item in image.digests} == {
        f"app@{made.descriptor.digest}",
        f"example.com/other@{made.descriptor.digest}",
    }


def test_an_image_that_is_not_to_be_stored_is_not(store: Store, request_: ExportRequest) -> None:
    assert export(store, "type=image,store=false", request_).image_id
    assert store.images.list() == ()
