from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from buildkit_py.cache.local import LocalCache
from buildkit_py.errors import BuildCancelled, CopyError, ExecError, SolveError, StoreError
from buildkit_py.graph import Vertex
from buildkit_py.progress.events import Event, VertexCached, VertexCompleted, VertexStarted
from buildkit_py.solver.ports import Result
from buildkit_py.solver.solution import Origin, Solution
from buildkit_py.solver.solver import Solver, solver_settings
from buildkit_py.store import Store
from tests.fake_worker import FakeWorker, context, copy, image, link, run, run_with

Solve = Callable[..., Solution]


def names(worker: FakeWorker) -> set[str]:
    return {name for name in worker.runs if not name.startswith("FROM")}


def test_an_unchanged_graph_runs_nothing(solve: Solve, worker: FakeWorker) -> None:
    root = run(run(image(), "one"), "two")
    first = solve(root)
    assert names(worker) == {"RUN one", "RUN two"}
    second = solve(run(run(image(), "one"), "two"))
    assert not worker.runs
    assert second[root.digest] == first[root.digest]


def test_below_a_hit_nothing_is_looked_at(solve: Solve, worker: FakeWorker) -> None:
    stage = run(image(), "compile")
    root = copy(image(), stage, "/compile")
    solve(root)
    solution = solve(root)
    assert not worker.runs
    assert not worker.digested
    assert solution.outcomes[root.digest].origin is Origin.CACHED
    assert solution.outcomes[stage.digest].origin is Origin.SKIPPED


def test_equal_vertices_run_once(solve: Solve, worker: FakeWorker) -> None:
    one = run(run(image(), "shared"), "left")
    other = run(run(image(), "shared"), "right")
    solve(one, other)
    assert worker.runs["RUN shared"] == 1


def test_inputs_run_before_their_users(solve: Solve, worker: FakeWorker) -> None:
    base = run(image(), "base")
    root = copy(run(base, "left"), run(base, "right"), "/right")
    solve(root)
    assert worker.order.index(base.digest) < worker.order.index(root.inputs[0].digest)  # type: ignore[union-attr]
    assert worker.order[-1] == root.digest


def test_a_changed_step_with_the_same_result_is_a_hit_above_a_copy(
    solve: Solve, worker: FakeWorker
) -> None:
    worker.effects = {"out": lambda _: "same"}
    before = copy(image(), run(run(image(), "v1"), "out"), "/out")
    after = run(before, "last")
    solve(after)
    changed = run(copy(image(), run(run(image(), "v2"), "out"), "/out"), "last")
    solve(changed)
    assert names(worker) == {"RUN v2", "RUN out"}


def test_after_a_hit_by_content_the_next_build_hits_by_definition(
    solve: Solve, worker: FakeWorker
) -> None:
    worker.effects = {"out": lambda _: "same"}
    solve(copy(image(), run(run(image(), "v1"), "out"), "/out"))
    changed = copy(image(), run(run(image(), "v2"), "out"), "/out")
    solve(changed)
    solution = solve(changed)
    assert solution.outcomes[changed.digest].origin is Origin.CACHED
    assert not worker.digested


def test_a_changed_context_file_misses_from_its_copy_on(solve: Solve, worker: FakeWorker) -> None:
    worker.contexts["context"] = {"src/a": "1", "README": "x"}
    root = run(copy(run(image(), "apt"), context(), "/src"), "make")
    solve(root)
    worker.contexts["context"]["src/a"] = "2"
    solve(root)
    assert names(worker) == {"COPY src /app", "RUN make"}


def test_an_unselected_context_file_changes_nothing(solve: Solve, worker: FakeWorker) -> None:
    worker.contexts["context"] = {"src/a": "1", "README": "x"}
    root = copy(image(), context(), "/src")
    solve(root)
    worker.contexts["context"]["README"] = "y"
    solve(root)
    assert not worker.runs


def test_a_mounted_context_counts_by_content(solve: Solve, worker: FakeWorker) -> None:
    worker.contexts["context"] = {"a": "1"}
    root = run_with(image(), "make", context())
    solve(root)
    solve(root)
    assert not worker.runs
    worker.contexts["context"]["a"] = "2"
    solve(root)
    assert names(worker) == {"RUN --mount make"}


