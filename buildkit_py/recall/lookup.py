"""Asks whether a build has been made before and nothing of it has changed, and gives its result.

This is a program of its own beside the pipeline: it reads the state database with plain SQL and
imports hardly anything, since importing the pipeline alone takes longer than all of its work. It
knows no exceptions to the rule "everything is as it was"; anything else is for the pipeline.

All checks of the store, and all that is written to it, are one transaction: what the result
stands on cannot be collected in between.
"""

from __future__ import annotations

import marshal
import os
import sqlite3
import sys
import time

from buildkit_py.filestamps import same_stamps
from buildkit_py.recall.keys import command_key, root_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

TOUCH_AFTER = 3600.0  # seconds; as the local cache has it
_KEEP_BUILDS, _KEEP_SECONDS = 50, 48 * 3600.0
_BUSY_SECONDS = 5.0
_LEAST_ROOM = 1 << 20


def recall(words: Sequence[str], environment: Mapping[str, str] = os.environ) -> bool:
    """Carry out a command line that builds what it has built before; False if it does not."""
    if not _may_build(words) or environment.get("PYBUILD_DEBUG"):
        return False
    root = root_of(words, environment)
    database = os.path.join(root, "state.db")
    if not os.path.exists(database) or _is_full(root):
        return False
    began = time.time()
    try:
        connection = sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error:
        return False
    try:
        found = _find(connection, command_key(words, root, environment))
        if found is None or not _stands(found, environment):
            return False
        from buildkit_py.recall.show import can_show, show  # noqa: PLC0415

        if not can_show(found, environment):
            return False
        scanned = time.time() - began
        if not _take(connection, found, root, began):
            return False
    except (sqlite3.Error, OSError, ValueError, EOFError, TypeError, KeyError):
        return False  # whatever is wrong, the pipeline says it better
    finally:
        connection.close()
    show(found, scanned, environment)
    return True


def _is_full(root: str) -> bool:
    """Whether opening the database could end in a signal (see store/room.py)."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize < _LEAST_ROOM


def _may_build(words: Sequence[str]) -> bool:
    """Whether the first word leaves it open that this is a build."""
    if not words:
        return False
    first = words[0]
    return first == "build" or not first.isalpha() or os.path.isdir(first)


def _find(connection: sqlite3.Connection, key: bytes) -> dict[str, Any] | None:
    row = connection.execute("SELECT data FROM recalls WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    boot = connection.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        if boot is None or boot[0] != file.read().strip():
            return None  # after a crash of the host the store is checked first
    found: dict[str, Any] = marshal.loads(row[0])  # noqa: S302  # our own data
    found["key"] = key
    return found


# ------------------------------------------------------------------ what was read
def _stands(found: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether everything that the build read is as it was."""
    return (
        all(environment.get(name) == value for name, value in found["environment"])
        and all(_content(path) == content for path, content in found["files"])
        and all(
            os.path.isdir(asked) and os.path.realpath(asked) == real
            for asked, real in found["places"]
        )
        and all(same_stamps(*tree) for tree in found["trees"])
    )


def _content(path: bytes) -> bytes | None:
    """The bytes of a file; None if there is nothing of that name."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(file, "rb") as stream:  # pathlib costs more than the build
        return stream.read()


# ------------------------------------------------------------------ the store
def _take(
    connection: sqlite3.Connection, found: dict[str, Any], root: str, started: float
) -> bool:
    """Check the store, name the image, and record the build: all of it or nothing."""
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    folder = None
    try:
        if not _store_stands(connection, found):
            connection.execute("ROLLBACK")
            return False
        now = time.time()
        _name(connection, found, now)
        connection.execute("UPDATE recalls SET last_used = ? WHERE key = ?", (now, found["key"]))
        found["new_ref"] = ref = os.urandom(13).hex()[:25]
        folder = os.path.join(root, "builds", ref)
        _record_build(connection, found, folder, (started, now))
        for path, text in found["results"]:
            _write(path, text.replace(found["ref"], ref).encode())
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if folder is not None:
            _remove_log(folder)
        raise
    _expire(connection, root, now)
    return True


def _store_stands(connection: sqlite3.Connection, found: Mapping[str, Any]) -> bool:
    """Whether names of bases, cache records and the image are what they were."""
    query = connection.execute
    row = query("SELECT snapshot FROM images WHERE id = ?", (found["image"],)).fetchone()
    if row is None or row[0] != found["snapshot"]:
        return False
    for key, snapshot in found["records"]:
        row = query(
            "SELECT r.snapshot FROM cache_records AS r LEFT JOIN snapshots AS s"
            " ON s.id = r.snapshot WHERE r.key = ?"
            " AND (r.snapshot IS NULL OR s.id IS NOT NULL)",
            (key,),
        ).fetchone()
        if row is None or row[0] != snapshot:
            return False
    return all(
        query(statement, values).fetchall() == rows for statement, values, rows in bases(found)
    )


def bases(found: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Queries of the base images' names, with the rows that they gave."""
    by_name = "SELECT platform, image FROM image_names WHERE name = ? ORDER BY platform"
    by_digest = (
        "SELECT images.platform, id FROM images JOIN image_digests ON image = id"
        " WHERE repository = ? AND digest = ? ORDER BY images.platform"
    )
    return [(by_digest if len(name) > 1 else by_name, name, rows) for name, rows in found["bases"]]


