"""Where groups of cgroup version 2 may be made: at the top as root, else in a cgroup lent to us.

A cgroup that holds processes can have no controllers for those below it. So everything in the one
that was lent moves to a leaf of it first, as an init system in a container does too.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

_LEAF = "pybuild.self"
_TRIES = 8
_SYSTEMD_SECONDS = 10
LEND = "systemd-run --user --scope -p Delegate=yes pybuild build …"
"""A command that starts a build in a cgroup of its own."""


def lent_root(unified: Path, membership: str) -> Path | None:
    """The directory below which this process may make groups, from /proc/self/cgroup's text."""
    if _is_writable(unified):
        return unified
    own = own_group(unified, membership)
    return own if own is not None and _is_writable(own) else None


def own_group(unified: Path, membership: str) -> Path | None:
    """This process' own group of version 2."""
    for line in membership.splitlines():
        if line.startswith("0::/") and "/.." not in line:
            path = unified / line[4:]
            return path.parent if path.name == _LEAF else path
    return None


def _is_writable(folder: Path) -> bool:
    return all(os.access(place, os.W_OK) for place in (folder, folder / "cgroup.procs"))


def enable(folder: Path, controller: str) -> None:
    """Give a controller to the groups below `folder`, if that can be."""
    file = folder / "cgroup.subtree_control"
    for _again in range(_TRIES):
        try:
            file.write_text(f"+{controller}")
        except OSError as error:
            # It holds processes: some were started while others were moved, so more than once.
            if error.errno != errno.EBUSY or not _move_down(folder):
                return
        else:
            return


def _move_down(folder: Path) -> bool:
    """Move the processes of a group to a leaf of it; whether any was there to be moved."""
    leaf = folder / _LEAF
    moved = False
    with suppress(OSError):
        leaf.mkdir(exist_ok=True)
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (leaf / "cgroup.procs").write_text(pid)
                moved = True
    return moved


def can_ask() -> bool:
    """Whether there is a systemd of this user to ask."""
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return bool(folder and shutil.which("busctl") and os.path.exists(f"{folder}/systemd/private"))


def ask_systemd() -> bool:
    """Have the user's systemd put this process and its children into a scope that is ours."""
    program = shutil.which("busctl")
    if program is None or not can_ask():
        return False
    pids = [str(pid) for pid in _family()]
    words = ["--user", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"]
    words += ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"]
    words += [f"pybuild-{os.getpid()}.scope", "fail", "2"]
    words += ["PIDs", "au", str(len(pids)), *pids, "Delegate", "b", "true", "0"]
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, check=False, timeout=_SYSTEMD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _family() -> list[int]:
    """This process and all below it."""
    found = [os.getpid()]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, task.read_text().split())
    return found
