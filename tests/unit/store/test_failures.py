"""What the store says when its database cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_py.errors import StoreError
from buildkit_py.store.database import open_database


def test_a_path_that_is_too_long_for_the_database_is_named_as_the_reason(tmp_path: Path) -> None:
    root = tmp_path.joinpath(*["long" * 50] * 3)
    with pytest.raises(
        StoreError, match="its path is longer than the 504 bytes that SQLite takes"
    ):
        open_database(root)
