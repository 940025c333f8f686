"""The bytes of configs, manifests and indexes, and the times in a history."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from buildkit_py.digest import Digest, sha256
from buildkit_py.errors import ContentError
from buildkit_py.oci.assemble import (
    AssembleOptions,
    LayerFacts,
    assemble,
    assemble_index,
    go_json,
)
from buildkit_py.oci.config import ContainerConfig, History, ImageConfig, config_from_json
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.platforms import Platform

ONE, TWO = Digest("sha256:" + "1" * 64), Digest("sha256:" + "2" * 64)
T1, T2, T3 = "2021-01-01T00:00:00Z", "2022-01-01T00:00:00.5Z", "2023-01-01T00:00:00Z"


def layer(digest: Digest = ONE, media_type: str = MediaType.OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest, size=7)


def fact(digest: Digest = ONE, created: str | None = None, description: str = "") -> LayerFacts:
    return LayerFacts(diff_id=digest, created=created, description=description)


def test_the_config_is_compact_sorted_and_escaped_as_go_does() -> None:
    config = ImageConfig(
        config=ContainerConfig(env=("A=b",), labels={"z": "<&>", "a": "ü"}, cmd=("x",)),
        history=(History(created=T1, created_by="RUN a && b"),),
    )
    image = assemble(config, [layer()], [fact()])
    assert image.config.decode() == (
        '{"architecture":"amd64","config":{"Env":["A=b"],"Cmd":["x"],'
        '"Labels":{"a":"ü","z":"\\u003c\\u0026\\u003e"}},'
        f'"created":"{T1}","history":[{{"created":"{T1}","created_by":"RUN a \\u0026\\u0026 b"}}],'
        f'"os":"linux","rootfs":{{"type":"layers","diff_ids":["{ONE}"]}}}}'
    )
    assert config_from_json(json.loads(image.config)) == replace(
        config, created=T1, diff_ids=(ONE,)
    )


def test_the_manifest_is_indented_and_names_config_and_layers() -> None:
    image = assemble(
        ImageConfig(), [layer()], [fact()], AssembleOptions(annotations={"b": "2", "a": "1"})
    )
    raw = json.loads(image.manifest)
    assert list(raw) == ["schemaVersion", "mediaType", "config", "layers", "annotations"]
    assert image.manifest.startswith(b'{\n  "schemaVersion": 2,\n  "mediaType": ')
    assert raw["config"] == {
        "mediaType": MediaType.OCI_CONFIG,
        "digest": sha256(image.config),
        "size": len(image.config),
    }
    assert list(raw["annotations"]) == ["a", "b"]
    assert image.manifest_descriptor.digest == sha256(image.manifest)
    assert image.manifest_descriptor.platform == Platform()


def test_docker_media_types_take_gzip_and_refuse_zstd() -> None:
    options = AssembleOptions(oci_types=False)
    raw = json.loads(assemble(ImageConfig(), [layer()], [fact()], options).manifest)
    assert raw["mediaType"] == MediaType.DOCKER_MANIFEST
    assert raw["config"]["mediaType"] == MediaType.DOCKER_CONFIG
    assert raw["layers"][0]["mediaType"] == MediaType.DOCKER_LAYER_GZIP
    zstd = layer(media_type=MediaType.OCI_LAYER_ZSTD)
    with pytest.raises(ContentError, match="no name for a zstd layer"):
        assemble(ImageConfig(), [zstd], [fact()], options)


def test_docker_layers_of_a_base_become_oci_layers() -> None:
    image = assemble(ImageConfig(), [layer(media_type=MediaType.DOCKER_LAYER_GZIP)], [fact()])
    assert json.loads(image.manifest)["layers"][0]["mediaType"] == MediaType.OCI_LAYER_GZIP


def test_layers_and_facts_must_agree() -> None:
    with pytest.raises(ContentError, match="1 layers and 0 diff ids"):
        assemble(ImageConfig(), [layer()], [])


# -------------------------------------------------------------- history
def times(history: tuple[History, ...], facts: list[LayerFacts], **options: int) -> list[str]:
    config = ImageConfig(history=history)
    layers = [layer(item.diff_id) for item in facts]
    image = assemble(config, layers, facts, AssembleOptions(**options)).image
    return [str(entry.created) for entry in image.history]


EMPTY = History(created_by="ENV a=b", empty_layer=True)
FULL = History(created_by="RUN x")


def test_an_entry_has_the_time_of_its_layer() -> None:
    assert times((FULL, FULL), [fact(created=T1), fact(TWO, T2)]) == [T1, T2]


def test_metadata_before_the_first_new_layer_has_that_layers_time() -> None:
    base = History(created=T1, created_by="base")
    found = times((base, EMPTY, FULL, EMPTY), [fact(created=T1), fact(TWO, T2)])
    assert found == [T1, T2, T2, T2]


def test_metadata_alone_has_the_time_of_the_base() -> None:
    base = History(created=T1, created_by="base")
    assert times((base, EMPTY), [fact()]) == [T1, T1]


def test_metadata_behind_a_layer_has_that_layers_time() -> None:
    found = times((EMPTY, FULL, EMPTY, FULL), [fact(created=T1), fact(TWO, T2)])
    assert found == [T1, T1, T1, T2]


def test_created_is_the_last_time_of_the_history() -> None:
    image = assemble(ImageConfig(history=(FULL, EMPTY)), [layer()], [fact(created=T2)]).image
    assert image.created == T2


def test_an_epoch_clamps_what_is_later_and_spares_the_base() -> None:
    history = (
        History(created=T3, created_by="base"),
        History(created=T1, created_by="old", empty_layer=True),
        History(created=T3, created_by="new", empty_layer=True),
    )
    epoch = 1640995200  # 2022-01-01
    found = times(history, [fact()], epoch=epoch, base_history=1)
    assert found == [T3, T1, "2022-01-01T00:00:00Z"]


def test_an_epoch_dates_an_image_without_history() -> None:
    image = assemble(ImageConfig(), [], [], AssembleOptions(epoch=0))
    assert image.image.created == "1970-01-01T00:00:00Z"


def test_layers_without_history_get_entries_of_their_own() -> None:
    config = ImageConfig(history=(History(created=T1, created_by="base"),))
    image = assemble(
        config, [layer(), layer(TWO)], [fact(), fact(TWO, T2, "mount / from exec")]
    ).image
    assert image.history[1] == History(
        created=T2, created_by="mount / from exec", comment="buildkit.exporter.image.v0"
    )


def test_entries_without_a_layer_are_marked_empty() -> None:
    image = assemble(ImageConfig(history=(FULL, FULL)), [layer()], [fact(created=T1)]).image
    assert [entry.empty_layer for entry in image.history] == [False, True]


# -------------------------------------------------------------- index
def test_an_index_keeps_platforms_and_order() -> None:
    manifest = Descriptor(
        media_type=MediaType.OCI_MANIFEST,
        digest=ONE,
        size=3,
        platform=Platform(architecture="arm", variant="v7"),
    )
    index = assemble_index([manifest], annotations={"k": "v"})
    raw = json.loads(index.index)
    assert raw["mediaType"] == MediaType.OCI_INDEX
    assert raw["manifests"][0]["platform"] == {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7",
    }
    assert index.descriptor.digest == sha256(index.index)
    assert assemble_index([], oci_types=False).descriptor.media_type == MediaType.DOCKER_LIST


def test_go_json_escapes_line_separators() -> None:
    assert go_json({"a": "\u2028\u2029"}) == b'{"a":"\\u2028\\u2029"}'


def test_go_json_marks_bytes_that_are_no_text() -> None:
    assert go_json({"a": b"\xff".decode("utf-8", "surrogateescape")}) == b'{"a":"\\ufffd"}'
