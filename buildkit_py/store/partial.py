"""Downloads that were cut short, kept for the next process: `partial/<hex>`.

The file is locked by whoever writes it, so that two pulls of one layer never share it, and a lock
that is free means a download that nobody works on. What it holds is believed only when the whole
has the blob's digest. The last writer renames it to its place among the blobs, lock in hand.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from buildkit_py.digest import hex_of
from buildkit_py.store.failures import explain_os_errors

if TYPE_CHECKING:
    from buildkit_py.oci.descriptor import Descriptor
    from buildkit_py.store.paths import StatePaths

_LEAST = 1 << 20  # smaller blobs are sooner fetched again than looked after
MAX_AGE = 2 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """An open, locked file with the first bytes of a blob, maybe none."""

    path: Path
    file: BinaryIO


def open_partial(paths: StatePaths, wanted: Descriptor) -> Partial | None:
    """Take up an earlier download, or begin one; None where that is not worth it or not free."""
    if wanted.size < _LEAST:
        return None
    path = paths.partial / hex_of(wanted.digest)
    with explain_os_errors("cannot write to the store"):
        paths.partial.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o600), "rb+")
        if not _locked(file, path):
            file.close()
            return None
        if os.fstat(file.fileno()).st_size > wanted.size:
            file.truncate(0)
    return Partial(path=path, file=file)


def forget_partials(paths: StatePaths, before: float = float("inf")) -> int:
    """Remove downloads that nobody works on, those last written `before`. Gives bytes freed."""
    freed = 0
    with suppress(FileNotFoundError), os.scandir(paths.partial) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < before:
                freed += _remove(Path(entry.path))
    return freed


def _remove(path: Path) -> int:
    try:
        with path.open("rb") as file:
            if not _locked(file, path):
                return 0
            size = os.fstat(file.fileno()).st_size
            path.unlink()
            return size
    except OSError:
        return 0  # another process was faster


def _locked(file: BinaryIO, path: Path) -> bool:
    """Whether the file could be locked and is still the one of that name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
