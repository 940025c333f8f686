"""ADD of git repositories, and git contexts.

A bare repository for each remote is kept under the state root, so that the next fetch brings only
what is new. A ref is resolved to a commit by asking the remote; the commit identifies the content.
Files are written out as git has them (0644, 0755, symbolic links) with the commit's time.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from buildkit_py.digest import hex_of, sha256
from buildkit_py.errors import SourceError
from buildkit_py.graph import GitOp
from buildkit_py.sources.base import Report, Resolved, Secrets, no_report, no_secrets
from buildkit_py.sources.checkout import FETCH_TIMEOUT, Checkout, shown_remote
from buildkit_py.sources.gitcommand import GitAccess, GitCommand
from buildkit_py.store.locks import FileLock

if TYPE_CHECKING:
    from buildkit_py.store.database import Database

_FULL_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_ASK_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A ref of a remote. `tag` is the tag object of an annotated tag."""

    name: str
    commit: str
    tag: str = ""


class GitSource:
    """Checks out repositories. Thread-safe; processes share one state root."""

    def __init__(
        self,
        db: Database,
        environment: Mapping[str, str],
        *,
        ssh_socket: str | None = None,
        allow_local: bool = False,
        clock: Callable[[], float] = time.time,
        cancelled: threading.Event | None = None,
        log: Callable[[bytes], None] | None = None,
    ) -> None:
        self._db = db
        self._environment = environment
        self._ssh_socket = ssh_socket
        self._allow_local = allow_local
        self._clock = clock
        self._cancelled = cancelled
        self._log = log

    def resolve(self, op: GitOp, secrets: Secrets = no_secrets) -> Resolved:
        """The commit that a repository's ref leads to. Raises SourceError."""
        self._refuse_local(op)
        found = self._find(op, secrets)
        if op.checksum and not any(
            name.startswith(op.checksum) for name in (found.commit, found.tag) if name
        ):
            raise SourceError(
                f"expected checksum to match {op.checksum}, got {found.commit}",
                hint=f"{op.ref or 'the default branch'} of {shown_remote(op.remote)} has moved",
            )
        parts: dict[str, object] = {
            "source": "git",
            "commit": found.commit,
            "subdir": op.subdir,
            "submodules": op.submodules,
            "keep_git_dir": op.keep_git_dir,
        }
        if op.keep_git_dir:
            parts["remote"] = shown_remote(op.remote)  # stands in .git/config
        return Resolved(parts=parts, facts={"commit": found.commit, "ref": found.name})

    def write(
        self,
        op: GitOp,
        resolved: Resolved,
        directory: Path,
        secrets: Secrets = no_secrets,
        report: Report = no_report,
    ) -> int:
        """Check the commit out into an empty directory. Gives the commit's time."""
        self._refuse_local(op)
        report(shown_remote(op.remote), 0, 0)
        git = self._command(op.remote, secrets)
        commit = resolved.facts["commit"]
        with FileLock(self._db.paths.lock("git-" + _name(op.remote)), cancelled=self._cancelled):
            bare = self._repository(op.remote, git)
            self._fetch(git, bare, op.remote, resolved.facts.get("ref", ""), commit)
            scratch = self._db.scratch("git")
            try:
                scratch.mkdir()
                return Checkout(git, bare, op, commit, scratch).write(directory)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _refuse_local(self, op: GitOp) -> None:
        remote = op.remote
        if remote.startswith("-") or op.ref.startswith("-"):
            raise SourceError(f"invalid git repository {remote!r}")
        scheme, separator, _ = remote.partition("://")
        local = scheme.lower() == "file" if separator else "@" not in remote.partition(":")[0]
        if local and not self._allow_local:
            raise SourceError(
                f"git repository {remote!r} is local", hint="use the directory as a build context"
            )

    # -------------------------------------------------------------- remote
    def _command(self, remote: str, secrets: Secrets) -> GitCommand:
        home = self._environment.get("HOME")
        own = os.fspath(self._folder() / "known_hosts")
        users = (os.path.join(home, ".ssh", "known_hosts"),) if home else ()
        plain = tuple(path for path in (own, *users) if " " not in path and "'" not in path)
        access = GitAccess(
            header=_header(remote, secrets),
            header_scope=_scope(remote),
            ssh_socket=self._ssh_socket,
            known_hosts=plain,
            allow_local=self._allow_local,
        )
        return GitCommand(self._environment, access, cancelled=self._cancelled, log=self._log)

    def _find(self, op: GitOp, secrets: Secrets) -> _Found:
        if _FULL_COMMIT.match(op.ref):
            return _Found(name="", commit=op.ref)
        if op.checksum and _FULL_COMMIT.match(op.checksum) and (op.fetch_by_commit or not op.ref):
            return _Found(name="", commit=op.checksum)
        git = self._command(op.remote, secrets)
        patterns = ("HEAD",) if not op.ref else (op.ref, f"{op.ref}^{{}}")
        try:
            text = git.run(
                "ls-remote",
                "--symref",
                "--",
                op.remote,
                *patterns,
                directory=self._folder(),
                timeout=_ASK_TIMEOUT,
            )
        except SourceError as error:
            raise SourceError(
                f"cannot reach the git repository {shown_remote(op.remote)}: {error.message}",
                hint=error.hint
                or "check the name, or give GIT_AUTH_TOKEN as a secret or an SSH agent",
            ) from error
        found = _choose(text, op.ref)
        if found is None:
            raise SourceError(
                f"repository {shown_remote(op.remote)} does not contain ref {op.ref or 'HEAD'}"
            )
        return found

    def _fetch(self, git: GitCommand, bare: Path, remote: str, ref: str, commit: str) -> None:
        if _has(git, bare, commit):
            return
        attempts: list[tuple[str, ...]] = []
        if ref:
            attempts.append(("--depth=1", "--no-tags", "--", remote, f"+{ref}:refs/pybuild/last"))
        attempts.append(("--depth=1", "--no-tags", "--", remote, commit))
        # a server that gives no commits by name: everything, then
        whole = ("--unshallow",) if (bare / "shallow").exists() else ()
        attempts.append(
            (*whole, "--tags", "--force", "--", remote, "+refs/heads/*:refs/pybuild/heads/*")
        )
        problem: SourceError | None = None
        for arguments in attempts:
            # a lock that a killed fetch left; the repository itself is locked by us
            (bare / "shallow.lock").unlink(missing_ok=True)
            try:
                git.run(
                    "fetch",
                    "--quiet",
                    "--no-write-fetch-head",
                    "--no-auto-maintenance",
                    "--no-recurse-submodules",
                    *arguments,
                    directory=bare,
                    timeout=FETCH_TIMEOUT,
                )
            except SourceError as error:
                problem = problem or error
            if _has(git, bare, commit):
                return
        said = f": {problem.message}" if problem else ""
        raise SourceError(f"cannot fetch commit {commit} of {shown_remote(remote)}{said}")

    # -------------------------------------------------------------- cache
    def _folder(self) -> Path:
        folder = self._db.paths.root / "git"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _repository(self, remote: str, git: GitCommand) -> Path:
        """The bare repository of a remote, made if it is new. Its lock must be held."""
        name = _name(remote)
        bare = self._folder() / name
        row = (sha256(remote.encode()), shown_remote(remote), name, self._clock())
        while True:
            made = None if (bare / "HEAD").exists() else self._initialised(git)
            with self._db.transaction() as connection:  # what has no row may be swept before it
                if made is not None:
                    shutil.rmtree(bare, ignore_errors=True)
                    made.rename(bare)
                connection.execute(
                    "REPLACE INTO git_records (key, remote, directory, last_used)"
                    " VALUES (?, ?, ?, ?)",
                    row,
                )
            if (bare / "HEAD").exists():
                return bare

    def _initialised(self, git: GitCommand) -> Path:
        scratch = self._db.scratch("git")
        words = ("init", "--quiet", "--bare", "--template=", "--", os.fspath(scratch))
        git.run(*words, directory=self._folder())
        return scratch