def test_a_base_image_counts_by_digest(solve: Solve, worker: FakeWorker) -> None:
    solve(run(image(content="1"), "x"))
    solve(run(image(content="2"), "x"))
    assert names(worker) == {"RUN x"}


def test_a_linked_copy_is_independent_of_its_base(solve: Solve, worker: FakeWorker) -> None:
    worker.contexts["context"] = {"a": "1"}
    solve(link(image(content="1"), copy(None, context())))
    solve(link(image(content="2"), copy(None, context())))
    assert names(worker) == {"merge"}


def test_no_cache_runs_again_and_records_the_new_result(solve: Solve, worker: FakeWorker) -> None:
    solve(run(image(), "x"))
    again = solve(run(image(), "x", no_cache=True))
    assert names(worker) == {"RUN x"}
    found = solve(run(image(), "x"))
    root = run(image(), "x")
    assert not worker.runs
    assert found[root.digest] == again[root.digest]


def test_a_step_on_one_that_was_run_anew_is_not_found(solve: Solve, worker: FakeWorker) -> None:
    counter = iter(range(9))
    worker.effects = {"fetch": lambda _: str(next(counter))}
    solve(run(run(image(), "fetch"), "use"))
    solve(run(run(image(), "fetch", no_cache=True), "use"))
    assert names(worker) == {"RUN fetch", "RUN use"}


def test_a_copy_of_the_same_content_is_found_though_its_stage_was_run_anew(
    solve: Solve, worker: FakeWorker
) -> None:
    worker.effects = {"fetch": lambda _: "same"}
    solve(copy(image(), run(image(), "fetch"), "/fetch"))
    solve(copy(image(), run(image(), "fetch", no_cache=True), "/fetch"))
    assert names(worker) == {"RUN fetch"}


def test_a_record_whose_snapshot_is_gone_is_a_miss(
    solve: Solve, worker: FakeWorker, store: Store
) -> None:
    root = run(image(), "x")
    snapshot = solve(root)[root.digest].snapshot
    with store.db.transaction() as connection:
        connection.execute("DELETE FROM snapshots WHERE id = ?", (snapshot,))
    solve(root)
    assert names(worker) == {"RUN x"}


def test_a_missing_file_is_an_error_before_anything_runs(solve: Solve, worker: FakeWorker) -> None:
    worker.contexts["context"] = {"a": "1"}
    with pytest.raises(CopyError, match='"/nope": not found') as caught:
        solve(copy(run(image(), "slow"), context(), "/nope"))
    assert caught.value.vertex == "COPY nope /app"
    assert not worker.runs


def test_a_context_that_changes_under_a_copy_is_not_recorded(
    solve: Solve, worker: FakeWorker
) -> None:
    worker.contexts["context"] = {"a": "1"}
    root = copy(run(image(), "x"), context())
    real = FakeWorker.run

    def run_and_change(vertex: Vertex, *rest: object) -> object:
        result = real(worker, vertex, *rest)  # type: ignore[arg-type]
        if vertex.digest == root.digest:
            worker.contexts["context"]["a"] = "2"
        return result

    changing = _With(worker, run_and_change)
    solver = Solver(changing, LocalCache(worker.store.db), lambda _: None)  # type: ignore[arg-type]
    solver.solve([root])
    worker.contexts["context"]["a"] = "1"
    solve(root)
    assert names(worker) == {"COPY . /app"}


class _With:
    """A worker with another `run`."""

    def __init__(self, worker: FakeWorker, run: Callable[..., object]) -> None:
        self._worker = worker
        self.run = run

    def __getattr__(self, name: str) -> object:
        return getattr(self._worker, name)


def test_a_failure_is_raised_with_its_step_and_stops_the_rest(
    solve: Solve, worker: FakeWorker, events: list[Event]
) -> None:
    def fail(_: object) -> str:
        raise ExecError("did not complete", exit_code=3)

    worker.effects = {"bad": fail}
    root = run(run(image(), "bad"), "after")
    with pytest.raises(ExecError) as caught:
        solve(root)
    assert caught.value.vertex == "RUN bad"
    assert "RUN after" not in worker.runs
    ends = [item for item in events if isinstance(item, VertexCompleted) and item.error]
    assert [(item.name, item.error) for item in ends] == [("RUN bad", "did not complete")]


