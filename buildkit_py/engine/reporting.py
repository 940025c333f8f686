"""`--report`: the page about a build, written at its end, also where that is a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError
from buildkit_py.exporters.destination import write_file
from buildkit_py.report import render_report
from buildkit_py.store.builds import BuildRecords

if TYPE_CHECKING:
    from pathlib import Path

    from buildkit_py.engine.build import BuildEnvironment
    from buildkit_py.store import Store


@contextmanager
def reported(env: BuildEnvironment, ref: str, file: str) -> Iterator[None]:
    """Write the report of a build when its record is complete. An error comes before ours."""
    try:
        yield
    except BaseException:
        with suppress(PybuildError):
            write_report(env.store, ref, env.directory / file)
        raise
    write_report(env.store, ref, env.directory / file)


def write_report(store: Store, ref: str, path: Path) -> None:
    """The page about a recorded build, as a file. Raises UsageError, StoreError."""
    records = BuildRecords(store.paths, store.db)
    record = records.get(ref)
    text = render_report(record, records.events(record.ref))
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise PybuildError(f"cannot write {path}: {error.strerror}") from error
