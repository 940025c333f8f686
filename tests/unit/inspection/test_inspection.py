from __future__ import annotations

from collections.abc import Mapping

from buildkit_py.inspection.differ import config_changes, file_changes
from buildkit_py.inspection.entries import Entry, LayerContent, merged
from buildkit_py.inspection.packages import _apk, _dpkg, _npm, _python
from buildkit_py.inspection.waste import size_tree, touches, wasted
from buildkit_py.oci.config import ContainerConfig, ImageConfig
from buildkit_py.platforms import Platform


def entry(size: int = 0, *, kind: bytes = b"0", mode: int = 0o644, digest: str = "") -> Entry:
    return Entry(
        kind=kind,
        mode=mode,
        uid=0,
        gid=0,
        size=size,
        mtime=0,
        link=b"",
        device=(0, 0),
        xattrs={},
        digest=digest,
    )


def layer(
    number: int,
    entries: Mapping[bytes, Entry],
    hidden: frozenset[bytes] = frozenset(),
    emptied: frozenset[bytes] = frozenset(),
) -> LayerContent:
    return LayerContent(
        snapshot=number,
        created_by=f"step {number}",
        entries=entries,
        hidden=hidden,
        emptied=emptied,
    )


FOLDER = entry(kind=b"5", mode=0o755)
STACK = [
    layer(0, {b"d": FOLDER, b"d/a": entry(10), b"d/b": entry(20), b"keep": entry(5)}),
    layer(1, {b"d": FOLDER, b"d/a": entry(11)}),
    layer(2, {}, hidden=frozenset({b"d"})),
    layer(3, {b"d": FOLDER, b"d/a": entry(1)}),
]


def test_what_is_seen_comes_from_the_last_layer_that_wrote_it() -> None:
    seen = merged(STACK)
    assert {path: number for path, (_, number) in seen.items()} == {b"keep": 0, b"d": 3, b"d/a": 3}


def test_overwritten_and_deleted_files_are_waste() -> None:
    found = [(item.path, item.size, item.layer, item.by, item.deleted) for item in wasted(STACK)]
    assert found == [
        (b"d/b", 20, 0, 2, True),
        (b"d/a", 11, 1, 2, True),
        (b"d/a", 10, 0, 1, False),
    ]


def test_blame_tells_every_writer_and_the_deletion() -> None:
    found = [(item.layer.snapshot, item.entry is None) for item in touches(STACK, b"d/a")]
    assert found == [(0, False), (1, False), (2, True), (3, False)]


def test_an_opaque_directory_hides_what_lies_below_it() -> None:
    stack = [STACK[0], layer(1, {b"d": FOLDER}, emptied=frozenset({b"d"}))]
    assert sorted(merged(stack)) == [b"d", b"keep"]


def test_a_file_in_place_of_a_directory_hides_its_files() -> None:
    stack = [STACK[0], layer(1, {b"d": entry(1)})]
    assert sorted(merged(stack)) == [b"d", b"keep"]


def test_sizes_are_those_of_everything_below() -> None:
    assert size_tree(STACK[:1], 1) == {b"/": 35, b"/d": 30}


def test_changes_of_files_say_what_changed() -> None:
    old = {b"a": entry(1, digest="x"), b"b": entry(), b"c": entry()}
    new = {b"a": entry(2, digest="y"), b"b": entry(mode=0o600), b"d": entry()}
    assert [str(change) for change in file_changes(old, new)] == [
        "C /a  (content, 1 → 2 bytes)",
        "C /b  (mode 644 → 600)",
        "D /c",
        "A /d",
    ]


def test_changes_of_configs_are_named_by_field() -> None:
    def image(**values: object) -> ImageConfig:
        return ImageConfig(platform=Platform(), config=ContainerConfig(**values))  # type: ignore[arg-type]

    old = image(env=("A=1", "B=2"), user="root")
    new = image(env=("A=1", "B=3"), working_dir="/x")
    assert [str(change) for change in config_changes(old, new)] == [
        "C config.Env.B  (2 → 3)",
        "D config.User  (root)",
        "A config.WorkingDir  (/x)",
    ]


def test_packages_are_read_from_their_databases() -> None:
    dpkg = b"Package: a\nStatus: install ok installed\nVersion: 1-2\nArchitecture: all\n\n"
    dpkg += b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    assert [(item.name, item.version) for item in _dpkg(dpkg)] == [("a", "1-2")]
    apk = b"C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\n\nP:b\nV:2\n"
    assert [item.name for item in _apk(apk)] == ["musl", "b"]
    assert [item.version for item in _python(b"Name: x\nVersion: 3\n\nVersion: 4\n")] == ["3"]
    assert [item.license for item in _npm(b'{"name":"n","version":"1","license":"MIT"}')] == [
        "MIT"
    ]
    assert list(_npm(b"[1")) == []
