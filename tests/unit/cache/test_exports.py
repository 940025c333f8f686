from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.cache.backends import CacheAccess, open_imports, write_exports
from buildkit_py.cache.base import ExportedResult
from buildkit_py.cache.config import (
    CONFIG_TYPE,
    INLINE_FIELD,
    CacheConfig,
    decode,
    encode,
    merge,
)
from buildkit_py.cache.exports import choose_results, collect
from buildkit_py.cache.inline import inline_field, read_inline
from buildkit_py.cache.options import parse_export, parse_import
from buildkit_py.digest import Digest, sha256
from buildkit_py.errors import ContentError, UsageError
from buildkit_py.layers.tree import MergedTree
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.store import Store, make_store
from buildkit_py.store.layer import Variant
from buildkit_py.store.locks import FileLock


def key(text: str) -> Digest:
    return sha256(text.encode())


def fetch_from_layout(store: Store, fetched: list[str]) -> Callable[..., None]:
    def fetch(descriptor: object, origin: str) -> None:
        fetched.append(origin)
        digest = descriptor.digest  # type: ignore[attr-defined]
        folder = Path(origin.removeprefix("oci-layout://"))
        data = (folder / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()
        store.content.put(data, descriptor.media_type)  # type: ignore[attr-defined]

    return fetch


class Machine:
    """A state root with the means to exchange caches."""

    def __init__(self, root: Path) -> None:
        self.fetched: list[str] = []
        self.store = make_store(root)
        self.store.snapshots.layers.fetch = fetch_from_layout(self.store, self.fetched)
        self.warnings: list[str] = []

    def snapshot(self, parent: int | None, **files: str) -> int:
        with self.store.snapshots.prepare(parent) as active:
            for name, text in files.items():
                (active.upper / name).write_text(text)
            return self.store.snapshots.commit(active).id

    def access(self, directory: Path) -> CacheAccess:
        def no_client() -> None:
            raise AssertionError("no registry is needed here")

        return CacheAccess(
            snapshots=self.store.snapshots,
            client=no_client,  # type: ignore[arg-type]
            warn=self.warnings.append,
            directory=directory,
        )

    def read(self, snapshot: int, path: str) -> bytes | None:
        return MergedTree(self.store.snapshots.directories(snapshot)).read(path)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[[], Machine]]:
    made: list[Machine] = []

    def make() -> Machine:
        made.append(Machine(tmp_path / f"root{len(made)}"))
        return made[-1]

    yield make
    for machine in made:
        machine.store.close()


def result(name: str, snapshot: int, *aliases: str) -> ExportedResult:
    keys = (key(name), *map(key, aliases))
    return ExportedResult(keys=keys, canonical=key(name), snapshot=snapshot, description=name)


@pytest.mark.parametrize("form", ["", ",image-manifest=false", ",compression=zstd"])
def test_another_machine_finds_what_was_exported(
    machines: Callable[[], Machine], tmp_path: Path, form: str
) -> None:
    one, other = machines(), machines()
    base = one.snapshot(None, a="1")
    top = one.snapshot(base, b="2")
    write_exports(
        [parse_export(f"type=local,dest=cache{form}")],
        [result("base", base), result("top", top, "alias")],
        [top],
        one.access(tmp_path),
    )
    [backend] = open_imports([parse_import("type=local,src=cache")], other.access(tmp_path))
    found = backend.find(key("alias"))
    assert found is not None
    assert found.canonical == key("top")
    assert other.fetched == []
    assert found.snapshot is not None
    assert other.read(found.snapshot, "a") == b"1"
    assert other.read(found.snapshot, "b") == b"2"
    assert len(other.fetched) == 2
    assert backend.find(key("unknown")) is None
    assert other.warnings == []


def test_min_takes_the_layers_of_the_image_and_max_takes_all(
    machines: Callable[[], Machine],
) -> None:
    one = machines()
    base, stage = one.snapshot(None, a="1"), one.snapshot(None, s="1")
    top = one.snapshot(base, b="2")
    results = [result("base", base), result("stage", stage), result("top", top)]
    snapshots = one.store.snapshots
    assert [r.description for r in choose_results(results, [top], snapshots, "min")] == [
        "base",
        "top",
    ]
    assert len(choose_results(results, [top], snapshots, "max")) == 3


