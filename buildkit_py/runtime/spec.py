"""What to run and in what, as values; `to_wire` gives the form that the sandbox child reads.

The child is started without `dataclasses` (forking it costs by its size), so it gets plain
dictionaries: the `Wire...` types below name their keys. Paths on the host are absolute; targets
are paths inside the sandbox, resolved in its root and never outside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias, TypedDict

from buildkit_py.runtime.defaults import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS

__all__ = ["DEFAULT_CAPABILITIES", "MASKED_PATHS", "READONLY_PATHS"]


# ------------------------------------------------------------------ trees
@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayTree:
    """A stack of directories in overlay-upper format, bottom first.

    With `upper` and `work` (fresh and empty) it is writable, else read-only.
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryTree:
    """A directory of the host as it is."""

    path: str


Tree: TypeAlias = OverlayTree | DirectoryTree


# ------------------------------------------------------------------ mounts
@dataclass(frozen=True, slots=True, kw_only=True)
class TreeMount:
    """A path of a tree at `target`. `source` is resolved inside the tree.

    `make_source` creates a missing source directory (cache mounts).
    """

    target: str
    tree: Tree
    source: str = "/"
    readonly: bool = True
    nosuid: bool = False
    nodev: bool = False
    noexec: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMount:
    """A file, directory or socket of the host at `target` (`-v`, an SSH agent)."""

    target: str
    source: str
    readonly: bool = True
    recursive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """Memory; `size` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0
    mode: int = 0o1777
    noexec: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileMount:
    """A file in memory with the given content, read-only (a secret, /etc/hosts, a heredoc)."""

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    readonly: bool = True


SandboxMount: TypeAlias = TreeMount | HostMount | TmpfsMount | FileMount


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device of the host to be made in the sandbox's /dev."""

    path: str
    source: str


# ------------------------------------------------------------------ process
@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """The program. `env` is its whole environment (`NAME=value`); HOME is added if missing.

    `user` is USER's text, looked up in the root's passwd and group files.
    """

    arguments: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    tty: bool = False
    no_new_privileges: bool = False
    capabilities: int = DEFAULT_CAPABILITIES
    rlimits: tuple[tuple[int, int, int], ...] = ()  # (RLIMIT_ number, soft, hard)
    extra_groups: tuple[str, ...] = ()
    init: bool = False  # a small reaper is PID 1, the program its child


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """One process and all that it sees.

    `network` is `host`, `none` (loopback only) or `wait` (own namespace; the executor connects
    it before the program starts). `seccomp` is a compiled filter, empty for none. `cgroups` are
    `cgroup.procs` files to join, best effort. `privileged` leaves out masks and read-only paths.
    """

    root: Tree
    process: ProcessSpec
    mounts: tuple[SandboxMount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    hostname: str = "buildkitsandbox"
    network: str = "host"
    seccomp: bytes = field(default=b"", repr=False)
    shm_size: int = 64 << 20
    masked_paths: tuple[str, ...] = MASKED_PATHS
    readonly_paths: tuple[str, ...] = READONLY_PATHS
    readonly_root: bool = False
    cgroups: tuple[str, ...] = ()
    privileged: bool = False


_PLAIN = frozenset({str, bytes, int, bool, float, type(None)})
_FIELDS: dict[type, tuple[str, ...]] = {}


def to_wire(value: Any) -> Any:
    """Plain dictionaries, lists, strings, bytes and numbers; a class is its name under `kind`."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is tuple or kind is list:
        return [item if type(item) in _PLAIN else to_wire(item) for item in value]
    names = _FIELDS.get(kind)
    if names is None:
        assert is_dataclass(value)
        names = _FIELDS[kind] = tuple(item.name for item in fields(value))
    out: dict[str, Any] = {"kind": kind.__name__}
    for name in names:
        item = getattr(value, name)
        out[name] = item if type(item) in _PLAIN else to_wire(item)
    return out


def to_json(spec: SandboxSpec) -> dict[str, Any]:
    """A form for people (`debug sandbox`): without file contents and filter bytes."""

    def readable(value: Any) -> Any:
        if isinstance(value, bytes):
            return f"<{len(value)} bytes>"
        if isinstance(value, dict):
            return {key: readable(item) for key, item in value.items()}
        if isinstance(value, list):
            return [readable(item) for item in value]
        return value

    out = readable(to_wire(spec))
    assert isinstance(out, dict)
    return out


# ------------------------------------------------------------------ the child's view
class WireTree(TypedDict):
    """OverlayTree (lowers, upper, work) or DirectoryTree (path), by `kind`."""

    kind: str
    lowers: list[str]
    upper: str | None
    work: str | None
    path: str


class WireMount(TypedDict):
    """Any of the mounts, by `kind`."""

    kind: str
    target: str
    tree: WireTree
    source: str
    readonly: bool
    recursive: bool
    nosuid: bool
    nodev: bool
    noexec: bool
    size: int
    mode: int
    uid: int
    gid: int
    content: bytes


class WireDevice(TypedDict):
    """DeviceNode."""

    path: str
    source: str


class WireProcess(TypedDict):
    """ProcessSpec."""

    arguments: list[str]
    env: list[str]
    cwd: str
    user: str
    tty: bool
    no_new_privileges: bool
    capabilities: int
    rlimits: list[tuple[int, int, int]]
    extra_groups: list[str]
    init: bool


class WireSpec(TypedDict):
    """SandboxSpec, and what the executor adds."""

    root: WireTree
    process: WireProcess
    mounts: list[WireMount]
    devices: list[WireDevice]
    hostname: str
    network: str
    seccomp: bytes
    shm_size: int
    masked_paths: list[str]
    readonly_paths: list[str]
    readonly_root: bool
    cgroups: list[str]
    privileged: bool
    scratch: str
    userxattr: bool
    namespaces: bool
