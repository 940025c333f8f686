"""Every client of a test is closed at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.registries import close_clients


@pytest.fixture(autouse=True)
def _closed_clients() -> Iterator[None]:
    yield
    close_clients()
