"""Reads the Dockerfile and the ignore file of a local context, for commands that build nothing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from buildkit_py.dockerignore import read_patterns
from buildkit_py.errors import UsageError
from buildkit_py.source import SourceFile

_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalInput:
    """A Dockerfile, and the patterns of its ignore file (None without one)."""

    source: SourceFile
    ignore: tuple[str, ...] | None


def read_input(context: str, file: str | None) -> LocalInput:
    """Read `file`, or the Dockerfile in directory `context`; `-` is standard input.

    A context that is itself a file is taken for the Dockerfile. Raises UsageError.
    """
    if file == "-" or (context == "-" and file is None):
        text = sys.stdin.buffer.read(_LIMIT + 1)
        ignore = None if context == "-" else _ignore(context, None)
        return LocalInput(source=_source("Dockerfile", text), ignore=ignore)
    if "://" in context:
        raise UsageError(
            f"{context} is no local directory", hint="this command reads local files only"
        )
    if file is None and os.path.isfile(context):
        context, file = os.path.dirname(context) or ".", context
    path = _find(context, file)
    try:
        with open(path, "rb") as stream:
            data = stream.read(_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            f"failed to read dockerfile: open {path}: {(error.strerror or 'error').lower()}",
            hint="name the file by -f, or its directory as the operand",
        ) from error
    return LocalInput(source=_source(os.path.basename(path), data), ignore=_ignore(context, path))


def _find(context: str, file: str | None) -> str:
    if file is not None:
        return file
    path = os.path.join(context, "Dockerfile")
    lower = os.path.join(context, "dockerfile")
    return lower if not os.path.exists(path) and os.path.exists(lower) else path


def _source(name: str, data: bytes) -> SourceFile:
    if len(data) > _LIMIT:
        raise UsageError(f"{name} is larger than {_LIMIT >> 20} MiB")
    return SourceFile(name=name, text=data.decode("utf-8", "surrogateescape"))


def _ignore(context: str, dockerfile: str | None) -> tuple[str, ...] | None:
    candidates = [os.path.join(context, ".dockerignore")]
    if dockerfile is not None:
        candidates.insert(0, f"{dockerfile}.dockerignore")
    for path in candidates:
        try:
            with open(path, "rb") as stream:
                return read_patterns(stream.read(_LIMIT).decode("utf-8", "surrogateescape"))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None
