"""Records of builds: what was asked, how each step went, and every byte of output.

    with records.begin(ref, request=..., started=now) as recorder:
        recorder(event)             # an EventSink: hand it every event
        ...
        recorder.finish(status="completed", image=..., completed=now, summary=...)

The row is in the database, the events are lines in `builds/<ref>/events.jsonl`. A record whose
build was killed stays `running` in the database; a live one has its log locked.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedWriter
from types import TracebackType
from typing import Any, Self

from buildkit_py.digest import Digest
from buildkit_py.errors import StoreError, UsageError
from buildkit_py.progress.codec import decode, encode
from buildkit_py.progress.events import BuildStarted, Event, StepInfo, VertexLog
from buildkit_py.store.database import Database
from buildkit_py.store.failures import explain_os_errors
from buildkit_py.store.paths import StatePaths

KEEP_COUNT = 50
KEEP_SECONDS = 48 * 3600.0
_EVENTS = "events.jsonl"
_CLOCK_SLACK = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """One past or present build. `data` is JSON: `request`, and at the end `summary`."""

    ref: str
    started: float
    completed: float | None
    status: str  # running, completed, error, canceled, interrupted (its process is gone)
    image: str | None
    data: Mapping[str, Any] = field(default_factory=dict)


class BuildRecorder:
    """Writes one build's events. Not for several threads at once."""

    def __init__(self, records: BuildRecords, ref: str, file: BufferedWriter) -> None:
        self._records = records
        self._ref = ref
        self._file = file
        self._finished = False

    def __call__(self, event: Event, /) -> None:
        """Write an event."""
        with explain_os_errors("cannot write the build's log"):
            self._file.write(encode(event).encode() + b"\n")
            if isinstance(event, VertexLog):
                self._file.flush()

    def finish(
        self,
        *,
        status: str,
        completed: float,
        image: Digest | None = None,
        summary: Mapping[str, object] | None = None,
    ) -> None:
        """Say how it ended."""
        self._finished = True
        with explain_os_errors("cannot write the build's log"):
            self._file.flush()
        self._records.complete(
            self._ref, status=status, completed=completed, image=image, summary=summary or {}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


class BuildRecords:
    """The records of one state root."""

    def __init__(self, paths: StatePaths, db: Database) -> None:
        self._paths = paths
        self._db = db

    def begin(self, ref: str, *, request: Mapping[str, object], started: float) -> BuildRecorder:
        """Open a record. Raises StoreError."""
        directory = self._paths.builds / ref
        data = json.dumps({"request": dict(request), "pid": os.getpid()})
        with self._db.transaction() as connection:  # a folder that has no row may be swept
            with explain_os_errors("cannot write the build's log"):
                directory.mkdir(mode=0o700)
                file = (directory / _EVENTS).open("wb")
                fcntl.flock(file, fcntl.LOCK_EX)
            connection.execute(
                "INSERT INTO builds (ref, started, status, data) VALUES (?, ?, 'running', ?)",
                (ref, started, data),
            )
        return BuildRecorder(self, ref, file)

    def complete(
        self,
        ref: str,
        *,
        status: str,
        completed: float,
        image: Digest | None,
        summary: Mapping[str, object],
    ) -> None:
        """Close a record, and let the oldest go."""
        with self._db.transaction() as connection:
            row = connection.execute("SELECT data FROM builds WHERE ref = ?", (ref,)).fetchone()
            data = json.loads(row["data"]) if row else {}
            data["summary"] = dict(summary)
            connection.execute(
                "UPDATE builds SET status = ?, completed = ?, image = ?, data = ? WHERE ref = ?",
                (status, completed, image, json.dumps(data), ref),
            )
        self._expire(completed)

    def _expire(self, now: float) -> None:
        """A record goes when it is old and there are many newer ones."""
        old = self._db.connection().execute(
            "SELECT * FROM (SELECT * FROM builds ORDER BY started DESC LIMIT -1 OFFSET ?)"
            " WHERE COALESCE(completed, started) < ?",
            (KEEP_COUNT, now - KEEP_SECONDS),
        )
        for row in old.fetchall():
            if self._record(row).status != "running":
                self.remove(row["ref"])

    def list(self) -> tuple[BuildRecord, ...]:
        """All records, newest first. Those from the future, of a clock set back, come last."""
        rows = self._db.connection().execute(
            "SELECT * FROM builds ORDER BY started > ?, started DESC, ref",
            (time.time() + _CLOCK_SLACK,),
        )
        return tuple(map(self._record, rows.fetchall()))

    def get(self, ref: str) -> BuildRecord:
        """The record of that reference, of a unique beginning of one, or `^N`: the Nth newest.

        Raises UsageError.
        """
        records = self.list()
        if not records:
            raise UsageError("there are no records of builds")
        if ref.startswith("^") and ref[1:].isdigit():
            number = int(ref[1:])
            if number < len(records):
                return records[number]
            count = "is one record" if len(records) == 1 else f"are {len(records)} records"
            raise UsageError(f'no build "{ref}": there {count}')
        found = [record for record in records if record.ref == ref] or [
            record for record in records if ref and record.ref.startswith(ref)
        ]
        if not found:
            raise UsageError(f'no build "{ref}"', hint="see 'pybuild builds ls'")
        if len(found) > 1:
            raise UsageError(f'"{ref}" is the beginning of {len(found)} builds; give more of it')
        return found[0]

    def events(self, ref: str) -> Iterator[Event]:
        """What happened in a build, in order; a line that a killed process left half is left."""
        path = self._paths.builds / ref / _EVENTS
        try:
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    if line.endswith("\n"):
                        yield decode(line)
        except OSError as error:
            raise StoreError(f"the log of build {ref} cannot be read: {error.strerror}") from error

    def steps(self, ref: str) -> tuple[StepInfo, ...]:
        """The instructions of a build."""
        for event in self.events(ref):
            if isinstance(event, BuildStarted):
                return event.steps
        return ()

    def remove(self, ref: str) -> None:
        """Forget a record and its log."""
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM builds WHERE ref = ?", (ref,))
        shutil.rmtree(self._paths.builds / ref, ignore_errors=True)

    def _record(self, row: Mapping[str, Any]) -> BuildRecord:
        status = row["status"]
        if status == "running" and not self._is_alive(row["ref"]):
            status = "interrupted"
        return BuildRecord(
            ref=row["ref"],
            started=row["started"],
            completed=row["completed"],
            status=status,
            image=row["image"],
            data=json.loads(row["data"]),
        )

    def _is_alive(self, ref: str) -> bool:
        try:
            with (self._paths.builds / ref / _EVENTS).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False
