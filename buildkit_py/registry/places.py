"""Where `pybuild.toml` lies. Apart from what reads it: builds look at once whether it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from buildkit_py.errors import UsageError

_MAX_CONFIG = 1 << 20


def config_paths(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Where a `pybuild.toml` is looked for; later files win.

    The current directory is not among them: a checked-out project must not redirect pulls.
    """
    home = environment.get("XDG_CONFIG_HOME") or os.path.join(
        environment.get("HOME") or "/", ".config"
    )
    paths = ["/etc/pybuild/pybuild.toml", os.path.join(home, "pybuild", "pybuild.toml")]
    if environment.get("PYBUILD_CONFIG"):
        paths = [environment["PYBUILD_CONFIG"]]
    return tuple(paths)


def config_files(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Path and text (1 MiB at most) of each of them that is there. Raises UsageError."""
    for path in config_paths(environment):
        try:
            with open(path, "rb") as stream:
                data = stream.read(_MAX_CONFIG)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        yield path, data.decode("utf-8", "replace")
