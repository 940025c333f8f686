from __future__ import annotations

from collections.abc import Callable

import pytest

from buildkit_py.errors import ContentError, NoSuchImage, UsageError
from buildkit_py.oci.config import seconds_of
from buildkit_py.oci.reference import parse_reference
from buildkit_py.platforms import Platform
from buildkit_py.store import Store
from buildkit_py.store.images import NewImage, StoredImage
from tests.unit.store.samples import image_config

Grow = Callable[..., int]


def add(store: Store, grow: Grow, *names: str, text: str = "x", **more: object) -> StoredImage:
    snapshot = grow(None, {"file": text})
    config = image_config([store.snapshots.diff_id(snapshot)], **more)
    return store.images.add(NewImage(config=config, snapshot=snapshot), names)


def test_an_image_is_found_by_name_id_and_prefix(store: Store, grow: Grow) -> None:
    image = add(store, grow, "app:1")
    digits = image.id.removeprefix("sha256:")
    for text in ("app:1", "docker.io/library/app:1", image.id, digits, digits[:12]):
        assert store.images.get(text).id == image.id
    assert store.images.get("app:1").config.config.cmd == ("sh",)


@pytest.mark.parametrize("text", ["nothing", "app:2", "deadbeef", "sha256:" + "0" * 64])
def test_an_absent_image_is_an_error(store: Store, grow: Grow, text: str) -> None:
    add(store, grow, "app:1")
    with pytest.raises(NoSuchImage, match="no such image"):
        store.images.get(text)


def test_a_name_moves_and_leaves_the_old_image_without_one(store: Store, grow: Grow) -> None:
    old = add(store, grow, "app", text="old")
    new = add(store, grow, "app", text="new")
    assert store.images.get("app").id == new.id
    names = {image.id: image.names for image in store.images.list()}
    assert names[old.id] == ()
    assert [name.familiar for name in names[new.id]] == ["app:latest"]


def test_of_several_platforms_the_hosts_is_chosen_unless_asked(store: Store, grow: Grow) -> None:
    snapshot = grow(None, {"file": "x"})
    diff_ids = [store.snapshots.diff_id(snapshot)]
    images = [
        NewImage(config=image_config(diff_ids, architecture=name), snapshot=snapshot)
        for name in ("arm64", "amd64", "s390x")
    ]
    store.images.add_all(images, ["app"])
    assert store.images.get("app").platform.architecture == "amd64"
    assert store.images.get("app", Platform(architecture="s390x")).platform.architecture == "s390x"
    with pytest.raises(NoSuchImage, match="linux/riscv64"):
        store.images.get("app", Platform(architecture="riscv64"))
    store.images.tag("app", "other:1")
    assert store.images.get("other:1", Platform(architecture="arm64")).names[0].tag == "latest"


def test_a_config_that_does_not_fit_its_layers_is_refused(store: Store, grow: Grow) -> None:
    snapshot = grow(None, {"file": "x"})
    with pytest.raises(ContentError, match="names 0 layers"):
        store.images.add(NewImage(config=image_config([]), snapshot=snapshot))
    assert store.images.list() == ()


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b'{"config": 3, "history": [1]'])
def test_a_malformed_config_is_refused(store: Store, config: bytes) -> None:
    with pytest.raises(ContentError):
        store.images.add(NewImage(config=config, snapshot=None))


def test_an_image_is_found_by_the_digest_of_its_registry(store: Store, grow: Grow) -> None:
    image = add(store, grow, "app:1")
    name = parse_reference("example.com/app@sha256:" + "a" * 64)
    store.images.note_digest(name, image.id)
    assert store.images.get(name).id == image.id
    assert store.images.list()[0].digests == (name,)


def test_lists_show_sizes_and_newest_first(store: Store, grow: Grow) -> None:
    old = add(store, grow, "old", text="12345", created="2020-01-01T00:00:00Z")
    new = add(store, grow, "new", text="1234567", created="2021-01-01T00:00:00.123456789Z")
    assert [(i.id, i.size) for i in store.images.list()] == [(new.id, 7), (old.id, 5)]


def test_tag_refuses_a_digest_and_an_absent_source(store: Store, grow: Grow) -> None:
    add(store, grow, "app")
    with pytest.raises(UsageError, match="digest"):
        store.images.tag("app", "app@sha256:" + "a" * 64)
    with pytest.raises(NoSuchImage):
        store.images.tag("nothing", "app:2")


def test_an_ambiguous_prefix_asks_for_more_digits(store: Store, grow: Grow) -> None:
    for number in range(40):  # 16 first digits: two of 40 share one
        add(store, grow, f"app:{number}", author=str(number))
    ids = [image.id.removeprefix("sha256:") for image in store.images.list()]
    shared = next(i[0] for i in ids if sum(other[0] == i[0] for other in ids) > 1)
    with pytest.raises(NoSuchImage, match="ambiguous"):
        store.images.get(f"sha256:{shared}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T00:00:10.5+00:00", 10.5),
        ("1970-01-01T01:00:10.123456789+01:00", 10.123456),
        ("yesterday", None),
        (None, None),
    ],
)
def test_times_of_any_precision_are_read(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == (None if seconds is None else pytest.approx(seconds))
