"""A store for what is pulled; every client of a test is closed at its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.store.content import ContentStore
from buildkit_py.store.database import Database, open_database
from tests.registries import close_clients


@pytest.fixture(autouse=True)
def _closed_clients() -> Iterator[None]:
    yield
    close_clients()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with open_database(tmp_path / "state") as db:
        yield db


@pytest.fixture
def content(db: Database) -> ContentStore:
    return ContentStore(db.paths, db)
