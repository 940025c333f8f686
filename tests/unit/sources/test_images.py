"""Base images: the store first, then the registry; what cannot be had says why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildkit_py.digest import Digest
from buildkit_py.errors import ContentError, SourceError
from buildkit_py.oci.descriptor import Descriptor
from buildkit_py.platforms import Platform
from buildkit_py.sources.image import ImageSource
from buildkit_py.store import Store, make_store
from tests.registries import (
    FakeImage,
    ScriptedServer,
    digest,
    fake_image,
    fake_index,
    layer_tar,
    new_client,
    serve_image,
)

AMD64 = Platform()
ARM64 = Platform(architecture="arm64")


@dataclass
class Bench:
    store: Store
    source: ImageSource


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    def fetch(descriptor: Descriptor, origin: str) -> None:
        bench.source.fetch(descriptor, origin)

    store = make_store(tmp_path / "state", fetch=fetch, host=AMD64)
    client = new_client()
    bench = Bench(store, ImageSource(store, lambda: client))
    yield bench
    store.close()


def layout(folder: Path, image: FakeImage, tag: str = "latest") -> Path:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    for key, data in [*image.blobs.items(), (image.digest, image.manifest)]:
        (blobs / key.partition(":")[2]).write_bytes(data)
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.digest,
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_first_look_fetches_manifest_and_config_only(bench: Bench) -> None:
    image = fake_image()
    with ScriptedServer(serve_image(image)) as server:
        pinned = bench.source.pin(f"{server.host}/app:1", AMD64)
    assert pinned.op.digest == digest(image.config)
    assert pinned.config.config.cmd == ("/hello",)
    assert not bench.store.content.has(Digest(digest(image.layers[0])))


def test_layers_are_fetched_when_their_files_are_wanted(bench: Bench) -> None:
    image = fake_image(layer_tar({"a": b"1"}), layer_tar({"b": b"2"}))
    with ScriptedServer(serve_image(image)) as server:
        pinned = bench.source.pin(f"{server.host}/app:1", AMD64)
        snapshot = bench.source.snapshot(pinned.op)
        directories = bench.store.snapshots.directories(snapshot)
    assert [[path.name for path in folder.iterdir()] for folder in directories] == [["a"], ["b"]]


def test_second_look_asks_no_registry(bench: Bench) -> None:
    with ScriptedServer(serve_image(fake_image())) as server:
        first = bench.source.pin(f"{server.host}/app:1", AMD64)
        server.asked.clear()
        assert bench.source.pin(f"{server.host}/app:1", AMD64) == first
        assert server.asked == []


def test_pull_asks_the_registry_again(bench: Bench) -> None:
    old, new = fake_image(), fake_image(layer_tar({"new": b"!"}))
    with ScriptedServer(serve_image(old)) as server:
        name = f"{server.host}/app:1"
        bench.source.pin(name, AMD64)
        server.script = serve_image(new)
        assert bench.source.pin(name, AMD64).op.digest == digest(old.config)
        assert bench.source.pin(name, AMD64, pull=True).op.digest == digest(new.config)


def test_pull_falls_back_to_the_store_when_the_registry_is_gone(bench: Bench) -> None:
    with ScriptedServer(serve_image(fake_image())) as server:
        name = f"{server.host}/app:1"
        first = bench.source.pin(name, AMD64)
    assert bench.source.pin(name, AMD64, pull=True) == first


def test_platforms_of_one_index_share_a_name(bench: Bench) -> None:
    amd, arm = fake_image(), fake_image(architecture="arm64")
    index = fake_index({"linux/amd64": amd, "linux/arm64": arm})
    with ScriptedServer(serve_image(amd, arm, index=index)) as server:
        name = f"{server.host}/app:1"
        for platform in (AMD64, ARM64):
            bench.source.pin(name, platform)
        server.asked.clear()
        assert bench.source.pin(name, AMD64).op.digest == digest(amd.config)
        assert bench.source.pin(name, ARM64).op.digest == digest(arm.config)
        assert server.asked == []


def test_a_local_image_of_another_platform_serves_where_none_was_asked_for(bench: Bench) -> None:
    arm = fake_image(architecture="arm64")
    index = fake_index({"linux/arm64": arm})
    with ScriptedServer(serve_image(arm, index=index)) as server:
        name = f"{server.host}/app:1"
        op = bench.source.pin(name, ARM64).op
        with pytest.raises(SourceError, match="the local image of that name is for linux/arm64"):
            bench.source.pin(name, AMD64)
        assert bench.source.pin(name, AMD64, any_platform=True).op == op
        with pytest.raises(SourceError, match="linux/arm64"):
            bench.source.pin(name, AMD64, any_platform=True, pull=True)


def test_a_base_is_shown_by_the_digest_that_its_name_leads_to(bench: Bench) -> None:
    image = fake_image()
    index = fake_index(
        {"linux/amd64": image},
    )
    with (
        ScriptedServer(serve_image(image, index=index)) as many,
        ScriptedServer(serve_image(image)) as one,
    ):
        first, again = (bench.source.pin(f"{many.host}/app:1", AMD64).op for _ in range(2))
        assert first.named == again.named == digest(index)
        assert bench.source.pin(f"{one.host}/app:1", AMD64).op.named == image.digest
    assert bench.source.pin(first.digest, AMD64).op.named is None


def test_image_can_be_named_by_its_id(bench: Bench) -> None:
    with ScriptedServer(serve_image(fake_image())) as server:
        op = bench.source.pin(f"{server.host}/app:1", AMD64).op
    assert bench.source.pin(op.digest[7:19], ARM64).op.digest == op.digest


def test_unknown_image_names_itself_and_the_registry(bench: Bench) -> None:
    with (
        ScriptedServer(serve_image(fake_image())) as server,
        pytest.raises(SourceError, match="not found in 127") as caught,
    ):
        bench.source.pin(f"{server.host}/app@sha256:{'0' * 64}", AMD64)
    assert "check the name" in (caught.value.hint or "")


def test_unreachable_registry_says_what_to_do(bench: Bench) -> None:
    with ScriptedServer(serve_image(fake_image())) as server:
        name = f"{server.host}/app:1"
    with pytest.raises(SourceError, match="cannot reach the registry of") as caught:
        bench.source.pin(name, AMD64)
    assert "is not in the local store" in (caught.value.hint or "")


def test_invalid_name_is_refused(bench: Bench) -> None:
    with pytest.raises(SourceError, match="lowercase"):
        bench.source.pin("Debian/Etc", AMD64)


def test_config_with_other_layers_than_its_manifest_is_refused(bench: Bench) -> None:
    image = fake_image()
    raw = json.loads(image.manifest)
    raw["layers"] *= 2
    image.manifest = json.dumps(raw).encode()
    with (
        ScriptedServer(serve_image(image)) as server,
        pytest.raises(SourceError, match="names 1 layers, its manifest 2"),
    ):
        bench.source.pin(f"{server.host}/app:1", AMD64)


# ------------------------------------------------------------------ layouts
def test_image_of_a_layout_is_unpacked_from_it(bench: Bench, tmp_path: Path) -> None:
    folder = layout(tmp_path / "layout", fake_image())
    pinned = bench.source.pin_layout(str(folder), "", AMD64)
    directories = bench.store.snapshots.directories(bench.source.snapshot(pinned.op))
    assert (directories[0] / "hello.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("reference", [":v1", "", "digest"])
def test_layout_is_searched_by_tag_and_digest(
    bench: Bench, tmp_path: Path, reference: str
) -> None:
    image = fake_image()
    folder = layout(tmp_path / "layout", image, "v1")
    wanted = f"@{image.digest}" if reference == "digest" else reference
    pinned = bench.source.pin_layout(str(folder), wanted, AMD64)
    assert pinned.op.digest == digest(image.config)


def test_unknown_tag_of_a_layout_names_those_it_has(bench: Bench, tmp_path: Path) -> None:
    folder = layout(tmp_path / "layout", fake_image(), "v1")
    with pytest.raises(SourceError, match="has no 'v2', but v1"):
        bench.source.pin_layout(str(folder), ":v2", AMD64)


def test_directory_that_is_no_layout_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        bench.source.pin_layout(str(tmp_path), "", AMD64)


def test_damaged_layout_blob_is_refused(bench: Bench, tmp_path: Path) -> None:
    image = fake_image()
    folder = layout(tmp_path / "layout", image)
    blob = folder / "blobs" / "sha256" / digest(image.layers[0])[7:]
    blob.write_bytes(b"x" * len(image.layers[0]))
    pinned = bench.source.pin_layout(str(folder), "", AMD64)
    with pytest.raises(ContentError):
        bench.store.snapshots.directories(bench.source.snapshot(pinned.op))
