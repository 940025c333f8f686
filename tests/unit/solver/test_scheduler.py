import pytest

from buildkit_py.solver.scheduler import Scheduler, TaskState


def test_a_task_is_ready_once_everything_it_needs_is_done() -> None:
    scheduler = Scheduler({"a": [], "b": [], "c": ["a", "b"]})
    assert [scheduler.take(), scheduler.take(), scheduler.take()] == ["a", "b", None]
    scheduler.complete("a")
    assert scheduler.take() is None
    scheduler.complete("b")
    assert scheduler.take() == "c"


def test_it_is_finished_when_the_last_task_has_ended() -> None:
    scheduler = Scheduler({"a": []})
    assert not scheduler.finished
    scheduler.take()
    assert not scheduler.finished
    scheduler.complete("a")
    assert scheduler.finished


def test_no_tasks_at_all_is_finished() -> None:
    assert Scheduler[str]({}).finished


def test_after_a_failure_nothing_more_is_handed_out() -> None:
    scheduler = Scheduler({"a": [], "b": [], "c": ["b"]})
    scheduler.take()
    scheduler.take()
    scheduler.fail("a")
    assert not scheduler.finished
    scheduler.complete("b")
    assert scheduler.finished
    assert scheduler.take() is None
    assert scheduler.state("c") is TaskState.DROPPED


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        Scheduler({"a": ["b"], "b": ["a"], "c": []})


def test_a_need_that_is_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task"):
        Scheduler({"a": ["b"]})


def test_completing_what_does_not_run_is_refused() -> None:
    scheduler = Scheduler({"a": []})
    with pytest.raises(ValueError, match="not running"):
        scheduler.complete("a")


def test_following_completes_a_task_and_takes_the_only_one_that_waited() -> None:
    scheduler = Scheduler({"a": [], "b": ["a"]})
    scheduler.take()
    assert scheduler.follow("a") == "b"
    assert scheduler.state("a") is TaskState.DONE
    assert scheduler.state("b") is TaskState.RUNNING
    assert scheduler.running == 1
    assert scheduler.follow("b") is None
    assert scheduler.state("b") is TaskState.RUNNING
    scheduler.complete("b")
    assert scheduler.finished


@pytest.mark.parametrize(
    "needs",
    [
        {"a": [], "b": ["a"], "c": ["a"]},  # two would be ready
        {"a": [], "b": [], "c": ["a"]},  # another is
        {"a": [], "b": [], "c": ["a", "b"]},  # one waits for more
    ],
)
def test_following_leaves_to_others_what_is_not_a_chain(needs: dict[str, list[str]]) -> None:
    scheduler = Scheduler(needs)
    assert scheduler.take() == "a"
    assert scheduler.follow("a") is None
    assert scheduler.state("a") is TaskState.RUNNING


def test_nothing_follows_after_a_stop() -> None:
    scheduler = Scheduler({"a": [], "b": ["a"]})
    scheduler.take()
    scheduler.stop()
    assert scheduler.follow("a") is None
    assert scheduler.state("b") is TaskState.DROPPED
