"""Filters of `du` and `prune`."""

from __future__ import annotations

import pytest

from buildkit_py.cli.maintenance import record_filter
from buildkit_py.errors import UsageError
from buildkit_py.store.usage import UsageRecord

RECORDS = [
    UsageRecord(
        id="1",
        kind="regular",
        size=1,
        created=0,
        last_used=100.0,
        uses=1,
        description="RUN make all",
        in_use=True,
        shared=True,
    ),
    UsageRecord(
        id="2",
        kind="regular",
        size=1,
        created=0,
        last_used=5000.0,
        uses=1,
        description="COPY . .",
        parent="1",
    ),
    UsageRecord(
        id="3", kind="exec.cachemount", size=1, created=0, last_used=9000.0, uses=1, mutable=True
    ),
]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ([], "123"),
        (["type=regular"], "12"),
        (["type==regular"], "12"),
        (["type!=regular"], "3"),
        (["id=2"], "2"),
        (["parents=1"], "2"),
        (["description~=^RUN .*all$"], "1"),
        (["description~=COPY|make"], "12"),
        (["inuse"], "1"),
        (["inuse=false"], "23"),
        (["inuse!=true"], "23"),
        (["mutable"], "3"),
        (["immutable"], "12"),
        (["shared"], "1"),
        (["private"], "23"),
        (["until=1h"], "12"),
        (["type=regular", "private"], "2"),
    ],
)
def test_a_filter_chooses(filters: list[str], chosen: str) -> None:
    keep = record_filter(filters, now=9000.0)
    assert "".join(record.id for record in RECORDS if keep(record)) == chosen


@pytest.mark.parametrize(
    "text", ["", "size=3", "type", "description~=(", "inuse~=a", "until", "="]
)
def test_a_wrong_filter_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        record_filter([text], now=0.0)
