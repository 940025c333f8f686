"""What a step has left behind: processes and cgroups, as the server finds and removes them."""

from __future__ import annotations

import os
import select

_CGROUP_ROUNDS, _CGROUP_MS = 100, 10


def remove_cgroup(folder: str) -> None:
    """Remove an empty group, which the kernel may still be clearing, and its parent if ours."""
    try:
        _remove_when_empty(folder)
        if os.path.basename(os.path.dirname(folder)) == "pybuild":
            os.rmdir(os.path.dirname(folder))
    except OSError:
        pass  # another build has its groups there


def _remove_when_empty(folder: str) -> None:
    for _round in range(_CGROUP_ROUNDS):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return
        except OSError:
            select.poll().poll(_CGROUP_MS)
        else:
            return


def children_of(pid: int) -> set[int]:
    """Processes whose parent is `pid`."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        if parent == pid:
            found.add(int(name))
    return found