def test_equal_layers_are_exported_once(machines: Callable[[], Machine]) -> None:
    one = machines()
    base = one.snapshot(None, a="1")
    left, right = one.snapshot(base, b="2"), one.snapshot(base, c="2")
    export = collect(
        [result("left", left), result("right", right)], one.store.snapshots, Variant()
    )
    assert [layer.parent for layer in export.config.layers] == [-1, 0, 0]


def test_a_cache_that_is_not_there_is_said_once_and_finds_nothing(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    one = machines()
    [backend] = open_imports([parse_import("type=local,src=nowhere")], one.access(tmp_path))
    assert backend.find(key("a")) is None
    assert backend.find(key("b")) is None
    assert len(one.warnings) == 1
    assert "nowhere" in one.warnings[0]


@pytest.mark.parametrize(
    "damage",
    [
        b"not json",
        b"{}",
        b'{"layers":[{"parent":5,"annotations":{"diffID":"sha256:00"}}],"records":[]}',
        b'{"layers":[],"records":[{"digest":"sha256:zz","layers":[{"layer":0}]}]}',
        b'{"layers":[],"records":[{"digest":"'
        + key("a").encode()
        + b'","layers":[{"layer":7}]}]}',
        b'{"layers":null,"records":null}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_document_is_a_content_error(damage: bytes) -> None:
    with pytest.raises(ContentError):
        decode(damage)


def test_records_of_other_builders_are_passed_over() -> None:
    linked = {"digest": key("a"), "inputs": [[{"link": 0}]]}
    data = json.dumps({"layers": [], "records": [linked]}).encode()
    assert decode(data) == CacheConfig()


def test_a_document_reads_back_as_written(machines: Callable[[], Machine]) -> None:
    one = machines()
    export = collect([result("a", one.snapshot(None, a="1"))], one.store.snapshots, Variant())
    assert decode(encode(export.config)).layers == export.config.layers
    twice = merge([export.config, export.config])
    assert twice.layers == export.config.layers
    assert twice.results == export.config.results


def test_a_cache_travels_inside_of_an_image(machines: Callable[[], Machine]) -> None:
    one = machines()
    base = one.snapshot(None, a="1")
    top = one.snapshot(base, b="2")
    snapshots = one.store.snapshots
    field = inline_field([result("base", base), result("top", top)], top, snapshots)
    blobs = [snapshots.layer(item, Variant(compression="gzip")).descriptor for item in (base, top)]
    records = json.loads(base64.b64decode(field[INLINE_FIELD]))
    assert isinstance(records, list)  # BuildKit reads nothing else
    ids = [snapshots.diff_id(item) for item in (base, top)]
    read = read_inline({**field, "rootfs": {"diff_ids": ids}}, blobs)
    assert read is not None
    assert [layer.blob for layer in read.layers] == blobs
    assert {item.keys[0]: item.layer for item in read.results} == {key("base"): 0, key("top"): 1}


def test_caches_as_buildkit_writes_them_are_read_and_hold_nothing_for_us() -> None:
    records = [
        {"layers": [{"layer": 1, "createdAt": "2026-01-01T00:00:00.5Z"}], "digest": key("1")},
        {"digest": key("2"), "inputs": [[{"link": 0}]]},
    ]
    inside = base64.b64encode(json.dumps(records).encode()).decode()
    image = {INLINE_FIELD: inside, "rootfs": {"diff_ids": [key("a"), key("b")]}}
    blob = Descriptor(media_type=MediaType.OCI_LAYER_GZIP, digest=key("blob"), size=1)
    read = read_inline(image, [blob, blob])
    assert read is not None
    assert [item.keys for item in read.results] == [(key("1"),)]
    layers = [{"blob": key("blob"), "parent": -1}, {"blob": key("blob")}]
    document = json.dumps({"layers": layers, "records": records}).encode()
    assert decode(document).results == ()


def test_an_image_without_a_cache_has_none() -> None:
    assert read_inline({"config": {}}, []) is None


def test_an_inline_cache_cannot_name_more_layers_than_its_image() -> None:
    layer = {"parent": -1, "annotations": {"diffID": key("x")}}
    document = json.dumps({"layers": [layer], "records": []}).encode()
    with pytest.raises(ContentError):
        read_inline({INLINE_FIELD: base64.b64encode(document).decode()}, [])


def test_reset_drops_what_no_cache_needs(machines: Callable[[], Machine], tmp_path: Path) -> None:
    one = machines()
    first, second = one.snapshot(None, a="1"), one.snapshot(None, b="2")
    access = one.access(tmp_path)
    option = "type=local,dest=cache"
    write_exports([parse_export(option + ",tag=a")], [result("1", first)], [first], access)
    write_exports([parse_export(option + ",tag=b")], [result("2", second)], [second], access)
    assert len(os.listdir(tmp_path / "cache/blobs/sha256")) == 6
    again = parse_export(option + ",tag=b,reset=true")
    write_exports([again], [result("3", second)], [second], access)
    assert len(os.listdir(tmp_path / "cache/blobs/sha256")) == 6  # the other tag keeps its own
    for tag, name in (("a", "1"), ("b", "3")):
        asked = parse_import(f"type=local,src=cache,tag={tag}")
        [backend] = open_imports([asked], access)
        assert backend.find(key(name)) is not None


def test_reset_sweeps_nothing_while_another_export_is_under_way(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    one = machines()
    snapshot = one.snapshot(None, a="1")
    access = one.access(tmp_path)
    export = parse_export("type=local,dest=cache,reset=true")
    write_exports([export], [result("1", snapshot)], [snapshot], access)
    stray = tmp_path / "cache/blobs/sha256" / ("0" * 64)
    stray.write_text("not named yet")
    other = FileLock(tmp_path / "cache/oci-layout", shared=True)
    with other:
        write_exports([export], [result("1", snapshot)], [snapshot], access)
        assert stray.exists()
    write_exports([export], [result("1", snapshot)], [snapshot], access)
    assert not stray.exists()


def test_a_cache_of_dockers_media_types_is_a_list_of_them(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    one, other = machines(), machines()
    snapshot = one.snapshot(None, a="1")
    option = parse_export("type=local,dest=cache,oci-mediatypes=false")
    [written] = write_exports([option], [result("1", snapshot)], [snapshot], one.access(tmp_path))
    path = tmp_path / "cache/blobs/sha256" / written.digest.partition(":")[2]
    document = json.loads(path.read_bytes())
    assert document["mediaType"] == MediaType.DOCKER_LIST
    kinds = {item["mediaType"] for item in document["manifests"]}
    assert kinds == {MediaType.DOCKER_LAYER_GZIP, CONFIG_TYPE}
    [backend] = open_imports([parse_import("type=local,src=cache")], other.access(tmp_path))
    found = backend.find(key("1"))
    assert found is not None
    assert found.snapshot is not None
    assert other.read(found.snapshot, "a") == b"1"


def test_a_failed_export_is_an_error_unless_told_to_ignore_it(
    machines: Callable[[], Machine], tmp_path: Path
) -> None:
    one = machines()
    (tmp_path / "file").write_text("in the way")
    snapshot = one.snapshot(None, a="1")
    access = one.access(tmp_path)
    option = "type=local,dest=file/cache"
    said = r"^cannot export the cache local:file/cache: .*/file/cache/.*: not a directory$"
    with pytest.raises(ContentError, match=said):
        write_exports([parse_export(option)], [result("1", snapshot)], [snapshot], access)
    ignoring = parse_export(option + ",ignore-error=true")
    assert write_exports([ignoring], [result("1", snapshot)], [snapshot], access) == []
    assert [re.search(said, warning) is not None for warning in one.warnings] == [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=local", "needs dest="),
        ("type=registry", "needs ref="),
        ("type=nope,ref=x", "unknown cache type 'nope'"),
        ("type=local,dest=x,mod=max", "unknown attribute 'mod'"),
        ("type=local,dest=x,mode=most", "invalid mode"),
        ("type=local,dest=x,compression=lzma", "invalid compression"),
        ("type=local,dest=x,reset=maybe", "expected true or false"),
        ("type=local,dest", "expected name=value"),
        ("type=local,dest=x,dest=y", "dest= is given twice"),
        ("type=local,dest=x,compression-level=10", "level of gzip must be in 0-9"),
        ("type=registry,ref=x@sha256:a", "invalid reference"),
        ("type=local,dest=x,oci-mediatypes=false,image-manifest=true", "needs oci-mediatypes"),
        ("type=local,dest=x,oci-mediatypes=false,compression=zstd", "needs oci-mediatypes"),
        ("type=s3,bucket=b,region=r,retry_max_attempts=x", "retry_max_attempts"),
    ],
)
def test_a_wrong_export_option_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_export(text)


def test_a_bare_name_means_a_registry() -> None:
    assert parse_import("example.com/cache:main").text("ref") == "example.com/cache:main"
    assert parse_export("example.com/cache").kind == "registry"
