"""Containers that `pybuild run` has kept: their files, what they ran, and how they ended.

A stopped container's snapshot is pinned until the container is removed. A container whose process
was killed has no files; it is listed as dead.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from sqlite3 import Row
from typing import TYPE_CHECKING

from buildkit_py.digest import Digest
from buildkit_py.errors import ContainerError, UsageError
from buildkit_py.oci.config import ContainerConfig, container_from_json, container_to_json
from buildkit_py.platforms import Platform, parse_platform
from buildkit_py.store.leases import is_alive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from buildkit_py.store.database import Database

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewContainer:
    """What is known of a container before it starts. `base` is the snapshot it starts on."""

    image: str
    image_id: Digest | None
    command: tuple[str, ...]
    config: ContainerConfig
    platform: Platform
    base: int | None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Container(NewContainer):
    """A container of the store. `status` is running, exited or dead."""

    id: str
    status: str
    snapshot: int | None
    code: int | None
    created: float
    ended: float | None


class ContainerStore:
    """The containers of a state root."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def begin(self, new: NewContainer, now: float) -> str:
        """Note a container that is about to start; gives its id. Raises ContainerError."""
        if new.name is not None and not _NAME.match(new.name):
            raise UsageError(
                f"invalid container name ({new.name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )
        identity = secrets.token_hex(32)
        values = (
            identity,
            new.name,
            new.image,
            new.image_id,
            json.dumps(new.command),
            json.dumps(container_to_json(new.config)),
            str(new.platform),
            new.base,
            self._db.lease.name,
            now,
        )
        with self._db.transaction() as connection:
            taken = connection.execute("SELECT 1 FROM containers WHERE name = ?", (new.name,))
            if taken.fetchone() is not None:
                raise ContainerError(
                    f'the container name "{new.name}" is already in use',
                    hint="remove that container or choose another name",
                )
            connection.execute(
                "INSERT INTO containers (id, name, image, image_id, command, config, platform,"
                " base, lease, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        return identity

    def finish(self, identity: str, *, code: int, snapshot: int, now: float) -> None:
        """Note how a container has ended, and keep its files."""
        with self._db.transaction() as connection:
            connection.execute(
                "UPDATE containers SET code = ?, snapshot = ?, ended = ? WHERE id = ?",
                (code, snapshot, now, identity),
            )
            self._db.pin(_owner(identity), "snapshot", snapshot)

    def forget(self, identity: str) -> None:
        """Remove a container; its files go with the next collection."""
        with self._db.transaction() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (identity,))
            self._db.unpin(_owner(identity))

    def list(self) -> tuple[Container, ...]:
        """All containers, newest first."""
        return self._rows("ORDER BY created DESC, id")

    def get(self, name: str) -> Container:
        """A container by name, id, or the beginning of its id. Raises ContainerError."""
        found = self._rows("WHERE name = ? OR id = ?", (name, name))
        if not found and re.fullmatch("[0-9a-f]{1,64}", name):
            found = self._rows("WHERE id >= ? AND id < ?", (name, name + "g"))
        if len(found) > 1:
            raise ContainerError(f"container id {name} is ambiguous", hint="give more digits")
        if not found:
            raise ContainerError(f"no such container: {name}", hint="see `pybuild ps -a`")
        return found[0]

    def _rows(self, rest: str, bindings: Sequence[str] = ()) -> tuple[Container, ...]:
        with self._db.explained():
            query = f"SELECT * FROM containers {rest}"  # noqa: S608  (texts of this module)
            rows = self._db.connection().execute(query, bindings).fetchall()
        return tuple(self._container(row) for row in rows)

    def _container(self, row: Row) -> Container:
        status = "exited"
        if row["code"] is None:
            alive = row["lease"] == self._db.lease.name or is_alive(self._db.paths, row["lease"])
            status = "running" if alive else "dead"
        platform = parse_platform(row["platform"], Platform())
        return Container(
            id=row["id"],
            name=row["name"],
            image=row["image"],
            image_id=None if row["image_id"] is None else Digest(row["image_id"]),
            command=tuple(json.loads(row["command"])),
            config=container_from_json(json.loads(row["config"])),
            platform=platform,
            base=row["base"],
            status=status,
            snapshot=row["snapshot"],
            code=row["code"],
            created=row["created"],
            ended=row["ended"],
        )


def _owner(identity: str) -> str:
    return f"container-{identity}"
