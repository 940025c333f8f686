"""Work on layers while later steps still run."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from buildkit_py.engine.forwarding import Forwarder
from buildkit_py.errors import BuildCancelled, RegistryError
from buildkit_py.graph import ContextOp, Vertex

STEP, TOP = (Vertex(op=ContextOp(name=name)) for name in ("step", "top"))


def below(snapshot: int) -> range:
    return range(1, snapshot + 1)


class Job:
    """Takes snapshots; tells when it has as many as were awaited."""

    def __init__(self, awaited: int, error: Exception | None = None) -> None:
        self.seen: list[int] = []
        self.error = error
        self.enough = threading.Event()
        self._awaited = awaited

    def __call__(self, snapshot: int, _watch: Callable[[], None]) -> None:
        self.seen.append(snapshot)
        if len(self.seen) >= self._awaited:
            self.enough.set()
        if self.error is not None:
            raise self.error


def forwarder(*jobs: Callable[[int, Callable[[], None]], None]) -> Forwarder:
    return Forwarder(below, jobs, frozenset([STEP.digest]))


def test_every_layer_below_is_worked_on_once() -> None:
    job = Job(3)
    with forwarder(job) as ahead:
        ahead.made(STEP, 2)
        ahead.made(STEP, 3)
        assert job.enough.wait(20)
    assert sorted(job.seen) == [1, 2, 3]


def test_the_top_of_an_image_is_the_exports() -> None:
    job = Job(1)
    with forwarder(job) as ahead:
        ahead.made(TOP, 4)
        ahead.made(STEP, None)
    assert job.seen == []


def test_an_output_that_fails_is_left_alone_and_the_others_go_on() -> None:
    bad, good = Job(1, RegistryError("down")), Job(8)
    with forwarder(bad, good) as ahead:
        ahead.made(STEP, 8)
        assert good.enough.wait(20)
    assert len(bad.seen) < 3
    assert sorted(good.seen) == list(range(1, 9))


def test_a_failed_build_breaks_off_what_has_begun() -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(_snapshot: int, watch: Callable[[], None]) -> None:
        begun.set()
        try:
            while True:
                watch()
        except BuildCancelled:
            ended.set()
            raise

    def build() -> None:
        with forwarder(endless) as ahead:
            ahead.made(STEP, 1)
            assert begun.wait(20)
            raise ValueError("step failed")

    with pytest.raises(ValueError, match="step failed"):
        build()
    assert ended.is_set()


def test_a_failed_build_does_not_wait_for_a_server_that_does_not_answer() -> None:
    begun, answered, ended = (threading.Event() for _ in range(3))

    def hanging(_snapshot: int, _watch: Callable[[], None]) -> None:
        begun.set()
        answered.wait(60)
        ended.set()
        raise RuntimeError("the store is closed")

    def build() -> None:
        with forwarder(hanging) as ahead:
            ahead.made(STEP, 1)
            assert begun.wait(20)
            raise ValueError("step failed")

    with pytest.raises(ValueError, match="step failed"):
        build()
    assert not ended.is_set()
    answered.set()
    assert ended.wait(20)
