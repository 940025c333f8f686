from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildkit_py.store import Store
from buildkit_py.store.trash import discard, remove_unmounted


def test_a_tree_too_deep_for_one_path_is_deleted(store: Store, tmp_path: Path) -> None:
    tree = store.paths.trash.parent / "deep"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inside = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inside
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    discard(store.paths, tree)
    assert not tree.exists()
    assert list(store.paths.trash.iterdir()) == []


@pytest.mark.parametrize("left", ["", "work/incompat/volatile/dirty", "index/other"])
def test_a_work_directory_goes_whatever_overlay_has_left_in_it(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "s1"
    (folder / "work/work").mkdir(parents=True)
    if left:
        file = folder / "work" / left
        file.parent.mkdir(parents=True)
        file.touch()
    remove_unmounted(folder)
    assert not folder.exists()
