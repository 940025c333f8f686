"""Where `pybuild.toml` lies. Apart from what reads it: builds look at once whether it is there."""

from __future__ import annotations

import os
from collections.abc import Mapping


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
