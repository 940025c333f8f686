"""Defaults of builds that a `pybuild.toml` gives: its table `[build]`, and what may not be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.registry.places import config_files

if TYPE_CHECKING:
    from buildkit_py.engine.request import BuildRequest

_KEYS = frozenset({"normalize-modes"})


def settled(request: BuildRequest, environment: Mapping[str, str]) -> BuildRequest:
    """The request with everything decided that it left open. Raises UsageError."""
    if request.jobs < 0:
        raise UsageError(
            f"invalid number of jobs {request.jobs}", hint="1 or more, or 0: one for each core"
        )
    if request.normalize_modes is not None:
        return request
    return replace(request, normalize_modes=_normalize_modes(environment))


def _normalize_modes(environment: Mapping[str, str]) -> bool:
    chosen = False
    for path, text in config_files(environment):
        chosen = _decoded(text, path, default=chosen)
    return chosen


def _decoded(text: str, path: str, *, default: bool) -> bool:
    import tomllib  # noqa: PLC0415  # only where there is a file

    try:
        table = tomllib.loads(text).get("build", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: build is not a table")
    for key in table.keys() - _KEYS:
        raise UsageError(
            f"{path}: unknown key build.{key}", hint="known: " + " ".join(sorted(_KEYS))
        )
    value = table.get("normalize-modes", default)
    if not isinstance(value, bool):
        raise UsageError(f"{path}: build.normalize-modes is neither true nor false")
    return value
