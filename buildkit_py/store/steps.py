"""Steps by id: what the classic builder's intermediate images were, without being images.

`pybuild history --steps` lists them and `pybuild run <step id>` starts one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.errors import NoSuchImage
from buildkit_py.oci.config import ContainerConfig, container_from_json, container_to_json

if TYPE_CHECKING:
    from buildkit_py.oci.growing import Moment
    from buildkit_py.store.database import Database

_MOST = 5000
_MOST_TEXT = 4_000_000  # characters of all configs of a build: its last steps have one for sure


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """The state after one instruction."""

    id: str
    text: str
    stage: str
    snapshot: int | None
    config: ContainerConfig
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStep:
    """A step to be kept."""

    id: str
    text: str
    stage: str
    snapshot: int | None
    moment: Moment


def remember_steps(db: Database, steps: Sequence[NewStep], now: float) -> None:
    """Keep the steps of a build; the oldest go when there are many."""
    known = {row[0] for row in db.connection().execute("SELECT id FROM steps").fetchall()}
    fresh = list(_rows([step for step in steps if step.id not in known], now))
    if not fresh:
        return
    with db.transaction() as connection:
        connection.executemany(
            "REPLACE INTO steps (id, text, stage, snapshot, config, created)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            fresh,
        )
        connection.execute(
            "DELETE FROM steps WHERE id IN (SELECT id FROM steps ORDER BY created DESC"
            " LIMIT -1 OFFSET ?)",
            (_MOST,),
        )


def _rows(steps: Sequence[NewStep], now: float) -> Iterator[tuple[object, ...]]:
    """The last steps first; when all configs together are huge, the first steps have none."""
    left = _MOST_TEXT
    for item in reversed(steps):
        config = json.dumps(container_to_json(item.moment.config)) if left > 0 else ""
        left -= len(config)
        yield (item.id, item.text, item.stage, item.snapshot, config, now)


def find_step(db: Database, prefix: str) -> StepRecord:
    """The step whose id begins so. Raises NoSuchImage."""
    rows = (
        db.connection()
        .execute(
            "SELECT steps.* FROM steps LEFT JOIN snapshots ON snapshots.id = steps.snapshot"
            " WHERE steps.id LIKE ? AND config != ''"
            " AND (steps.snapshot IS NULL OR snapshots.id IS NOT NULL)"
            " LIMIT 2",
            (prefix.removeprefix("sha256:") + "%",),
        )
        .fetchall()
        if prefix.isalnum()
        else []
    )
    if len(rows) != 1:
        raise NoSuchImage(f"no such image or step: {prefix}")
    row = rows[0]
    return StepRecord(
        id=row["id"],
        text=row["text"],
        stage=row["stage"],
        snapshot=row["snapshot"],
        config=container_from_json(json.loads(row["config"])),
        created=row["created"],
    )
