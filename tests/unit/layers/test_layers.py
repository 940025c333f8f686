"""Layers out and in: `write_layer`, `apply_layer`, whiteouts in both directions, hostile tars."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.digest import sha256
from buildkit_py.errors import CorruptArchive, StoreError
from buildkit_py.layers.apply import AppliedLayer, apply_layer
from buildkit_py.layers.diff import write_layer
from buildkit_py.layers.tar import (
    CHARACTER,
    DIRECTORY,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    LayerWriter,
    TarEntry,
)
from buildkit_py.layers.tar_reader import LayerReader, TarLimits
from buildkit_py.layers.whiteout import default_opaque_xattr
from buildkit_py.store.trash import remove_tree
from tests.trees import Hard, Link, Special, With, contents, make_tree, read_stack

WHITEOUT = Special(stat.S_IFCHR)
OPAQUE = default_opaque_xattr()


def entries(upper: Path, **options: Any) -> list[TarEntry]:
    out = io.BytesIO()
    write_layer(upper, out, **options)
    return list(LayerReader(io.BytesIO(out.getvalue())))


def names(upper: Path) -> list[bytes]:
    return [entry.name for entry in entries(upper)]


def layer(*members: tuple[Any, ...]) -> bytes:
    """A tar of (name, kind, content or link) members."""
    out = io.BytesIO()
    writer = LayerWriter(out)
    for name, kind, value in members:
        if kind == REGULAR:
            writer.add(TarEntry(name=name, size=len(value)), value)
        else:
            mode = 0o755 if kind == DIRECTORY else 0o777
            writer.add(TarEntry(name=name, kind=kind, link=value, mode=mode))
    writer.finish()
    return out.getvalue()


def apply(place: Path, data: bytes, name: str = "layer", **options: Any) -> AppliedLayer:
    (place / name).mkdir()
    return apply_layer(io.BytesIO(data), place / name, **options)


def file(name: bytes, content: bytes = b"x") -> tuple[bytes, bytes, bytes]:
    return name, REGULAR, content


# ------------------------------------------------------------------ writing
def test_a_layer_lists_directories_before_what_they_hold_and_not_its_root(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"b/x": "1", "b/c/y": "2", "a": "3", "b.txt": "4"})
    assert names(tmp_path / "u") == [b"a", b"b.txt", b"b/", b"b/x", b"b/c/", b"b/c/y"]


def test_whiteouts_and_opaque_marks_come_first_in_their_directory(tmp_path: Path) -> None:
    make_tree(
        tmp_path / "u",
        {"d/": With(None, xattrs=((OPAQUE, b"y"),)), "d/a": "1", "d/z": WHITEOUT},
    )
    found = entries(tmp_path / "u")
    assert [entry.name for entry in found] == [b"d/", b"d/.wh..wh..opq", b"d/.wh.z", b"d/a"]
    assert (found[2].mode, found[2].size, found[2].mtime_ns) == (0, 0, 0)
    assert found[0].xattrs == {}


def test_whiteouts_that_share_an_inode_are_no_hard_links(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"a": WHITEOUT, "b": Hard("a")})
    assert [(e.name, e.kind) for e in entries(tmp_path / "u")] == [
        (b".wh.a", REGULAR),
        (b".wh.b", REGULAR),
    ]


def test_hard_links_name_the_first_of_their_set_across_directories(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"z/one": "1", "a/two": Hard("z/one"), "a/three": Hard("z/one")})
    found = {entry.name: (entry.kind, entry.link) for entry in entries(tmp_path / "u")}
    assert found[b"a/three"] == (REGULAR, b"")
    assert found[b"a/two"] == (HARD_LINK, b"a/three")
    assert found[b"z/one"] == (HARD_LINK, b"a/three")


def test_sockets_belong_into_no_layer(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"s": Special(stat.S_IFSOCK), "f": "1"})
    assert names(tmp_path / "u") == [b"f"]


def test_times_can_be_clamped(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"old": With("1", mtime=5), "new": With("2", mtime=500)})
    found = {e.name: e.mtime_ns // 10**9 for e in entries(tmp_path / "u", clamp_mtime=100)}
    assert found == {b"old": 5, b"new": 100}


def test_only_attributes_that_belong_to_the_file_travel(tmp_path: Path) -> None:
    attributes = (("user.keep", b"1"), ("user.overlay.origin", b"2"))
    make_tree(tmp_path / "u", {"f": With("1", xattrs=attributes)})
    assert entries(tmp_path / "u")[0].xattrs == {"user.keep": b"1"}


@pytest.mark.root
def test_capabilities_survive_a_round_trip(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    make_tree(
        tmp_path / "u",
        {"ping": With("1", owner=(5, 6), xattrs=(("security.capability", capability),))},
    )
    out = io.BytesIO()
    write_layer(tmp_path / "u", out)
    apply(tmp_path, out.getvalue())
    assert os.getxattr(tmp_path / "layer/ping", "security.capability") == capability
    assert (tmp_path / "layer/ping").stat().st_uid == 5


def test_a_name_that_means_a_whiteout_cannot_be_stored(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"d/.wh.x": "1"})
    with pytest.raises(StoreError, match=r"/d/\.wh\.x cannot be stored"):
        write_layer(tmp_path / "u")


def test_hashing_alone_gives_what_writing_gives(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"big": b"ab" * (3 << 20), "d/small": "1", "empty": ""})
    out = io.BytesIO()
    made = write_layer(tmp_path / "u", out)
    assert write_layer(tmp_path / "u") == made
    assert made.diff_id == sha256(out.getvalue())
    assert made.size == len(out.getvalue())
    assert made.content_size == (6 << 20) + 1


def test_a_failing_sink_ends_the_writing(tmp_path: Path) -> None:
    make_tree(tmp_path / "u", {"big": bytes(12 << 20)})

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_layer(tmp_path / "u", Full())


# ------------------------------------------------------------------ applying
def test_a_tar_becomes_an_upper_directory(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"gone": "1", "d/old": "2", "e/old": "3"})
    data = layer(
        file(b".wh.gone", b""),
        (b"d/", DIRECTORY, b""),
        file(b"d/.wh..wh..opq", b""),
        file(b"d/new"),
        (b"l", SYMLINK, b"d"),
        (b"h", HARD_LINK, b"d/new"),
    )
    applied = apply(tmp_path, data)
    assert contents(base, tmp_path / "layer") == {
        "/d/new": "x",
        "/e/old": "3",
        "/h": "x",
        "/l": "-> d",
    }
    assert (applied.diff_id, applied.size) == (sha256(data), len(data))


def test_a_whiteout_concerns_lower_layers_only_whatever_the_order(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"d/low": "1", "f": "1", "g": "1"})
    data = layer(file(b"d/new"), file(b".wh.d", b""), file(b".wh.f", b""), file(b"f", b"2"))
    apply(tmp_path, data)
    assert contents(base, tmp_path / "layer") == {"/d/new": "x", "/f": "2", "/g": "1"}


def test_an_opaque_mark_behind_its_directory_keeps_the_layers_own_files(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"d/low": "1", "d/s/low": "1"})
    data = layer(file(b"d/s/a"), file(b"d/b"), file(b"d/.wh..wh..opq", b""))
    apply(tmp_path, data, lowers=[base])
    assert contents(base, tmp_path / "layer") == {"/d/s/a": "x", "/d/b": "x"}


@pytest.mark.parametrize(
    ("before", "member", "after"),
    [
        ({"x/a": "1"}, file(b"x"), {"/x": "x"}),
        ({"x": "1"}, file(b"x/a"), {"/x/a": "x"}),
        ({"x": Link("y"), "y/z": "1"}, (b"x/", DIRECTORY, b""), {"/y/z": "1"}),
        ({"x/a": "1"}, (b"x", SYMLINK, b"y"), {"/x": "-> y"}),
    ],
)
def test_types_replace_each_other(
    tmp_path: Path, before: dict[str, Any], member: Any, after: dict[str, str]
) -> None:
    base = make_tree(tmp_path / "base", before)
    if member[0] == b"x/a":
        apply(tmp_path, layer((b"x/", DIRECTORY, b""), member), lowers=[base])
    else:
        apply(tmp_path, layer(member), lowers=[base])
    assert contents(base, tmp_path / "layer") == after


def test_links_of_lower_layers_are_followed_on_the_way(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"usr/bin/a": "1", "bin": Link("usr/bin")})
    apply(tmp_path, layer(file(b"bin/b")), lowers=[base])
    assert contents(base, tmp_path / "layer")["/usr/bin/b"] == "x"
    assert contents(base, tmp_path / "layer")["/bin"] == "-> usr/bin"


def test_a_hard_link_to_a_file_of_a_lower_layer_brings_it_up(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"d/f": With("low", mode=0o711)})
    apply(tmp_path, layer((b"h", HARD_LINK, b"d/f")), lowers=[base])
    assert (tmp_path / "layer/h").samefile(tmp_path / "layer/d/f")
    assert stat.S_IMODE((tmp_path / "layer/h").stat().st_mode) == 0o711


def test_later_duplicates_win(tmp_path: Path) -> None:
    data = layer(file(b"f", b"1"), file(b"f", b"2"), (b"d/", DIRECTORY, b""), file(b"d", b"3"))
    apply(tmp_path, data)
    assert contents(tmp_path / "layer") == {"/f": "2", "/d": "3"}


def test_aufs_leftovers_are_skipped(tmp_path: Path) -> None:
    apply(tmp_path, layer(file(b".wh..wh.aufs"), file(b".wh..wh.plnk/1"), file(b"f")))
    assert "/f" in contents(tmp_path / "layer")
    assert not any(".aufs" in name for name in contents(tmp_path / "layer"))


def test_the_root_entry_sets_the_roots_attributes(tmp_path: Path) -> None:
    apply(tmp_path, layer((b"./", DIRECTORY, b""), file(b"./f")))
    assert stat.S_IMODE((tmp_path / "layer").stat().st_mode) == 0o755
    assert contents(tmp_path / "layer") == {"/f": "x"}


def test_directories_keep_their_times_although_files_follow(tmp_path: Path) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.add(TarEntry(name=b"d/", kind=DIRECTORY, mode=0o755, mtime_ns=5 * 10**9))
    writer.add(TarEntry(name=b"d/f"))
    writer.finish()
    apply(tmp_path, out.getvalue())
    assert (tmp_path / "layer/d").stat().st_mtime == 5


# ------------------------------------------------------------------ hostile tars
def outside(place: Path) -> dict[str, Any]:
    return {k: v for k, v in read_stack(place).items() if not k.startswith("/layer")}


@pytest.mark.parametrize(
    "members",
    [
        [file(b"/etc/evil"), file(b"//x")],
        [file(b"../../evil"), file(b"a/../../../evil")],
        [(b"l", SYMLINK, b"/"), file(b"l/evil")],
        [(b"l", SYMLINK, b"../.."), file(b"l/evil"), file(b"l/victim")],
        [(b"a", SYMLINK, b"b"), (b"b", SYMLINK, b".."), file(b"a/../evil")],
        [file(b"d/f"), (b"d", SYMLINK, b"/"), file(b"d/evil")],
        [file(b"d/e/f"), (b"d", SYMLINK, b".."), file(b"d/e/g"), file(b"d/victim")],
        [(b"victim", SYMLINK, b"../victim"), file(b"victim", b"changed")],
        [file(b"d/.wh...", b"")],
        [(b"l", SYMLINK, b".."), file(b"l/.wh.victim", b"")],
        [(b"l", SYMLINK, b".."), (b"l/", DIRECTORY, b"")],
        [(b"l", SYMLINK, b".."), file(b"l/.wh..wh..opq", b"")],
    ],
    ids=range(12),
)
def test_no_tar_writes_outside_its_root(tmp_path: Path, members: list[Any]) -> None:
    make_tree(tmp_path, {"victim": "precious", "etc/": None})
    before = outside(tmp_path)
    with contextlib.suppress(CorruptArchive):
        apply(tmp_path, layer(*members))
    assert outside(tmp_path) == before


@pytest.mark.parametrize("target", [b"../victim", b"/../../victim", b"l/victim", b"missing"])
def test_hard_links_do_not_reach_outside(tmp_path: Path, target: bytes) -> None:
    make_tree(tmp_path, {"victim": "precious"})
    with pytest.raises(CorruptArchive, match="no file of the archive"):
        apply(tmp_path, layer((b"l", SYMLINK, b".."), (b"h", HARD_LINK, target)))
    assert (tmp_path / "victim").stat().st_nlink == 1


def test_a_device_that_would_be_a_whiteout_is_left_out(tmp_path: Path) -> None:
    base = make_tree(tmp_path / "base", {"f": "1"})
    apply(tmp_path, layer((b"f", CHARACTER, b"")))
    assert contents(base, tmp_path / "layer") == {"/f": "1"}


def test_a_name_too_long_for_the_file_system_is_the_archives_fault(tmp_path: Path) -> None:
    with pytest.raises(CorruptArchive, match="File name too long"):
        apply(tmp_path, layer(file(b"n" * 300)))


@pytest.mark.parametrize(
    "members",
    [
        [file(b"n/" * 1500 + b"f")],
        [
            (b"n/" * 700, DIRECTORY, b""),
            (b"l", SYMLINK, b"n/" * 700),
            file(b"l/" + b"m/" * 700 + b"f"),
        ],
    ],
    ids=["written", "by a link"],
)
def test_a_depth_that_no_program_could_walk_is_refused(tmp_path: Path, members: list[Any]) -> None:
    with pytest.raises(CorruptArchive, match="more than 1024 directories"):
        apply(tmp_path, layer(*members))


def test_a_deep_tree_can_be_replaced_and_read_back(tmp_path: Path) -> None:
    deep = layer(file(b"n/" * 1000 + b"f"))
    apply(tmp_path, deep)
    out = io.BytesIO()
    write_layer(tmp_path / "layer", out)
    assert apply(tmp_path, out.getvalue(), "again").content_size == 1
    replaced = layer(file(b"n/" * 1000 + b"f"), file(b"n"))
    apply(tmp_path, replaced, "replaced")
    assert os.listdir(tmp_path / "replaced") == ["n"]
    here = os.open(tmp_path / "layer", os.O_RDONLY)
    for _ in range(1100):
        with contextlib.suppress(FileExistsError):
            os.mkdir("n", dir_fd=here)
        inside = os.open("n", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inside
    os.close(here)
    with pytest.raises(StoreError, match="more than 1024 directories"):
        write_layer(tmp_path / "layer")
    for name in ("layer", "again", "replaced"):
        remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_an_attribute_too_large_for_the_kernel_is_the_archives_fault(tmp_path: Path) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.add(TarEntry(name=b"f", xattrs={"user.large": bytes(200_000)}))
    writer.finish()
    with pytest.raises(CorruptArchive, match="f: an extended attribute is too large"):
        apply(tmp_path, out.getvalue())


def test_a_bomb_meets_the_limit(tmp_path: Path) -> None:
    with pytest.raises(CorruptArchive, match="more than 1000 bytes"):
        apply(tmp_path, layer(file(b"f", bytes(2000))), limits=TarLimits(total_size=1000))


def test_what_other_tools_wrote_is_hashed_to_its_last_byte(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:  # tarfile pads to 10 kB
        tar.addfile(tarfile.TarInfo("f"))
    applied = apply(tmp_path, out.getvalue())
    assert (applied.diff_id, applied.size) == (sha256(out.getvalue()), len(out.getvalue()))
