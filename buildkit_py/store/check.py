"""`pybuild system check`: whether rows, files and digests of the store agree.

Reads everything when asked to be thorough: each blob's digest, and for each layer whose diff_id is
known the tar that its files give. Nothing is changed. Other processes may work on the root: what
they remove or replace meanwhile, and what they have half made, is no problem.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from sqlite3 import Row
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, hex_of
from buildkit_py.errors import PybuildError
from buildkit_py.store.content import READ_SIZE
from buildkit_py.store.gc import abandoned

if TYPE_CHECKING:
    from buildkit_py.store import Store
    from buildkit_py.store.images import ImageSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that does not agree. `harmless` leftovers are swept by the next collection."""

    subject: str
    message: str
    harmless: bool = False


Watch = Callable[[str], None]


def check_store(
    store: Store, *, thorough: bool = True, watch: Watch | None = None
) -> tuple[Problem, ...]:
    """Every problem of the store. Raises StoreError if its database cannot be read."""
    seen: list[Problem] = []
    for problem in _problems(store, thorough=thorough, watch=watch or (lambda _name: None)):
        seen.append(problem)  # noqa: PERF402 - a generator that may raise keeps what it found
    return tuple(seen)


def _problems(store: Store, *, thorough: bool, watch: Watch) -> Iterator[Problem]:
    yield from _database(store)
    for digest in store.content.all_digests():
        watch(digest)
        problem = _blob(store, digest, thorough=thorough)
        if problem is not None and digest in store.content.all_digests():
            yield problem
    yield from _layers(store, thorough=thorough, watch=watch)
    yield from _images(store, watch=watch)
    for path in abandoned(store.db, store.paths):
        yield Problem(
            subject=str(path.relative_to(store.paths.root)),
            message="no row names it",
            harmless=True,
        )


def _database(store: Store) -> Iterator[Problem]:
    with store.db.explained():
        connection = store.db.connection()
        for row in connection.execute("PRAGMA integrity_check"):
            if row[0] != "ok":
                yield Problem(subject="state.db", message=str(row[0]))
        for row in connection.execute("PRAGMA foreign_key_check"):
            yield Problem(subject="state.db", message=f"row of {row[0]} names no row of {row[2]}")


def _blob(store: Store, digest: Digest, *, thorough: bool) -> Problem | None:
    found = hashlib.new(digest.partition(":")[0])
    try:
        with store.paths.blob(digest).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while thorough and (chunk := file.read(READ_SIZE)):
                found.update(chunk)
        wanted = store.content.size(digest)
    except FileNotFoundError:
        return Problem(subject=digest, message="its file is missing")
    except (OSError, PybuildError) as error:
        return Problem(subject=digest, message=f"it cannot be read: {error}")
    if size != wanted:
        return Problem(subject=digest, message=f"it has {size} bytes on disk, not {wanted}")
    if thorough and found.hexdigest() != hex_of(digest):
        return Problem(subject=digest, message="its bytes have another digest")
    return None


def _layers(store: Store, *, thorough: bool, watch: Watch) -> Iterator[Problem]:
    with store.db.explained():
        rows = store.db.connection().execute("SELECT * FROM layers ORDER BY id").fetchall()
    for row in rows:
        watch(f"snapshots/{row['directory']}")
        before, now = None, row
        problem = None
        while now is not None and now != before:  # somebody may be at work on it
            problem = _layer(store, now, thorough=thorough)
            before, now = now, None if problem is None else _layer_row(store, row["id"])
        if problem is not None and now is not None:
            yield problem


def _layer_row(store: Store, layer: int) -> Row | None:
    with store.db.explained():
        found: Row | None = (
            store.db.connection().execute("SELECT * FROM layers WHERE id = ?", (layer,)).fetchone()
        )
    return found


def _layer(store: Store, row: Row, *, thorough: bool) -> Problem | None:
    from buildkit_py.layers.diff import write_layer  # noqa: PLC0415 - only this command needs it

    subject = f"snapshots/{row['directory']}"
    directory = store.paths.layer(row["directory"])
    if not row["unpacked"]:
        lacks_all = row["blob"] is None
        message = "it has neither files nor a blob"
        return Problem(subject=subject, message=message) if lacks_all else None
    if not directory.is_dir():
        return Problem(subject=subject, message="its directory is missing")
    if not thorough or row["diff_id"] is None or row["blob"] is not None:
        return None
    try:
        found = write_layer(directory, clamp_mtime=row["settle"]).diff_id
    except (OSError, PybuildError) as error:
        return Problem(subject=subject, message=f"its files cannot be read: {error}")
    if found == row["diff_id"]:
        return None
    return Problem(subject=subject, message=f"its files give {found}, not {row['diff_id']}")


def _images(store: Store, *, watch: Watch) -> Iterator[Problem]:
    for summary in store.images.list():
        watch(summary.id)
        problem = _image(store, summary)
        if problem is not None and any(summary.id == other.id for other in store.images.list()):
            yield problem


def _image(store: Store, summary: ImageSummary) -> Problem | None:
    try:
        config = store.images.config(summary)
        diff_ids = store.snapshots.diff_ids(summary.snapshot)
    except PybuildError as error:
        return Problem(subject=summary.id, message=error.message)
    if config.diff_ids == diff_ids:
        return None
    return Problem(subject=summary.id, message="its config names other layers than it has")
