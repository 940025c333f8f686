"""From a bare git repository to files in a directory."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from buildkit_py.errors import SourceError
from buildkit_py.graph import GitOp
from buildkit_py.sources.gitcommand import GitCommand

FETCH_TIMEOUT = 3600.0


class Checkout:
    """One commit on its way from a bare repository to a directory."""

    def __init__(self, git: GitCommand, bare: Path, op: GitOp, commit: str, scratch: Path) -> None:
        self._git = git
        self._bare = bare
        self._op = op
        self._commit = commit
        self._tree = scratch / "tree"
        self._scratch = scratch

    def write(self, directory: Path) -> int:
        """Make the tree in the scratch folder, then move what is wanted of it."""
        self._tree.mkdir()
        keep = self._op.keep_git_dir and not self._op.subdir
        folder = self._tree / ".git" if keep else self._scratch / "meta"
        self._prepare(folder, keep=keep)
        self._run(folder, "checkout", "--quiet", "--force", "--detach", self._commit)
        if self._op.submodules and os.path.lexists(self._tree / ".gitmodules"):
            self._submodules(folder)
        when = int(self._run(folder, "show", "-s", "--format=%ct", self._commit).split()[0])
        if not keep:
            _drop_git_entries(self._tree)
        for name in os.listdir(_inside(self._tree, self._op.subdir)):
            os.rename(_inside(self._tree, self._op.subdir) / name, directory / name)
        _settle(directory, when)
        return when

    def _prepare(self, folder: Path, *, keep: bool) -> None:
        """A repository whose objects are those of the bare one: shared, or copied to be kept."""
        self._git.run(
            "init",
            "--quiet",
            "--template=",
            directory=self._tree,
            variables={"GIT_DIR": os.fspath(folder)},
        )
        if keep:
            # a real fetch, though from a neighbour: what is kept must stand by itself
            self._run(
                folder,
                "-c",
                "protocol.file.allow=always",
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--update-shallow",
                "--no-write-fetch-head",
                "--upload-pack=git -c uploadpack.allowAnySHA1InWant=true upload-pack",
                "--",
                f"file://{self._bare}",
                self._commit,
            )
        else:
            alternates = folder / "objects" / "info" / "alternates"
            alternates.parent.mkdir(parents=True, exist_ok=True)
            alternates.write_text(f"{self._bare / 'objects'}\n")
            if (self._bare / "shallow").exists():
                shutil.copyfile(self._bare / "shallow", folder / "shallow")
        # submodules with relative URLs need it, and so does whoever finds the .git directory
        self._run(folder, "remote", "add", "--", "origin", shown_remote(self._op.remote))

    def _submodules(self, folder: Path) -> None:
        self._run(
            folder,
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
            "--depth=1",
            timeout=FETCH_TIMEOUT,
        )

    def _run(self, folder: Path, *arguments: str, timeout: float = 600.0) -> str:
        variables = {
            "GIT_DIR": os.fspath(folder),
            "GIT_WORK_TREE": os.fspath(self._tree),
        }
        return self._git.run(
            *arguments, directory=self._tree, timeout=timeout, variables=variables
        )


def shown_remote(remote: str) -> str:
    """A remote without the password that its URL may hold."""
    if "://" not in remote:
        return remote
    parts = urlsplit(remote)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in {"ssh", "git+ssh"} and parts.username:
        host = f"{parts.username}@{host}"
    return urlunsplit((parts.scheme, host, parts.path, parts.query, ""))


# ------------------------------------------------------------------ trees
def _drop_git_entries(tree: Path) -> None:
    """Remove the `.git` of the checkout and its submodules; git itself tracks no such name."""
    for folder, directories, files in os.walk(tree):
        if ".git" in files:
            os.unlink(os.path.join(folder, ".git"))
        if ".git" in directories:
            directories.remove(".git")
            shutil.rmtree(os.path.join(folder, ".git"))


def _inside(tree: Path, subdir: str) -> Path:
    """A directory below the tree, reached through no symbolic link."""
    place = tree
    for part in subdir.split("/"):
        if part in {"", "."}:
            continue
        place = place / part
        mode = place.lstat().st_mode if part != ".." and os.path.lexists(place) else 0
        if not stat.S_ISDIR(mode):
            raise SourceError(f"the repository has no directory {subdir!r}")
    return place


def _settle(directory: Path, when: int) -> None:
    """Give everything the commit's time: that of the checkout says nothing, and differs."""
    for folder, directories, files in os.walk(directory, topdown=False):
        for name in (*files, *directories):
            os.utime(os.path.join(folder, name), (when, when), follow_symlinks=False)
    os.utime(directory, (when, when))
