"""What `pybuild run` is asked for, as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_py.errors import UsageError
from buildkit_py.platforms import Platform
from buildkit_py.runtime.limits import ResourceLimits
from buildkit_py.runtime.spec import DEFAULT_CAPABILITIES, HostMount

_CAPABILITIES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable"
    " net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio"
    " sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time"
    " sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog"
    " wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
ALL_CAPABILITIES = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One `run`. `command` replaces the image's CMD; None of a text option is the image's own."""

    image: str
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    groups: tuple[str, ...] = ()
    interactive: bool = False
    tty: bool = False
    init: bool = False
    volumes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: str = "host"
    hostname: str | None = None
    add_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ulimits: tuple[str, ...] = ()
    shm_size: int = 0
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    cgroup_parent: str = ""
    capabilities: int = DEFAULT_CAPABILITIES
    seccomp: bool = True
    no_new_privileges: bool = False
    privileged: bool = False
    read_only: bool = False
    timeout: float = 0.0
    platform: Platform | None = None
    pull: str = "missing"
    keep: bool = False
    name: str | None = None
    cidfile: str | None = None


def capability_set(added: tuple[str, ...], dropped: tuple[str, ...]) -> int:
    """Docker's default set changed by --cap-add and --cap-drop. Raises UsageError."""
    wanted = DEFAULT_CAPABILITIES
    names_added = [_capability(name) for name in added]
    names_dropped = [_capability(name) for name in dropped]
    if None in names_dropped:
        wanted = 0
    if None in names_added:
        wanted = ALL_CAPABILITIES
    for number in names_dropped:
        if number is not None:
            wanted &= ~(1 << number)
    for number in names_added:
        if number is not None:
            wanted |= 1 << number
    return wanted


def _capability(name: str) -> int | None:
    """A capability's number, None for ALL."""
    plain = name.lower().removeprefix("cap_")
    if plain == "all":
        return None
    if plain not in _CAPABILITIES:
        raise UsageError(f'unknown capability: "{name}"')
    return _CAPABILITIES.index(plain)


def parse_volume(text: str, cwd: str) -> HostMount:
    """`source:target[:ro|rw]`; a missing source directory is made, as docker does."""
    parts = text.split(":")
    if len(parts) not in {2, 3} or not all(parts):
        raise UsageError(f'invalid volume: "{text}"', hint="write source:target[:ro]")
    source, target = parts[0], parts[1]
    options = parts[2].split(",") if len(parts) == 3 else []
    unknown = [item for item in options if item not in {"ro", "rw", "z", "Z"}]
    if unknown:
        raise UsageError(f'invalid volume option: "{unknown[0]}"', hint="known are ro and rw")
    if not target.startswith("/"):
        raise UsageError(f'invalid volume: "{text}": the target must be an absolute path')
    if not source.startswith(("/", ".", "~")):
        raise UsageError(
            f'"{source}" is no path', hint=f"named volumes are not kept here; try ./{source}"
        )
    path = Path(cwd, Path(source).expanduser())
    if not path.exists():
        path.mkdir(parents=True)
    real = os.path.realpath(path)
    return HostMount(target=target, source=real, readonly="ro" in options, recursive=True)


def expand_env(entries: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """`NAME=value` as it is; `NAME` with its value here, or not at all."""
    out = []
    for entry in entries:
        name, separator, _ = entry.partition("=")
        if not name:
            raise UsageError(f'invalid environment variable: "{entry}"')
        if separator:
            out.append(entry)
        elif name in environ:
            out.append(f"{name}={environ[name]}")
    return tuple(out)
