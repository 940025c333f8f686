"""What the solver asks of a cache: records found by key, and where new ones are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from buildkit_py.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRecord:
    """A result that is known. `canonical` is its content key; `key` may be an alias of that.

    `snapshot` None is an empty root. `description` is the instruction as written, `slot` the
    step's place in its build (scope, stage, number): by both, a miss finds what to compare with.
    """

    key: Digest
    canonical: Digest
    snapshot: int | None
    parts: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    description: str = ""
    slot: str = ""
    created: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedResult:
    """One result of a build, with all keys that lead to it."""

    keys: tuple[Digest, ...]
    canonical: Digest
    snapshot: int
    created: float = 0.0
    description: str = ""


class CacheBackend(Protocol):
    """Finds records. An import backend makes the snapshot's (lazy) rows when it finds one."""

    def find(self, key: Digest) -> CacheRecord | None:
        """The record of a key whose snapshot is in the store, or None.

        Never raises for a cache that cannot be read: it warns once and finds nothing.
        """
        ...


class CacheStore(CacheBackend, Protocol):
    """The state root's own cache: finds, keeps, and answers what a miss is compared with."""

    def save(self, record: CacheRecord, aliases: Sequence[Digest] = ()) -> None:
        """Keep a record under its canonical key, and under aliases; newer ones replace older."""
        ...

    def peek(self, key: Digest) -> CacheRecord | None:
        """As `find`, without keeping the snapshot from garbage collection."""
        ...

    def alias(self, record: CacheRecord, aliases: Sequence[Digest]) -> None:
        """Make a record that was found be found by further keys too."""
        ...

    def candidates(self, description: str, slot: str) -> Sequence[CacheRecord]:
        """Earlier records of the same step (same place or same text), newest first."""
        ...

    def was_built(self, description: str) -> bool:
        """Whether a step of that text is known to have been built, though not what it gave."""
        ...

    def is_expired(self, key: Digest) -> bool:
        """Whether a key has a record that is too old to be found."""
        ...

    def files(self, content: str) -> Mapping[str, str] | None:
        """The file list that a content digest was taken of, if it was kept."""
        ...

    def save_files(self, content: str, files: Mapping[str, str]) -> None:
        """Keep a file list, bounded in size and number."""
        ...
