from __future__ import annotations

import os
from pathlib import Path

from buildkit_py.store import Store
from buildkit_py.store.trash import discard


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
