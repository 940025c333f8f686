"""What solving a graph gives: results by vertex, and how each came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from buildkit_py.cache.base import ExportedResult
    from buildkit_py.digest import Digest
    from buildkit_py.solver.ports import Result


class Origin(Enum):
    """How a vertex came by its result."""

    RUN = "run"  # carried out now
    CACHED = "cached"  # found
    SKIPPED = "skipped"  # not looked at, as something above it was found
    WAITED = "waited"  # carried out meanwhile by another process, then found


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one vertex ended. `reason` says why it was not cached; `keys` are all that name it."""

    origin: Origin
    canonical: Digest | None = None
    keys: tuple[Digest, ...] = ()
    reason: str = ""
    description: str = ""
    created: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution(Mapping["Digest", "Result"]):
    """Results by vertex digest. A skipped vertex has one only if its record was at hand."""

    results: Mapping[Digest, Result]
    outcomes: Mapping[Digest, Outcome] = field(default_factory=dict)

    def __getitem__(self, digest: Digest) -> Result:
        return self.results[digest]

    def __iter__(self) -> Iterator[Digest]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def reasons(self) -> Mapping[Digest, str]:
        """Why each vertex that was run had not been found."""
        return {key: item.reason for key, item in self.outcomes.items() if item.reason}

    def exportable(self) -> tuple[ExportedResult, ...]:
        """All results that have a key and a snapshot, for caches to export."""
        from buildkit_py.cache.base import ExportedResult  # noqa: PLC0415  # rarely asked for

        return tuple(
            ExportedResult(
                keys=outcome.keys,
                canonical=outcome.canonical,
                snapshot=self.results[digest].snapshot or 0,
                created=outcome.created,
                description=outcome.description,
            )
            for digest, outcome in self.outcomes.items()
            if outcome.canonical is not None
            and digest in self.results
            and self.results[digest].snapshot is not None
        )

    def cached(self, digest: Digest) -> bool:
        """Whether a vertex was not run."""
        outcome = self.outcomes.get(digest)
        return outcome is not None and outcome.origin is not Origin.RUN
