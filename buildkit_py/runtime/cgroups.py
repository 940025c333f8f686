"""Limits on a step's memory, processors and processes, by cgroups of either version.

A cgroup is made only for a step that asked for limits (or a parent), and removed after it; killing
needs none, the pid namespace does that. On a host with both hierarchies each controller is looked
for in version 2 first; where there, `delegation.py` says. What the host does not allow is a
warning, except a memory limit: it is asked for to protect the host, so its absence is an error.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildkit_py.errors import UnsupportedHost
from buildkit_py.runtime.delegation import LEND, ask_systemd, enable, lent_root
from buildkit_py.runtime.limits import ResourceLimits

_REMOVE_SECONDS = 2.0
_MOVE_TRIES = 100


@dataclass(slots=True, kw_only=True)
class StepCgroup:
    """The groups of one step. `procs` are files that the step's process writes itself into.

    `rlimits` stand in for a group that could not be made.
    """

    procs: tuple[str, ...] = ()
    rlimits: tuple[tuple[int, int, int], ...] = ()
    warnings: list[str] = field(default_factory=list)
    _events: tuple[tuple[Path, str], ...] = ()

    def limit_hit(self) -> str:
        """`memory` if the kernel killed something for it, `pids` if it refused a process."""
        hit = {key for path, key in self._events if _counted(path, key)}
        return "memory" if "oom_kill" in hit else "pids" if hit else ""


def _counted(path: Path, key: str) -> bool:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key and int(value) > 0:
                return True
    return False


def find_hierarchies(mounts: str) -> tuple[Path | None, dict[str, Path]]:
    """From the text of /proc/self/mounts: the v2 mount, and v1 mounts by controller."""
    unified: Path | None = None
    controllers: dict[str, Path] = {}
    for line in mounts.splitlines():
        _source, target, kind, options = line.split()[:4]
        if kind == "cgroup2" and unified is None:
            unified = Path(target)
        elif kind == "cgroup":
            for option in options.split(","):
                if option in {"memory", "cpu", "cpuset", "pids"}:
                    controllers.setdefault(option, Path(target))
    return unified, controllers


@contextmanager
def step_cgroup(limits: ResourceLimits, parent: str, name: str) -> Iterator[StepCgroup]:
    """Groups with these limits below `parent` (a path in the hierarchy) while the block runs."""
    if not replace(limits, disk=None) and not parent:
        yield StepCgroup()
        return
    unified, controllers = find_hierarchies(Path("/proc/self/mounts").read_text())
    with ExitStack() as stack:
        group = StepCgroup()
        maker = _Maker(stack, group, parent.strip("/"), name)
        maker.lendable = unified is not None and not controllers
        wanted = _wanted(limits)
        root, available = _find_root(unified, wanted, alone=not controllers)
        if root is not None and set(wanted) <= available and (available or not controllers):
            maker.version2(root, limits, wanted)
        else:
            maker.version1(controllers, limits, wanted)
        if limits.pids is not None and not maker.limits_pids:
            # Counted for each user of a user namespace, together with what is there already.
            most = limits.pids + _own_tasks()
            group.rlimits = ((resource.RLIMIT_NPROC, most, most),)
        yield group


def _find_root(
    unified: Path | None, wanted: list[str], *, alone: bool
) -> tuple[Path | None, set[str]]:
    """Where to make groups of version 2, and the controllers that can be had there.

    Where there is nothing else (`alone`), systemd is asked to lend a group.
    """
    if unified is None:
        return None, set()
    own = Path("/proc/self/cgroup")
    root = lent_root(unified, own.read_text())
    if root is None and alone and wanted and ask_systemd():
        for _moment in range(_MOVE_TRIES):  # it answers before the processes are moved
            root = lent_root(unified, own.read_text())
            if root is not None:
                break
            time.sleep(0.02)
    return (root or unified), _v2_controllers(root or unified)


def _own_tasks() -> int:
    """How many threads run in our user namespace."""
    own, count = os.stat("/proc/self/ns/user").st_ino, 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.stat(folder / "ns/user").st_ino == own:
                count += len(os.listdir(folder / "task"))
    return count


def _wanted(limits: ResourceLimits) -> list[str]:
    wanted = []
    if limits.memory is not None or limits.memory_swap is not None:
        wanted.append("memory")
    if any(x is not None for x in (limits.cpu_shares, limits.cpu_period, limits.cpu_quota)):
        wanted.append("cpu")
    if limits.cpuset_cpus is not None or limits.cpuset_mems is not None:
        wanted.append("cpuset")
    if limits.pids is not None:
        wanted.append("pids")
    return wanted


def _v2_controllers(unified: Path | None) -> set[str]:
    if unified is None:
        return set()
    try:
        return set((unified / "cgroup.controllers").read_text().split())
    except OSError:
        return set()


class _Maker:
    def __init__(self, stack: ExitStack, group: StepCgroup, parent: str, name: str) -> None:
        self.stack = stack
        self.group = group
        self.parent = parent or "pybuild"
        self.name = name
        self.limits_pids = False
        self.lendable = False

    def version2(self, root: Path, limits: ResourceLimits, wanted: list[str]) -> None:
        folder = root
        for part in (*self.parent.split("/"), self.name):
            for controller in wanted:
                enable(folder, controller)
            folder /= part
            if not self._make(folder, "memory" if "memory" in wanted else ",".join(wanted)):
                return
        self.limits_pids = "pids" in wanted and (folder / "pids.max").exists()
        values: dict[str, str | None] = {
            "memory.max": _number(limits.memory),
            "memory.swap.max": _swap_v2(limits),
            "cpu.weight": _weight(limits.cpu_shares),
            "cpu.max": _cpu_max(limits),
            "cpuset.cpus": limits.cpuset_cpus,
            "cpuset.mems": limits.cpuset_mems,
            "pids.max": _number(limits.pids),
        }
        for key, value in values.items():
            self._set(folder / key, value, needed=key == "memory.max")
        self.group.procs += (os.fspath(folder / "cgroup.procs"),)
        self._watch(folder / "memory.events", "oom_kill")
        self._watch(folder / "pids.events", "max")

    def version1(self, roots: dict[str, Path], limits: ResourceLimits, wanted: list[str]) -> None:
        for controller in wanted or (["pids"] if "pids" in roots else []):
            root = roots.get(controller)
            if root is None:
                if controller != "pids":
                    self._lack(f"this host has no cgroup controller {controller}", controller)
                continue
            folder = root / self.parent / self.name
            if not self._make(folder, controller):
                continue
            self.limits_pids |= controller == "pids"
            if controller == "cpuset":
                self._inherit_cpuset(root, folder)
            for key, value in _version1_values(controller, limits).items():
                self._set(folder / key, value, needed=key == "memory.limit_in_bytes")
            self.group.procs += (os.fspath(folder / "cgroup.procs"),)
            if controller == "memory":
                self._watch(folder / "memory.oom_control", "oom_kill")
            elif controller == "pids":
                self._watch(folder / "pids.events", "max")

    def _watch(self, file: Path, key: str) -> None:
        self.group._events += ((file, key),)  # noqa: SLF001  (its maker)

    def _make(self, folder: Path, controller: str) -> bool:
        missing = [item for item in (folder, *folder.parents) if not item.exists()]
        try:
            with suppress(FileNotFoundError):  # the last step of another build takes its parent
                folder.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if controller != "pids":  # of which there is another limit
                self._lack(f"cannot make cgroup {folder}: {error.strerror}", controller)
            return False
        for item in reversed(missing):  # a parent that was there before is not ours
            self.stack.callback(_remove, item, patient=item.name == self.name)
        return True

    def _set(self, file: Path, value: str | None, *, needed: bool) -> None:
        if value is None:
            return
        try:
            file.write_text(value)
        except OSError as error:
            self._lack(
                f"cannot set {file.name} to {value}: {error.strerror}", "memory" if needed else ""
            )

    def _lack(self, message: str, controller: str) -> None:
        if controller == "memory":
            hint = "memory limits need a cgroup we may write to"
            raise UnsupportedHost(message, hint=hint + (f": {LEND}" if self.lendable else ""))
        self.group.warnings.append(message)

    @staticmethod
    def _inherit_cpuset(root: Path, folder: Path) -> None:
        for key in ("cpuset.cpus", "cpuset.mems"):
            value = (root / key).read_text()
            for place in (folder.parent, folder):
                with suppress(OSError):
                    (place / key).write_text(value)


def _version1_values(controller: str, limits: ResourceLimits) -> dict[str, str | None]:
    if controller == "memory":
        swap = limits.memory_swap if limits.memory_swap is not None else limits.memory
        return {
            "memory.limit_in_bytes": _number(limits.memory),
            "memory.memsw.limit_in_bytes": _number(swap),
        }
    if controller == "cpu":
        return {
            "cpu.shares": _number(limits.cpu_shares),
            "cpu.cfs_period_us": _number(limits.cpu_period),
            "cpu.cfs_quota_us": _number(limits.cpu_quota),
        }
    if controller == "cpuset":
        return {"cpuset.cpus": limits.cpuset_cpus, "cpuset.mems": limits.cpuset_mems}
    return {"pids.max": _number(limits.pids)}


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _swap_v2(limits: ResourceLimits) -> str | None:
    if limits.memory_swap == -1:
        return "max"
    if limits.memory is None:
        return None
    # Without a word on swap none is given, or the limit would only slow a step down.
    return str(max(0, (limits.memory_swap or limits.memory) - limits.memory))


def _weight(shares: int | None) -> str | None:
    return (
        None if shares is None else str(1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142)
    )


def _cpu_max(limits: ResourceLimits) -> str | None:
    if limits.cpu_quota is None and limits.cpu_period is None:
        return None
    quota = limits.cpu_quota if limits.cpu_quota and limits.cpu_quota > 0 else "max"
    return f"{quota} {limits.cpu_period or 100_000}"


def _remove(folder: Path, *, patient: bool) -> None:
    deadline = time.monotonic() + (_REMOVE_SECONDS if patient else 0)
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            # The kernel lets go of the last process a moment after its end.
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        else:
            return
