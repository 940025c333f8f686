from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildkit_py.cache.local import LocalCache
from buildkit_py.graph import Vertex
from buildkit_py.progress.events import Event
from buildkit_py.solver.solution import Solution
from buildkit_py.solver.solver import Solver, solver_settings
from buildkit_py.store import Store, open_store
from tests.fake_worker import FakeWorker


@pytest.fixture
def store(state_root: Path) -> Iterator[Store]:
    with open_store(state_root) as opened:
        yield opened


@pytest.fixture
def cache(store: Store) -> LocalCache:
    return LocalCache(store.db)


@pytest.fixture
def worker(store: Store) -> FakeWorker:
    return FakeWorker(store, images={"debian": {"etc/passwd": "root"}})


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def solve(
    worker: FakeWorker, cache: LocalCache, store: Store, events: list[Event]
) -> Callable[..., Solution]:
    """Solve for some roots, with everything recorded so far; forgets earlier counts."""

    def solve(*roots: Vertex, **settings: object) -> Solution:
        worker.runs.clear()
        worker.order.clear()
        worker.digested.clear()
        events.clear()
        chosen = solver_settings(locks=store.paths.locks, **settings)  # type: ignore[arg-type]
        return Solver(worker, cache, events.append, settings=chosen).solve(roots)

    return solve
