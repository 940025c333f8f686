from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.platforms import Platform
from buildkit_py.store import Store, open_store

HOST = Platform(os="linux", architecture="amd64")


@pytest.fixture
def store(state_root: Path) -> Iterator[Store]:
    with open_store(state_root, host=HOST) as opened:
        yield opened


@pytest.fixture
def grow(store: Store) -> Callable[..., int]:
    """Commit a snapshot with some files: `grow(parent, {"a": "text"})`."""

    def make(parent: int | None, files: dict[str, str], **facts: str) -> int:
        with store.snapshots.prepare(parent) as active:
            for name, text in files.items():
                path = active.upper / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            return store.snapshots.commit(active, **facts).id

    return make
