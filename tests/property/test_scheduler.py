from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from buildkit_py.solver.scheduler import Scheduler


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    """Acyclic: a task needs only tasks of smaller number. Given in any order."""
    count = draw(st.integers(min_value=0, max_value=12))
    needs = {
        number: draw(st.lists(st.integers(0, number - 1), max_size=4)) if number else []
        for number in range(count)
    }
    return {number: needs[number] for number in draw(st.permutations(sorted(needs)))}


@given(graphs(), st.data())
@settings(max_examples=150, deadline=None)
def test_each_task_runs_once_after_its_inputs_and_all_end(
    needs: dict[int, list[int]], data: st.DataObject
) -> None:
    scheduler = Scheduler(needs)
    running: list[int] = []
    done: list[int] = []
    taken: Counter[int] = Counter()
    while not scheduler.finished:
        while len(running) < 3 and (task := scheduler.take()) is not None:
            assert set(needs[task]) <= set(done)
            taken[task] += 1
            running.append(task)
        assert running, "nothing runs and yet it is not finished"
        ending = running.pop(data.draw(st.integers(0, len(running) - 1)))
        scheduler.complete(ending)
        done.append(ending)
    assert sorted(done) == sorted(needs)
    assert set(taken.values()) <= {1}


@given(graphs(), st.data())
@settings(max_examples=100, deadline=None)
def test_after_a_failure_it_ends_and_runs_nothing_that_needs_the_failed_task(
    needs: dict[int, list[int]], data: st.DataObject
) -> None:
    scheduler = Scheduler(needs)
    running: list[int] = []
    failed: set[int] = set()
    while not scheduler.finished:
        while (task := scheduler.take()) is not None:
            assert not failed
            running.append(task)
        ending = running.pop(data.draw(st.integers(0, len(running) - 1)))
        if data.draw(st.booleans()):
            scheduler.fail(ending)
            failed.add(ending)
        else:
            scheduler.complete(ending)
    assert not running
