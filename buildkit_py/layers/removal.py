"""Removes directories of any depth."""

from __future__ import annotations

import os
import shutil


def remove_directory(path: bytes) -> None:
    """Delete a directory with all that is in it; its neighbours must be our own."""
    try:
        shutil.rmtree(path)
    except RecursionError:
        remove_flat(path)


def remove_flat(path: bytes) -> None:
    """Delete a tree too deep for recursion or for one path, by moving its directories up."""
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    moved = path + b"." + os.urandom(8).hex().encode()
                    os.rename(entry.path, moved)
                    waiting.append(moved)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)
