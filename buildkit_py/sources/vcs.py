"""What a checkout says of a local context: its commit, its remote, where in it the context lies.

The facts are those that buildx adds to provenance (`vcs`); nothing checks them. Only questions
that run no other program are asked of git, so that a context of someone else does no harm.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import SourceError
from buildkit_py.sources.gitcommand import GitAccess, GitCommand

if TYPE_CHECKING:
    from collections.abc import Mapping

_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_CREDENTIALS = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://)[^/@]*@")
_ANY_OWNER = ("-c", "safe.directory=*")


def vcs_facts(places: Mapping[str, Path], environment: Mapping[str, str]) -> dict[str, str]:
    """`revision`, `source`, and `localdir:NAME` of each place; nothing outside of a checkout.

    The first place decides which checkout it is. BUILDX_GIT_INFO=false turns this off,
    BUILDX_GIT_CHECK_DIRTY=true marks the revision of a changed checkout.
    """
    directory = next(iter(places.values()), None)
    if directory is None or environment.get("BUILDX_GIT_INFO") in _FALSE:
        return {}
    root = _checkout(directory.resolve())
    if root is None:
        return {}
    git = _Git(directory, environment)
    revision = git.ask("rev-parse", "--verify", "-q", "HEAD")
    dirty = environment.get("BUILDX_GIT_CHECK_DIRTY") in _TRUE
    if revision and dirty and git.ask("status", "--porcelain", "--ignored=no"):
        revision += "-dirty"
    out = {"revision": revision, "source": _remote(git)}
    for name, place in places.items():
        resolved = place.resolve()
        if resolved.is_relative_to(root):
            out[f"localdir:{name}"] = os.fspath(resolved.relative_to(root))
    return {name: value for name, value in sorted(out.items()) if value}


def _checkout(directory: Path) -> Path | None:
    """The nearest directory above that has a `.git`: a folder, or the file of a worktree."""
    for place in (directory, *directory.parents):
        if (place / ".git").exists():
            return place
    return None


def _remote(git: _Git) -> str:
    """The URL of the branch's remote, else of `origin`, else of `upstream`; no credentials."""
    branch = git.ask("symbolic-ref", "-q", "--short", "HEAD")
    own = git.ask("config", "--get", f"branch.{branch}.remote") if branch else ""
    for name in (own, "origin", "upstream"):
        url = git.ask("config", "--get", f"remote.{name}.url") if name else ""
        if url:
            return _CREDENTIALS.sub(r"\1", url)
    return ""


class _Git:
    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._command = GitCommand(environment, GitAccess())
        self._directory = directory

    def ask(self, *arguments: str) -> str:
        """One line of an answer; empty where git is not there, or does not know."""
        try:
            said = self._command.run(*_ANY_OWNER, *arguments, directory=self._directory)
        except SourceError:
            return ""
        return said.strip()
