"""File digests of a build context, remembered by stat data between builds.

An entry is believed while device, inode, size, mode and both times are what they were. It is
remembered only if its last change lies clearly before the moment it was read: a write within the
same tick of the file system's clock would leave no trace. ctime decides that, as nobody can set
it; one without fractions comes from a file system that counts whole seconds.

One file for each context, loaded and written whole: that is several times faster than a table.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import sys
from pathlib import Path

from buildkit_py.filestamps import is_settled, stamp_of

_FORMAT = f"2 {sys.version_info[0]}.{sys.version_info[1]} {marshal.version}"
_WORTH_FILES, _WORTH_BYTES = 200, 1 << 20
_MOST_CONTEXTS = 64
_SPARE = 10_000


class StatCache:
    """Remembered digests of one context. `known` maps paths to stamp and digest in one."""

    def __init__(self, folder: Path | None, identity: bytes) -> None:
        digits = hashlib.sha256(identity).hexdigest()[:32]
        self._file = None if folder is None else folder / digits
        self.known: dict[bytes, bytes] = self._load()
        self._new_files = 0
        self._new_bytes = 0

    def put(self, path: bytes, status: os.stat_result, digest: bytes, read_at_ns: int) -> None:
        """Remember a digest that has just been taken, if its file has settled."""
        if is_settled(status.st_ctime_ns, read_at_ns):
            self.known[path] = stamp_of(status) + digest
            self._new_files += 1
            self._new_bytes += status.st_size
        else:
            self.known.pop(path, None)

    def save(self) -> None:
        """Write the file if that spares the next build something. Never fails a build."""
        if self._file is None or not self._new_files:
            return
        if self._new_files < _WORTH_FILES and self._new_bytes < _WORTH_BYTES:
            return
        data = marshal.dumps((_FORMAT, self.known))
        partial = self._file.with_name(f"{self._file.name}.{os.getpid()}.{id(self)}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self._file)
            _drop_oldest(self._file.parent)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        self._new_files = self._new_bytes = 0

    def keep_only(self, paths: set[bytes]) -> None:
        """Forget what is not among `paths`, once that is a good part of all."""
        if len(self.known) > 2 * len(paths) + _SPARE:
            self.known = {path: item for path, item in self.known.items() if path in paths}

    def _load(self) -> dict[bytes, bytes]:
        if self._file is None:
            return {}
        try:
            form, known = marshal.loads(self._file.read_bytes())  # noqa: S302  # our own file
        except (OSError, ValueError, TypeError, EOFError):
            return {}
        return known if form == _FORMAT and isinstance(known, dict) else {}


def _drop_oldest(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[_MOST_CONTEXTS:]:
        path.unlink(missing_ok=True)