def _name(connection: sqlite3.Connection, found: Mapping[str, Any], now: float) -> None:
    for name in found["names"]:
        connection.execute("DELETE FROM image_names WHERE name = ?", (name,))
        connection.execute(
            "INSERT INTO image_names (name, platform, image, tagged) VALUES (?, ?, ?, ?)",
            (name, found["platform"], found["image"], now),
        )
    connection.execute("UPDATE images SET last_used = ? WHERE id = ?", (now, found["image"]))
    touched = [(now, key, now - TOUCH_AFTER) for key in found["used"]]
    connection.executemany(
        "UPDATE cache_records SET last_used = ? WHERE key = ? AND last_used < ?", touched
    )
    touched = [(now, snapshot, now - TOUCH_AFTER) for snapshot in found["snapshots"]]
    connection.executemany(
        "UPDATE snapshots SET last_used = ?, uses = uses + 1 WHERE id = ? AND last_used < ?",
        touched,
    )


def _record_build(
    connection: sqlite3.Connection,
    found: Mapping[str, Any],
    folder: str,
    times: tuple[float, float],
) -> None:
    started, now = times
    ref = found["new_ref"]
    head, tail = found["build"]
    data = f'{head}, "pid": {os.getpid()}, "summary": {{"seconds": {now - started:.3f}, {tail}'
    connection.execute(
        "INSERT INTO builds (ref, started, completed, status, image, data)"
        " VALUES (?, ?, ?, 'completed', ?, ?)",
        (ref, started, now, found["image"], data),
    )
    events = found["events"].replace(found["ref"], ref).replace('"time":0.0', f'"time":{now!r}')
    os.mkdir(folder, 0o700)
    _write_new(os.path.join(folder, "events.jsonl"), events.encode())


def _expire(connection: sqlite3.Connection, root: str, now: float) -> None:
    """A record goes when it is old and there are many newer ones, as `store.builds` has it."""
    old = connection.execute(
        "SELECT ref FROM (SELECT ref, completed, started, status FROM builds ORDER BY started DESC"
        " LIMIT -1 OFFSET ?) WHERE COALESCE(completed, started) < ? AND status != 'running'",
        (_KEEP_BUILDS, now - _KEEP_SECONDS),
    ).fetchall()
    for row in old:
        connection.execute("DELETE FROM builds WHERE ref = ?", row)
        _remove_log(os.path.join(root, "builds", row[0]))


def _remove_log(folder: str) -> None:
    import shutil  # noqa: PLC0415  # old records and failures only

    shutil.rmtree(folder, ignore_errors=True)


def _write(path: str, data: bytes) -> None:
    """Replace a file at once; a device, a pipe, and what a link leads to are written to."""
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        _write_new(path, data)
        return
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        _write_new(partial, data)
        os.replace(partial, path)
    except OSError:
        if os.path.lexists(partial):
            os.unlink(partial)
        raise


def _write_new(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def run(words: Sequence[str]) -> int | None:
    """`recall` as a command: its exit status, or None if the pipeline has to carry it out."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        if not recall(words):
            return None
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("ERROR: interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        sys.stderr.write(f"ERROR: cannot write the output: {error.strerror}\n")
        return 1
    return 0
