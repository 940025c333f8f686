"""Devices by CDI name (`vendor/class=device`), from the JSON files of /etc/cdi and /var/run/cdi.

Device nodes, environment and mounts of a specification are given to the step; one that needs hooks
is refused, since they are programs of the host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildkit_py.errors import UnsupportedHost
from buildkit_py.runtime.spec import DeviceNode, HostMount

_FOLDERS = ("/etc/cdi", "/var/run/cdi")


@dataclass(slots=True)
class Devices:
    """What steps get of devices: nodes and mounts by their place, variables by their name."""

    nodes: dict[str, DeviceNode] = field(default_factory=dict)
    mounts: dict[str, HostMount] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def find_devices(
    requests: Sequence[tuple[str, bool]], folders: Sequence[str] = _FOLDERS
) -> Devices:
    """What (name, required) requests come to. Raises UnsupportedHost for one that is missing."""
    known = list(_specifications(folders))
    found = Devices()
    for name, required in requests:
        edits = list(_matching(name, known))
        if not edits and required:
            raise UnsupportedHost(
                f"required CDI device {name} is not registered",
                hint=f"its specification belongs into {folders[0]}, as JSON",
            )
        for edit in edits:
            _apply(edit, name, found)
        found.names += [name] if edits else []
    return found


def _specifications(folders: Sequence[str]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for path in sorted(Path(folder).glob("*.json")):
            try:
                value = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(value, dict) and isinstance(value.get("kind"), str):
                yield value


def _matching(name: str, known: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """`vendor/class=name`, `vendor/class=*`, `vendor/class` (its first), or a class alone."""
    kind, separator, device = name.partition("=")
    for specification in known:
        own = specification["kind"]
        if own != kind and own.rpartition("/")[2] != kind:
            continue
        devices = [item for item in specification.get("devices") or [] if isinstance(item, dict)]
        if separator and device != "*":
            devices = [item for item in devices if item.get("name") == device]
        elif not separator:
            devices = devices[:1]
        for item in devices:
            yield specification.get("containerEdits")
            yield item.get("containerEdits")


def _apply(edits: Any, name: str, found: Devices) -> None:
    if not isinstance(edits, dict):
        return
    if edits.get("hooks"):
        raise UnsupportedHost(f"CDI device {name} needs hooks, which are not run here")
    for node in edits.get("deviceNodes") or []:
        if isinstance(node, dict) and isinstance(node.get("path"), str):
            path = node["path"]
            found.nodes[path] = DeviceNode(path=path, source=str(node.get("hostPath") or path))
    for text in edits.get("env") or []:
        variable, _, value = str(text).partition("=")
        found.env[variable] = value
    for mount in edits.get("mounts") or []:
        if isinstance(mount, dict) and {"hostPath", "containerPath"} <= mount.keys():
            target, options = str(mount["containerPath"]), mount.get("options") or []
            found.mounts[target] = HostMount(
                target=target,
                source=str(mount["hostPath"]),
                readonly="rw" not in options,
                recursive="rbind" in options,
            )