def test_a_failure_cancels_what_runs_beside_it(store: Store, cache: LocalCache) -> None:
    started = threading.Barrier(2, timeout=20)

    class Waiting(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            if vertex.options.name == "RUN long":
                started.wait()
                assert context.cancelled.wait(20)
                raise BuildCancelled("the build was interrupted")
            if vertex.options.name == "RUN bad":
                started.wait()
                raise SolveError("broken")
            return super().run(vertex, inputs, context)

    worker = Waiting(store, images={"debian": {}})
    events: list[Event] = []
    solver = Solver(worker, cache, events.append, settings=solver_settings(jobs=2))
    with pytest.raises(SolveError, match="broken"):
        solver.solve([run(image(), "long"), run(image(), "bad")])
    ended = {item.name: item.error for item in events if isinstance(item, VertexCompleted)}
    assert ended["RUN long"] == "canceled"


def test_an_interrupt_from_outside_ends_the_build(store: Store, cache: LocalCache) -> None:
    cancelled = threading.Event()

    class Interrupting(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            if vertex.options.name == "RUN one":
                cancelled.set()
            return super().run(vertex, inputs, context)

    worker = Interrupting(store, images={"debian": {}})
    solver = Solver(worker, cache, lambda _: None)
    with pytest.raises(BuildCancelled):
        solver.solve([run(run(image(), "one"), "two")], cancelled=cancelled)
    assert "RUN two" not in worker.runs


def test_one_thread_goes_on_along_a_chain_of_steps(store: Store, cache: LocalCache) -> None:
    threads: list[str] = []

    class Noting(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            threads.append(threading.current_thread().name)
            return super().run(vertex, inputs, context)

    worker = Noting(store, images={"debian": {}})
    top = image()
    for name in ("one", "two", "three"):
        top = run(top, name)
    Solver(worker, cache, lambda _: None, settings=solver_settings(jobs=4)).solve([top])
    assert {"RUN one", "RUN two", "RUN three"} <= set(worker.runs)
    assert len(set(threads)) == 1


def test_a_failure_beside_a_chain_ends_it(store: Store, cache: LocalCache) -> None:
    failed = threading.Event()

    class Failing(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            if vertex.options.name == "RUN bad":
                failed.set()
                raise SolveError("broken")
            if vertex.options.name == "RUN one":
                assert failed.wait(20)
                assert context.cancelled.wait(20)
            return super().run(vertex, inputs, context)

    worker = Failing(store, images={"debian": {}})
    solver = Solver(worker, cache, lambda _: None, settings=solver_settings(jobs=2))
    with pytest.raises(SolveError, match="broken"):
        solver.solve([run(run(image(), "one"), "two"), run(image(), "bad")])
    assert "RUN two" not in worker.runs


def test_independent_steps_run_at_the_same_time(store: Store, cache: LocalCache) -> None:
    together = threading.Barrier(2, timeout=20)

    class Meeting(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            if vertex.options.name.startswith("RUN"):
                together.wait()
            return super().run(vertex, inputs, context)

    worker = Meeting(store, images={"debian": {}})
    solver = Solver(worker, cache, lambda _: None, settings=solver_settings(jobs=2))
    solver.solve([run(image(), "left"), run(image(), "right")])
    assert worker.runs["RUN left"] == worker.runs["RUN right"] == 1


def test_an_equal_step_running_elsewhere_is_waited_for(store: Store, worker: FakeWorker) -> None:
    running, finish = threading.Event(), threading.Event()

    class Slow(FakeWorker):
        def run(self, vertex, inputs, context):  # type: ignore[no-untyped-def]
            if vertex.options.name == "RUN slow":
                running.set()
                assert finish.wait(20)
            return super().run(vertex, inputs, context)

    settings = solver_settings(locks=store.paths.locks)
    slow = Slow(store, images=worker.images, trees=worker.trees)
    root = run(image(), "slow")
    waits: list[Event] = []

    def note(event: Event) -> None:
        waits.append(event)
        if type(event).__name__ == "VertexStatus":
            finish.set()

    one = Solver(slow, LocalCache(store.db), lambda _: None, settings=settings)
    other = Solver(worker, LocalCache(store.db), note, settings=settings)
    first = threading.Thread(target=one.solve, args=([root],))
    first.start()
    assert running.wait(20)
    solution = other.solve([root])
    first.join()
    assert worker.runs["RUN slow"] == 0
    assert solution.outcomes[root.digest].origin is Origin.WAITED


def test_every_vertex_is_announced_and_ends_once(
    solve: Solve, worker: FakeWorker, events: list[Event]
) -> None:
    worker.contexts["context"] = {"a": "1"}
    base = run(image(), "x")
    root = copy(base, context())
    solve(root)
    worker.contexts["context"]["a"] = "2"
    solve(root)
    ends = [e for e in events if isinstance(e, VertexCompleted | VertexCached)]
    assert sorted(item.name for item in ends) == sorted(
        ["[internal] load build context", "FROM debian", "RUN x", "COPY . /app"]
    )
    assert {e.name for e in events if isinstance(e, VertexCached)} == {"FROM debian", "RUN x"}
    started = {e.name for e in events if isinstance(e, VertexStarted)}
    assert "COPY . /app" in started


def chain(*commands: str) -> Vertex:
    """Steps on one another."""
    below = image()
    for command in commands:
        below = run(below, command)
    return below


def said(events: list[Event]) -> list[tuple[str, str]]:
    """What kind of event there was, of which vertex."""
    return [(type(event).__name__, getattr(event, "name", "")) for event in events]


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_said_later_is_said_in_order(
    solve: Solve, worker: FakeWorker, events: list[Event], waits: bool
) -> None:
    """Of a chain of steps, whether or not a step leaves time to say what was before."""
    heard: list[list[tuple[str, str]]] = []

    def during(_files: object) -> str:
        if waits:
            assert worker.last_context is not None
            worker.last_context.catch_up()
        heard.append(said(events))
        return "made"

    worker.effects |= dict.fromkeys(("one", "two", "three"), during)
    solve(chain("one", "two", "three"))
    order = [item for item in said(events) if item[1].startswith("RUN")]
    kinds = ("VertexStarted", "VertexCompleted")
    assert order == [(kind, f"RUN {name}") for name in ("one", "two", "three") for kind in kinds]
    if waits:
        assert [entry[-1] for entry in heard[-2:]] == [
            ("VertexStarted", "RUN two"),
            ("VertexStarted", "RUN three"),
        ]


def test_what_is_said_later_is_said_before_a_failure(
    solve: Solve, worker: FakeWorker, events: list[Event]
) -> None:
    def fail(_files: object) -> str:
        raise ExecError("no", exit_code=1)

    worker.effects["two"] = fail
    with pytest.raises(ExecError):
        solve(chain("one", "two", "three"))
    assert [event for event in said(events) if event[1].startswith("RUN")] == [
        (kind, name)
        for name in ("RUN one", "RUN two")
        for kind in ("VertexStarted", "VertexCompleted")
    ]


@pytest.mark.parametrize("steps", [("one",), ("one", "two", "three")])
def test_an_error_in_what_is_said_later_ends_the_build(
    solve: Solve, steps: tuple[str, ...]
) -> None:
    def observe(vertex: Vertex, _result: Result, _outcome: object) -> None:
        if vertex.options.name == "RUN one":
            raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="full"):
        solve(chain(*steps), observe=observe)


def test_the_earlier_result_of_a_changed_copy_is_offered_to_the_worker(
    solve: Solve, worker: FakeWorker
) -> None:
    worker.contexts["context"] = {"a": "1", "b": "1"}
    root = copy(image(), context())
    snapshot = solve(root)[root.digest].snapshot
    worker.contexts["context"]["a"] = "2"
    solve(root)
    assert worker.last_context is not None
    previous = worker.last_context.previous
    assert previous is not None
    assert previous.snapshot == snapshot
    same = [path for path, digest in previous.new[1].items() if previous.old[1][path] == digest]
    assert same == ["b"]
