"""What a command line must have in common with an earlier one to mean the same build."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from buildkit_py.version import __version__

_FORMAT = "1"
_PREFIXES = ("BUILDKIT_", "BUILDX_", "DOCKER_", "PYBUILD_")
_NAMES = frozenset(
    ("COLORTERM", "HOME", "NO_COLOR", "SOURCE_DATE_EPOCH", "TERM", "XDG_CONFIG_HOME")
)


def command_key(words: Sequence[str], root: str, environment: Mapping[str, str]) -> bytes:
    """Everything that decides what the words mean: program, place, and part of the environment.

    Words are compared as they are, not understood: a build is found by the same command again.
    """
    settings = sorted(
        f"{name}={value}"
        for name, value in environment.items()
        if name in _NAMES
        or name.lower().endswith("_proxy")
        or (name.startswith(_PREFIXES) and name != "PYBUILD_ROOT")  # `root` says what it means
    )
    machine = os.uname().machine
    here = (_FORMAT, __version__, machine, root, os.getcwd(), str(len(words)))
    return b"\0".join(map(os.fsencode, (*here, *words, *settings)))


def root_of(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The state root that a command line names, by whichever way.

    A word that only looks like the option does no harm: no build is recorded under that root.
    """
    for index, word in enumerate(words):
        if word == "--root" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--root="):
            return word[len("--root=") :]
    if chosen := environment.get("PYBUILD_ROOT"):
        return chosen
    if os.geteuid() == 0:
        return "/var/lib/pybuild"
    home = environment.get("HOME", "/tmp")  # noqa: S108
    return (environment.get("XDG_DATA_HOME") or f"{home}/.local/share") + "/pybuild"
