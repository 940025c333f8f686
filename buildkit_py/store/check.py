"""`pybuild system check`: whether rows, files and digests of the store agree.

Reads everything when asked to be thorough: each blob's digest, and for each layer whose diff_id is
known the tar that its files give. Nothing is changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest, hex_of
from buildkit_py.errors import PybuildError
from buildkit_py.store.content import READ_SIZE
from buildkit_py.store.gc import orphans

if TYPE_CHECKING:
    from buildkit_py.store import Store


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
        yield from _blob(store, digest, thorough=thorough)
    yield from _layers(store, thorough=thorough, watch=watch)
    yield from _images(store, watch=watch)
    for path in orphans(store.db, store.paths):
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


def _blob(store: Store, digest: Digest, *, thorough: bool) -> Iterator[Problem]:
    try:
        with store.content.open(digest) as file:
            if not thorough:
                return
            found = hashlib.new(digest.partition(":")[0])
            while chunk := file.read(READ_SIZE):
                found.update(chunk)
    except PybuildError as error:
        yield Problem(subject=digest, message=error.message)
        return
    if found.hexdigest() != hex_of(digest):
        yield Problem(subject=digest, message="its bytes have another digest")


def _layers(store: Store, *, thorough: bool, watch: Watch) -> Iterator[Problem]:
    from buildkit_py.layers.diff import write_layer  # noqa: PLC0415 - only this command needs it

    with store.db.explained():
        rows = store.db.connection().execute("SELECT * FROM layers ORDER BY id").fetchall()
    for row in rows:
        subject = f"snapshots/{row['directory']}"
        watch(subject)
        directory = store.paths.layer(row["directory"])
        if not row["unpacked"]:
            if row["blob"] is None:
                yield Problem(subject=subject, message="it has neither files nor a blob")
        elif not directory.is_dir():
            yield Problem(subject=subject, message="its directory is missing")
        elif thorough and row["diff_id"] is not None and row["blob"] is None:
            found = write_layer(directory, clamp_mtime=row["settle"]).diff_id
            if found != row["diff_id"]:
                yield Problem(
                    subject=subject, message=f"its files give {found}, not {row['diff_id']}"
                )


def _images(store: Store, *, watch: Watch) -> Iterator[Problem]:
    for summary in store.images.list():
        watch(summary.id)
        try:
            config = store.images.config(summary)
            diff_ids = store.snapshots.diff_ids(summary.snapshot)
        except PybuildError as error:
            yield Problem(subject=summary.id, message=error.message)
            continue
        if config.diff_ids != diff_ids:
            yield Problem(subject=summary.id, message="its config names other layers than it has")
