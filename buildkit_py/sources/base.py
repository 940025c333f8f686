"""What a source is: something outside the build that is first pinned, then fetched.

Resolving says what content it is now, cheaply, so that the cache can be asked; writing brings the
files into an empty directory and is done only when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from buildkit_py.graph import ImageOp
from buildkit_py.oci.config import ImageConfig

Secrets: TypeAlias = Callable[[str], bytes | None]
"""The value of a build secret by its id; None where there is none."""

Report: TypeAlias = Callable[[str, int, int], None]
"""Progress of a download: what, bytes so far, bytes in all (0: unknown). May raise to cancel."""


def no_secrets(name: str) -> bytes | None:
    """A build without secrets."""
    del name
    return None


def no_report(what: str, current: int, total: int) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A base image: what it is exactly, and what a container of it starts with."""

    op: ImageOp
    config: ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a remote source holds now. `parts` (JSON) identify it in cache keys."""

    parts: Mapping[str, Any]
    modified: int | None = None  # seconds: Last-Modified, or the commit's time
    facts: Mapping[str, str] = field(default_factory=dict)


Op_contra = TypeVar("Op_contra", contravariant=True)


class Source(Protocol[Op_contra]):
    """Files from elsewhere. Calls come from several threads."""

    def resolve(self, op: Op_contra, secrets: Secrets = no_secrets) -> Resolved:
        """Find out what the source holds now. Raises SourceError."""
        ...

    def write(
        self,
        op: Op_contra,
        resolved: Resolved,
        directory: Path,
        secrets: Secrets = no_secrets,
        report: Report = no_report,
    ) -> int:
        """Bring the files into an empty directory; gives their time in seconds.

        Raises SourceError, ContentError.
        """
        ...
