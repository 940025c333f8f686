"""Failures of the disk and of SQLite as one clear StoreError each."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import strerror

from buildkit_py.errors import StoreError

_HINTS = {
    errno.ENOSPC: "free some space, or run `pybuild prune`",
    errno.EDQUOT: "the disk quota is used up: free some space, or run `pybuild prune`",
    errno.EACCES: "choose another state root with --root or PYBUILD_ROOT",
    errno.EPERM: "choose another state root with --root or PYBUILD_ROOT",
    errno.EROFS: "choose another state root with --root or PYBUILD_ROOT",
}

_SCARCE = 1 << 18
_LONGEST_PATH = 512 - len("-journal")


@contextmanager
def explain_os_errors(action: str) -> Iterator[None]:
    """Turn an OSError into a StoreError that starts with `action`."""
    try:
        yield
    except OSError as error:
        raise os_error(action, error) from error


def os_error(action: str, error: OSError) -> StoreError:
    """The StoreError for a failed system call."""
    reason = strerror(error.errno).lower() if error.errno else str(error)
    return StoreError(f"{action}: {reason}", hint=_HINTS.get(error.errno or 0))


def _is_full(path: str) -> bool:
    try:
        status = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _SCARCE


def _why_not_opened(database: str) -> str:
    """The reason that SQLite does not tell."""
    if len(os.fsencode(database)) >= _LONGEST_PATH:
        return f"its path is longer than the {_LONGEST_PATH} bytes that SQLite takes"
    folder = os.path.dirname(database)
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return strerror(errno.EROFS).lower()
    except OSError as error:
        return strerror(error.errno or errno.EIO).lower()
    wanted = database if os.path.exists(database) else folder
    return "" if os.access(wanted, os.W_OK) else strerror(errno.EACCES).lower()


def sqlite_error(database: str, error: Exception) -> StoreError:
    """The StoreError for a failure of SQLite."""
    text = str(error)
    hint = None
    if "full" in text or ("disk I/O" in text and _is_full(database)):
        # its shared memory cannot grow on a full disk, which SQLite calls an I/O error
        text = "no space left on device"
        hint = _HINTS[errno.ENOSPC]
    elif "readonly" in text or "unable to open" in text:
        text = _why_not_opened(database) or text
        hint = _HINTS[errno.EACCES]
    elif "not a database" in text or "malformed" in text:
        hint = "the file is damaged or is not ours: move the state root away and build again"
    elif "locked" in text:
        hint = "another pybuild has been writing for a long time"
    return StoreError(f"cannot use the state database {database}: {text}", hint=hint)
