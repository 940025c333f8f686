"""Where everything lives under the state root.

    state.db            SQLite: images, blobs, snapshots, layers, cache records, builds, leases
    blobs/sha256/<hex>  manifests, configs, layers that came from or went to the outside
    snapshots/<name>/   fs/: one layer in the format of an overlay upper directory
    cache-mounts/<id>/  RUN --mount=type=cache
    builds/<ref>/       the log of each build
    locks/              flock files; deleted by who holds them only
    tmp/<lease>/        everything half-made, swept when the lease's lock is free
    partial/<hex>       downloads that were cut short, for the next pull to go on with
    trash/              trees on their way out

All of these are on one file system, so that `rename` moves whatever is finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildkit_py.digest import Digest
from buildkit_py.store.failures import explain_os_errors

_DIRECTORIES = ("blobs/sha256", "snapshots", "cache-mounts", "builds", "locks", "tmp", "trash")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePaths:
    """Names under one state root. Nothing is created before `ensure`."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / "state.db"

    @property
    def blobs(self) -> Path:
        """Blobs, a folder for each digest algorithm."""
        return self.root / "blobs"

    @property
    def snapshots(self) -> Path:
        """One folder for each stored layer directory."""
        return self.root / "snapshots"

    @property
    def cache_mounts(self) -> Path:
        """Persistent directories of `RUN --mount=type=cache`."""
        return self.root / "cache-mounts"

    @property
    def builds(self) -> Path:
        """Logs of past builds."""
        return self.root / "builds"

    @property
    def locks(self) -> Path:
        """Files that are only ever locked."""
        return self.root / "locks"

    @property
    def tmp(self) -> Path:
        """Half-made things, a folder for each lease."""
        return self.root / "tmp"

    @property
    def partial(self) -> Path:
        """Blobs of which the rest is still to be fetched."""
        return self.root / "partial"

    @property
    def trash(self) -> Path:
        """Trees that no row names any more."""
        return self.root / "trash"

    def blob(self, digest: Digest) -> Path:
        """The file of a blob."""
        algorithm, _, digits = digest.partition(":")
        return self.blobs / algorithm / digits

    def layer(self, name: str) -> Path:
        """The directory that holds a layer's files."""
        return self.snapshots / name / "fs"

    def lock(self, name: str) -> Path:
        """A lock file."""
        return self.locks / name

    def ensure(self) -> None:
        """Create the folders. Raises StoreError."""
        if (self.root / _DIRECTORIES[-1]).is_dir():
            return
        with explain_os_errors(f"cannot create the state root {self.root}"):
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            for name in _DIRECTORIES:
                (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)


def default_root(uid: int, environ: Mapping[str, str]) -> Path:
    """`$PYBUILD_ROOT`, else /var/lib/pybuild for root, else a folder of the user's data home."""
    if chosen := environ.get("PYBUILD_ROOT"):
        return Path(chosen)
    if uid == 0:
        return Path("/var/lib/pybuild")
    data_home = environ.get("XDG_DATA_HOME") or f"{environ.get('HOME', '/tmp')}/.local/share"  # noqa: S108
    return Path(data_home) / "pybuild"
