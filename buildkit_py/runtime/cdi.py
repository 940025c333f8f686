"""Devices by CDI name (`vendor/class=device`), from the files of /etc/cdi and /var/run/cdi.

They are YAML or JSON. A device that several files know is the one of the later folder, then name.
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
    broken: list[str] = []
    known = list(_specifications(folders, broken))
    found = Devices()
    for name, required in requests:
        edits = list(_matching(name, known))
        if not edits and required:
            hint = f"its specification belongs into {folders[0]}, as YAML or JSON"
            raise UnsupportedHost(
                f"required CDI device {name} is not registered",
                hint=f"not readable: {'; '.join(broken)}" if broken else hint,
            )
        for edit in edits:
            _apply(edit, name, found)
        found.names += [name] if edits else []
    return found


def _specifications(folders: Sequence[str], broken: list[str]) -> Iterator[dict[str, Any]]:
    """What can be read, in order; the others are named in `broken`."""
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            if path.suffix not in {".json", ".yaml", ".yml"}:
                continue
            try:
                value = _parse(path)
            except (OSError, ValueError) as error:
                broken.append(f"{path}: {' '.join(str(error).split())}")
                continue
            if isinstance(value, dict) and isinstance(value.get("kind"), str):
                yield value
            else:
                broken.append(f"{path}: it has no kind")


def _parse(path: Path) -> Any:
    """The value of a file. Raises OSError, ValueError."""
    if path.suffix == ".json":
        return json.loads(path.read_bytes())
    import yaml  # noqa: PLC0415  (only where such a file is)

    try:
        return yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _matching(name: str, known: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """`vendor/class=name`, `vendor/class=*`, `vendor/class` (its first), or a class alone."""
    kind, separator, wanted = name.partition("=")
    devices: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {}
    for specification in known:
        own = specification["kind"]
        if own != kind and own.rpartition("/")[2] != kind:
            continue
        listed = specification.get("devices")
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, dict) and isinstance(item.get("name"), str):
                devices[own, item["name"]] = (specification, item)
    first: set[str] = set()
    for (own, device), (specification, item) in devices.items():
        chosen = wanted in {device, "*"} if separator else own not in first
        first.add(own)
        if chosen:
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
