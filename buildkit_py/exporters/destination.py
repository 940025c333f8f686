"""Where an output goes: a file, a directory or standard output; whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from buildkit_py.errors import UsageError
from buildkit_py.store.failures import explain_os_errors

if TYPE_CHECKING:
    from buildkit_py.exporters.base import ExportRequest


@contextmanager
def open_destination(request: ExportRequest, dest: str | None, what: str) -> Iterator[BinaryIO]:
    """A stream to write an archive to. A file appears under its name when it is complete."""
    if not dest:
        raise UsageError(
            f"dest is required for output type {what}", hint="dest=out.tar, or dest=-"
        )
    if dest == "-":
        stream = request.stdout or sys.stdout.buffer
        if stream.isatty():
            raise UsageError(
                "refusing to write an archive to a terminal", hint="redirect it, or give dest=FILE"
            )
        yield stream
        stream.flush()
        return
    with open_file(request.directory / dest) as file:
        yield file


def place_of(path: Path) -> Path | None:
    """Where a whole new file may take the place of `path`: behind links.

    None for what has to be written to: a device, a pipe, a descriptor such as /dev/stdout.
    """
    if path.is_symlink() and os.readlink(path).startswith("/proc/"):
        return None
    place = path.resolve()
    return None if place.exists() and not place.is_file() else place


def write_file(path: Path, data: bytes) -> None:
    """Write a file at once. Raises OSError."""
    place = place_of(path)
    if place is None:
        path.write_bytes(data)
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(place)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends well; devices and pipes are written to."""
    if path.is_dir():
        raise UsageError(f"cannot write an archive to {path}: it is a directory")
    with explain_os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = place_of(path)
        if place is None:
            with path.open("wb") as special:
                yield special
            return
        path = place
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        file = partial.open("wb")
    try:
        with explain_os_errors(f"cannot write {path}"):
            with file:
                yield file
            partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
