"""Removal of trees: renamed out of the way at once, deleted afterwards.

A rename is atomic, so a crash leaves either the whole tree or a leftover in `trash/`, which the
next collection empties.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from buildkit_py.store.paths import StatePaths


def discard(paths: StatePaths, tree: Path) -> None:
    """Take a tree out of its place and delete it. One that is not there is fine."""
    for hidden in hide(paths, tree):
        remove_tree(hidden)


def hide(paths: StatePaths, tree: Path) -> list[Path]:
    """Take a tree or file out of its place, to be deleted; where it is now, if it was there."""
    hidden = paths.trash / os.urandom(8).hex()
    try:
        tree.rename(hidden)
    except FileNotFoundError:
        return []
    return [hidden]


def empty_trash(paths: StatePaths) -> None:
    """Delete what an interrupted `discard` has left."""
    with os.scandir(paths.trash) as entries:
        leftovers = [Path(entry.path) for entry in entries]
    for leftover in leftovers:
        remove_tree(leftover)


def remove_tree(tree: Path) -> None:
    """Delete a tree, directories without permissions too; never follows links."""
    if tree.is_dir() and not tree.is_symlink():
        with suppress(OSError):
            tree.rmdir()  # most often it is empty
            return
        import shutil  # noqa: PLC0415 - brings every compressor along; not in cached builds

        try:
            shutil.rmtree(tree)
        except FileNotFoundError:  # another process empties the same trash
            shutil.rmtree(tree, ignore_errors=True)
        except PermissionError:
            _unlock(tree)
            shutil.rmtree(tree, ignore_errors=True)
        except (RecursionError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG:
                raise
            from buildkit_py.layers.removal import remove_flat  # noqa: PLC0415 - hardly ever

            remove_flat(os.fsencode(tree))
    else:
        tree.unlink(missing_ok=True)


def remove_unmounted(folder: Path) -> None:
    """Delete a folder with the work directory that an overlay has left, most often an empty one.

    Its few names are known: to find them by a walk takes longer than all else here.
    """
    work = f"{folder}/work"
    with suppress(OSError):
        os.unlink(f"{work}/work/incompat/volatile/dirty")
        for name in ("/work/incompat/volatile", "/work/incompat", "/work", ""):
            os.rmdir(work + name)
    remove_tree(folder)


def _unlock(tree: Path) -> None:
    for folder, names, _ in os.walk(tree):
        os.chmod(folder, 0o700)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)


def tree_size(tree: Path) -> int:
    """Bytes of all regular files, each set of hard links once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [os.fspath(tree)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        identity = (status.st_dev, status.st_ino)
                        if identity in seen:
                            continue
                        seen.add(identity)
                    total += status.st_size
    return total
