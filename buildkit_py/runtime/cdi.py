"""Devices by CDI name (`vendor/class=device`), from the JSON files of /etc/cdi and /var/run/cdi.

Device nodes of a specification are given to the step. Environment, mounts and hooks that a
specification may hold as well are not applied; a specification that needs hooks is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from buildkit_py.errors import UnsupportedHost
from buildkit_py.runtime.spec import DeviceNode

_FOLDERS = ("/etc/cdi", "/var/run/cdi")


def find_devices(
    requests: Sequence[tuple[str, bool]], folders: Sequence[str] = _FOLDERS
) -> tuple[DeviceNode, ...]:
    """The nodes of (name, required) requests. Raises UnsupportedHost for one that is missing."""
    known = list(_specifications(folders))
    found: dict[str, DeviceNode] = {}
    for name, required in requests:
        nodes = list(_matching(name, known))
        if not nodes and required:
            raise UnsupportedHost(
                f"required CDI device {name} is not registered",
                hint=f"its specification belongs into {folders[0]}, as JSON",
            )
        found.update({node.path: node for node in nodes})
    return tuple(found.values())


def _specifications(folders: Sequence[str]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for path in sorted(Path(folder).glob("*.json")):
            try:
                value = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(value, dict) and isinstance(value.get("kind"), str):
                yield value


def _matching(name: str, known: Sequence[dict[str, Any]]) -> Iterator[DeviceNode]:
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
            yield from _nodes(specification.get("containerEdits"), name)
            yield from _nodes(item.get("containerEdits"), name)


def _nodes(edits: Any, name: str) -> Iterator[DeviceNode]:
    if not isinstance(edits, dict):
        return
    if edits.get("hooks"):
        raise UnsupportedHost(f"CDI device {name} needs hooks, which are not run here")
    for node in edits.get("deviceNodes") or []:
        if isinstance(node, dict) and isinstance(node.get("path"), str):
            yield DeviceNode(path=node["path"], source=str(node.get("hostPath") or node["path"]))
