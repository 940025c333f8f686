"""A container config while instructions change it, and as it was after each of them.

Thousands of ENVs would otherwise mean thousands of configs, each a little longer than the one
before. So changes are kept as a list, and a `Moment` is a place in it: its config is put together
when somebody asks. `trail` is a digest of the start and of all changes: equal trails mean equal
configs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from buildkit_py.digest import Digest, digest_of
from buildkit_py.oci.config import ContainerConfig, container_to_json

_FIELDS = ""


class GrowingConfig:
    """The config of one stage; owned by whoever lowers it."""

    def __init__(self, start: ContainerConfig) -> None:
        self._start = start
        self._changes: list[tuple[str, Any]] = []
        self._whole: ContainerConfig | None = start
        self.fields = start
        """The fields that are no collections, as they are now; the others as they were."""
        self._env = start.env_map()
        self._labels = dict(start.labels)
        self._ports = dict.fromkeys(start.exposed_ports)
        self._volumes = dict.fromkeys(start.volumes)
        self._triggers = list(start.on_build)
        self._grown: set[str] = set()  # what is not touched stays as it was written
        self.trail: Digest = digest_of(container_to_json(start))

    # -------------------------------------------------------------- reading
    @property
    def whole(self) -> ContainerConfig:
        """The config as it is now."""
        if self._whole is None:
            self._whole = replace(self.fields, **dict(map(self._collected, self._grown)))
        return self._whole

    def _collected(self, kind: str) -> tuple[str, Any]:
        match kind:
            case "Env":
                return "env", tuple(f"{name}={value}" for name, value in self._env.items())
            case "Labels":
                return "labels", dict(self._labels)
            case "ExposedPorts":
                return "exposed_ports", tuple(sorted(self._ports))
            case "Volumes":
                return "volumes", tuple(sorted(self._volumes))
            case _:
                return "on_build", tuple(self._triggers)

    def moment(self, since: int = -1) -> Moment:
        """Now, to be looked at later; `since` is the end of the moment before."""
        return Moment(stage=self, begin=since, end=len(self._changes), trail=self.trail)

    def at(self, end: int) -> ContainerConfig:
        """The config as it was after that many changes."""
        if end == len(self._changes):
            return self.whole
        again = GrowingConfig(self._start)
        for kind, value in self._changes[:end]:
            again._take(kind, value)
        return again.whole

    def written(self, begin: int, end: int) -> dict[str, Any]:
        """What some changes put into the config, by its keys; -1 stands before the start."""
        out: dict[str, Any] = {}
        if begin < 0:
            out.update(container_to_json(self._start))
        for kind, value in self._changes[max(begin, 0) : end]:
            if kind == _FIELDS:
                out.update(container_to_json(replace(ContainerConfig(), **value)))
            else:
                out[kind] = [*out.get(kind, ()), value]
        return out

    # -------------------------------------------------------------- changing
    def set_fields(self, **fields: Any) -> None:
        """Replace fields that are no collections."""
        told = [[name, repr(value)] for name, value in sorted(fields.items())]
        self._add(_FIELDS, fields, told)

    def set_env(self, name: str, value: str) -> None:
        """Set a variable, in place if it is there."""
        self._add("Env", (name, value))

    def add_labels(self, labels: Mapping[str, str]) -> None:
        """Set labels."""
        self._add("Labels", dict(labels))

    def add_ports(self, ports: Iterable[str]) -> None:
        """Add exposed ports (`80/tcp`)."""
        self._add("ExposedPorts", tuple(ports))

    def add_volumes(self, paths: Iterable[str]) -> None:
        """Add volumes."""
        self._add("Volumes", tuple(paths))

    def add_trigger(self, instruction: str) -> None:
        """Add an ONBUILD trigger."""
        self._add("OnBuild", instruction)

    def _add(self, kind: str, value: Any, told: Any = None) -> None:
        self._changes.append((kind, value))
        self.trail = digest_of([self.trail, kind, value if told is None else told])
        self._take(kind, value)

    def _take(self, kind: str, value: Any) -> None:
        self._whole = None
        if kind != _FIELDS:
            self._grown.add(kind)
        match kind:
            case "Env":
                self._env[value[0]] = value[1]
            case "Labels":
                self._labels.update(value)
            case "ExposedPorts":
                self._ports.update(dict.fromkeys(value))
            case "Volumes":
                self._volumes.update(dict.fromkeys(value))
            case "OnBuild":
                self._triggers.append(value)
            case _:
                self.fields = replace(self.fields, **value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The config after one instruction, and what that instruction did to it."""

    stage: GrowingConfig
    begin: int
    end: int
    trail: Digest

    @property
    def config(self) -> ContainerConfig:
        """The whole config; it takes the time of all changes up to here."""
        return self.stage.at(self.end)

    @property
    def written(self) -> Mapping[str, Any]:
        """What the instruction put into the config; of the first, what it began with too."""
        return self.stage.written(self.begin, self.end)
