"""Git repositories for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(folder: Path, *words: str) -> str:
    """Run git as somebody, at a time that stays the same; what it printed."""
    identity = {"GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000"}
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    done = subprocess.run(
        ["git", *names, "-c", "protocol.file.allow=always", *words],
        cwd=folder,
        env=os.environ | identity,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
