from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from buildkit_py.layers.diff import write_layer
from buildkit_py.layers.members import Members, load_members, save_members

COUNT = 250
SETTLED = 1_000_000_000


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer with many plain files and some that are not."""
    layer = tmp_path / "old" / "fs"
    (layer / "d").mkdir(parents=True)
    for number in range(COUNT):
        (layer / "d" / f"f{number}").write_bytes(b"x" * number)
    (layer / ("long" * 30)).write_text("needs a PAX header or a prefix")
    (layer / "module.pyc").write_bytes(bytes(16) + b"code")
    (layer / "link").symlink_to("d")
    (layer / "hard").hardlink_to(layer / "d" / "f1")
    return layer


def written(layer: Path) -> Members:
    members = Members()
    write_layer(layer, clamp_mtime=SETTLED, members=members)
    return members


def linked(layer: Path, name: str = "new") -> Path:
    """The same files again, as a copy that found nothing changed makes them."""
    new = layer.parent.parent / name / "fs"
    new.parent.mkdir()
    subprocess.run(["cp", "-al", layer, new], check=True)
    return new


def test_plain_files_are_remembered_and_no_others(layer: Path) -> None:
    made = written(layer).made
    assert len(made) == COUNT
    assert b"d/f7" in made
    assert not made.keys() & {b"module.pyc", b"link", b"long" * 30}


def test_a_file_that_is_remembered_is_only_read(
    layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_members(layer, SETTLED, written(layer))
    new = linked(layer)
    members = load_members(layer, SETTLED)
    assert len(members.known) == COUNT
    wanted = write_layer(new, clamp_mtime=SETTLED)
    looked: list[int] = []

    def look(_: bytes | int) -> dict[str, bytes]:
        looked.append(1)
        return {}

    monkeypatch.setattr("buildkit_py.layers.diff.layer_xattrs", look)
    assert write_layer(new, clamp_mtime=SETTLED, members=members) == wanted
    assert members.made == members.known
    assert len(looked) < 10


@pytest.mark.parametrize("kind", ["another file", "another name", "a hard link before it"])
def test_what_is_not_the_same_file_is_looked_at(layer: Path, kind: str) -> None:
    members = written(layer)
    new = linked(layer)
    file = new / "d" / "f9"
    if kind == "another file":
        file.unlink()
        file.write_text("content of another length")
        file.chmod(0o600)
    elif kind == "another name":
        file.rename(new / "d" / "g9")
    else:
        (new / "a").hardlink_to(file)  # now this one is the file, and d/f9 the link
    known = Members(members.made)
    assert write_layer(new, clamp_mtime=SETTLED, members=known) == write_layer(
        new, clamp_mtime=SETTLED
    )


def test_another_clamp_finds_nothing(layer: Path) -> None:
    save_members(layer, SETTLED, written(layer))
    assert load_members(layer, SETTLED).known
    assert not load_members(layer, SETTLED + 1).known
    assert not load_members(layer, None).known
    assert not load_members(None, SETTLED).known


@pytest.mark.parametrize("damage", [b"", b"\0" * 5000, b"cut", b"flipped"])
def test_a_damaged_memory_is_forgotten(layer: Path, damage: bytes) -> None:
    save_members(layer, SETTLED, written(layer))
    file = layer.with_name("members")
    data = bytearray(file.read_bytes())
    if damage == b"cut":
        file.write_bytes(data[:-100])
    elif damage == b"flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(damage)
    assert not load_members(layer, SETTLED).known


def test_a_store_that_was_copied_finds_nothing(layer: Path, tmp_path: Path) -> None:
    save_members(layer, SETTLED, written(layer))
    subprocess.run(["cp", "-a", layer.parent, tmp_path / "restored"], check=True)
    assert load_members(layer, SETTLED).known
    assert not load_members(tmp_path / "restored" / "fs", SETTLED).known


def test_few_files_are_not_worth_it(tmp_path: Path) -> None:
    layer = tmp_path / "fs"
    layer.mkdir()
    (layer / "file").touch()
    save_members(layer, None, written(layer))
    assert [path.name for path in tmp_path.iterdir()] == ["fs"]
