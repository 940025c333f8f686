"""Records of builds: kept, found again, and let go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.digest import sha256
from buildkit_py.errors import UsageError
from buildkit_py.progress.events import VertexLog, VertexStarted
from buildkit_py.store.builds import KEEP_COUNT, KEEP_SECONDS, BuildRecords
from buildkit_py.store.database import open_database

V = sha256(b"v")


@pytest.fixture
def records(tmp_path: Path) -> Iterator[BuildRecords]:
    db = open_database(tmp_path / "state")
    yield BuildRecords(db.paths, db)
    db.close()


def build(records: BuildRecords, ref: str, *, started: float = 0.0) -> None:
    with records.begin(ref, request={"context": "."}, started=started) as recorder:
        recorder(VertexStarted(vertex=V, name="x", time=started))
        recorder(VertexLog(vertex=V, stream=1, data=b"\xff\n", time=started))
        recorder.finish(status="completed", completed=started + 1, summary={"steps": 3})


def test_a_record_holds_the_request_the_end_and_every_event(records: BuildRecords) -> None:
    build(records, "abc")
    record = records.get("abc")
    assert (record.status, record.completed) == ("completed", 1.0)
    assert record.data["request"] == {"context": "."}
    assert record.data["summary"] == {"steps": 3}
    assert [type(event).__name__ for event in records.events("abc")] == [
        "VertexStarted",
        "VertexLog",
    ]


def test_a_record_is_found_by_a_unique_beginning_or_by_its_age(records: BuildRecords) -> None:
    build(records, "abc1", started=1.0)
    build(records, "abd2", started=2.0)
    assert records.get("abd").ref == "abd2"
    assert (records.get("^0").ref, records.get("^1").ref) == ("abd2", "abc1")
    for wrong in ("ab", "zzz", "", "^9"):
        with pytest.raises(UsageError):
            records.get(wrong)


def test_a_build_whose_process_is_gone_was_interrupted(records: BuildRecords) -> None:
    with records.begin("abc", request={}, started=0.0):
        assert records.get("abc").status == "running"
    assert records.get("abc").status == "interrupted"  # another process may have its number now


def test_old_records_of_killed_builds_go_as_well(records: BuildRecords) -> None:
    with records.begin("killed", request={}, started=0.0):
        pass
    with records.begin("slow", request={}, started=0.0):
        for number in range(KEEP_COUNT):
            build(records, f"new{number}", started=KEEP_SECONDS * 2 + number)
        refs = {record.ref for record in records.list()}
    assert "killed" not in refs
    assert "slow" in refs


def test_a_line_that_was_left_half_is_not_shown(records: BuildRecords, tmp_path: Path) -> None:
    build(records, "abc")
    path = tmp_path / "state" / "builds" / "abc" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(records.events("abc"))) == 1


def test_old_records_go_when_there_are_many_newer_ones(records: BuildRecords) -> None:
    build(records, "old", started=0.0)
    for number in range(KEEP_COUNT):
        build(records, f"new{number}", started=KEEP_SECONDS * 2 + number)
    refs = {record.ref for record in records.list()}
    assert "old" not in refs
    assert len(refs) == KEEP_COUNT


def test_a_removed_record_leaves_no_file(records: BuildRecords, tmp_path: Path) -> None:
    build(records, "abc")
    records.remove("abc")
    assert records.list() == ()
    assert list((tmp_path / "state" / "builds").iterdir()) == []


def test_after_the_clock_was_set_back_the_last_build_is_the_last(records: BuildRecords) -> None:
    build(records, "future", started=time.time() + 1e6)
    build(records, "now", started=time.time())
    assert [record.ref for record in records.list()] == ["now", "future"]
