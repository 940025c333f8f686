"""The rig: a store, an executor and a small image, on the tests' tmpfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.harness import Rig


@pytest.fixture
def rig(tmp_path: Path, busybox_program: Path) -> Iterator[Rig]:
    with Rig(tmp_path / "state", busybox_program) as made:
        yield made
