"""What sources keep between builds: bare git repositories, and the files of ADD URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit_py.store.locks import FileLock
from buildkit_py.store.trash import discard, tree_size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from buildkit_py.store import Store
    from buildkit_py.store.database import Database
    from buildkit_py.store.paths import StatePaths
    from buildkit_py.store.usage import UsageRecord

_GIT, _HTTP = "source.git.checkout", "source.http"
_PREFIX = "git-"


def download_records(store: Store) -> list[UsageRecord]:
    """Repositories and downloaded files, as `du` lists them."""
    from buildkit_py.store.usage import UsageRecord  # noqa: PLC0415  (which imports this module)

    with store.db.explained():
        connection = store.db.connection()
        repositories = connection.execute("SELECT * FROM git_records").fetchall()
        files = connection.execute(
            "SELECT blobs.digest, size, created, MAX(checked) AS checked FROM http_records"
            " JOIN blobs ON blobs.digest = http_records.digest GROUP BY blobs.digest"
        ).fetchall()
    out = [
        UsageRecord(
            id=_PREFIX + row["directory"],
            kind=_GIT,
            size=_size(store.paths.root / "git" / row["directory"]),
            created=row["last_used"],
            last_used=row["last_used"],
            uses=1,
            description=f"git repository {row['remote']}",
            mutable=True,
        )
        for row in repositories
    ]
    out += [
        UsageRecord(
            id=row["digest"],
            kind=_HTTP,
            size=row["size"],
            created=row["created"],
            last_used=row["checked"],
            uses=1,
            description="downloaded file",
        )
        for row in files
    ]
    return out


def _size(folder: Path) -> int:
    try:
        return tree_size(folder)
    except FileNotFoundError:
        return 0


def is_download(record: UsageRecord) -> bool:
    """Whether the record is one of these, and no snapshot."""
    return record.kind in {_GIT, _HTTP} and not record.id.isdigit()


def forget_downloads(store: Store, records: Sequence[UsageRecord]) -> int:
    """Remove repositories that no build works with, and let go of files. Gives bytes freed."""
    freed = 0
    for record in records:
        if record.kind == _GIT:
            freed += record.size if _remove_repository(store, record.id) else 0
        else:
            with store.db.transaction() as connection:
                connection.execute("DELETE FROM http_records WHERE digest = ?", (record.id,))
    return freed


def _remove_repository(store: Store, identity: str) -> bool:
    name = identity.removeprefix(_PREFIX)
    lock = FileLock(store.paths.lock(f"git-{name}"))
    if not lock.try_acquire():
        return False
    try:
        with store.db.transaction() as connection:
            connection.execute("DELETE FROM git_records WHERE directory = ?", (name,))
        discard(store.paths, store.paths.root / "git" / name)
    finally:
        lock.release()
    return True


def lost_repositories(db: Database, paths: StatePaths) -> list[Path]:
    """Repositories that no row names: of a build that was killed while it made them."""
    folder = paths.root / "git"
    if not folder.is_dir():
        return []
    with db.explained():
        rows = db.connection().execute("SELECT directory FROM git_records")
        known = {row["directory"] for row in rows}
    return [item for item in sorted(folder.iterdir()) if item.is_dir() and item.name not in known]