# ------------------------------------------------------------------ refs and names
def _choose(text: str, ref: str) -> _Found | None:
    """The ref meant by a name, of the lines that ls-remote gives: exact, branch, then tag."""
    commits: dict[str, str] = {}
    for line in text.splitlines():
        commit, _, name = line.partition("\t")
        if _FULL_COMMIT.match(commit):
            commits[name] = commit
    candidates = (
        (ref, f"refs/{ref}", f"refs/heads/{ref}", f"refs/tags/{ref}") if ref else ("HEAD",)
    )
    for name in candidates:
        if name in commits:
            peeled = commits.get(f"{name}^{{}}")
            if peeled:
                return _Found(name=name, commit=peeled, tag=commits[name])
            return _Found(name=name, commit=commits[name])
    return None


def _has(git: GitCommand, bare: Path, commit: str) -> bool:
    return git.succeeds("rev-parse", "--quiet", "--verify", f"{commit}^{{tree}}", directory=bare)


def _name(remote: str) -> str:
    return hex_of(sha256(remote.encode()))[:40]


def _header(remote: str, secrets: Secrets) -> str:
    """The header that authenticates us, from the build's secrets."""
    parts = urlsplit(remote)
    if parts.scheme not in {"http", "https"}:
        return ""
    host = parts.netloc.rpartition("@")[2]
    for suffix in (f".{host}", ""):
        header = secrets(f"GIT_AUTH_HEADER{suffix}")
        if header is not None:
            return _checked("Authorization: " + header.decode("utf-8", "replace").strip())
        token = secrets(f"GIT_AUTH_TOKEN{suffix}")
        if token is not None:
            pair = base64.b64encode(b"x-access-token:" + token.strip()).decode()
            return _checked(f"Authorization: basic {pair}")
    return ""


def _checked(header: str) -> str:
    if not header.isprintable():
        raise SourceError("a GIT_AUTH secret is no header value")
    return header


def _scope(remote: str) -> str:
    """The URLs that may see the header: the remote's own, or all of github.com for one there."""
    for prefix in ("https://github.com/", "https://www.github.com/"):
        if remote.startswith(prefix):
            return prefix
    return remote
