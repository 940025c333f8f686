"""Image config, history and health check (OCI image-spec config.md, with docker's additions).

Fields that we do not know are kept in `extra`, so that a base image's config survives unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import Digest
from buildkit_py.platforms import Platform, normalize

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """HEALTHCHECK; times in nanoseconds, 0 means the runtime's default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One line of an image's history; `created` is RFC 3339 text or None."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """What a container of the image starts with."""

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    args_escaped: bool = False
    on_build: tuple[str, ...] = ()
    healthcheck: HealthCheck | None = None
    shell: tuple[str, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def env_map(self) -> dict[str, str]:
        """The environment by name, order kept."""
        return dict(entry.partition("=")[::2] for entry in self.env)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The config blob of an image."""

    platform: Platform = field(default_factory=Platform)
    created: str | None = None
    author: str = ""
    config: ContainerConfig = field(default_factory=ContainerConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def chain_id(diff_ids: Iterable[Digest]) -> Digest:
    """The digest that names a stack of layers (image-spec, "Layer ChainID")."""
    chain = ""
    for diff_id in diff_ids:
        chain = (
            "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
            if chain
            else diff_id
        )
    return Digest(chain)


def rfc3339(seconds: int) -> str:
    """A time of whole seconds as configs have it: `2024-01-31T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(created: str | None) -> float | None:
    """RFC 3339 text as seconds, None for what is not a time."""
    if not created:
        return None
    # nanoseconds, as Go writes them, are more than fromisoformat() takes on Python 3.11
    text = re.sub(r"(\.\d{6})\d+", r"\1", created.replace("Z", "+00:00").replace("z", "+00:00"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


# ------------------------------------------------------------------ JSON
_CONTAINER_KEYS = frozenset(
    "User ExposedPorts Env Entrypoint Cmd Volumes WorkingDir Labels StopSignal ArgsEscaped OnBuild"
    " Healthcheck Shell".split()
)
_IMAGE_KEYS = frozenset(
    "created author architecture variant os os.version config rootfs history".split()
)


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def container_from_json(raw: Mapping[str, Any]) -> ContainerConfig:
    """Decode the `config` object of an image config (or docker's `container_config`)."""
    health = raw.get("Healthcheck")
    return ContainerConfig(
        user=str(raw.get("User") or ""),
        exposed_ports=tuple(sorted(_map(raw.get("ExposedPorts")))),
        env=_strings(raw.get("Env")),
        entrypoint=_strings(raw["Entrypoint"]) if raw.get("Entrypoint") is not None else None,
        cmd=_strings(raw["Cmd"]) if raw.get("Cmd") is not None else None,
        volumes=tuple(sorted(_map(raw.get("Volumes")))),
        working_dir=str(raw.get("WorkingDir") or ""),
        labels={str(k): str(v) for k, v in _map(raw.get("Labels")).items()},
        stop_signal=str(raw.get("StopSignal") or ""),
        args_escaped=bool(raw.get("ArgsEscaped")),
        on_build=_strings(raw.get("OnBuild")),
        healthcheck=_health_from_json(health) if isinstance(health, dict) else None,
        shell=_strings(raw["Shell"]) if raw.get("Shell") else None,
        extra={k: v for k, v in raw.items() if k not in _CONTAINER_KEYS},
    )


def _health_from_json(raw: Mapping[str, Any]) -> HealthCheck:
    return HealthCheck(
        test=_strings(raw.get("Test")),
        interval=int(raw.get("Interval") or 0),
        timeout=int(raw.get("Timeout") or 0),
        start_period=int(raw.get("StartPeriod") or 0),
        start_interval=int(raw.get("StartInterval") or 0),
        retries=int(raw.get("Retries") or 0),
    )


def container_to_json(config: ContainerConfig) -> dict[str, Any]:
    """Encode; empty fields are left out, as Go's `omitempty` does."""
    health = config.healthcheck
    optional: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in sorted(config.exposed_ports)},
        "Env": list(config.env),
        "Entrypoint": _list_or_none(config.entrypoint),
        "Cmd": _list_or_none(config.cmd),
        "Volumes": {path: {} for path in sorted(config.volumes)},
        "WorkingDir": config.working_dir,
        "Labels": dict(sorted(config.labels.items())),
        "StopSignal": config.stop_signal,
        "ArgsEscaped": config.args_escaped,
        "Healthcheck": _health_to_json(health) if health else None,
        "OnBuild": list(config.on_build),
        "Shell": _list_or_none(config.shell),
    }
    out = {key: value for key, value in optional.items() if value}
    out.update(config.extra)
    return out


def _list_or_none(value: tuple[str, ...] | None) -> list[str] | None:
    return None if value is None else list(value)


def _health_to_json(health: HealthCheck) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "Test": list(health.test),
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
        "Retries": health.retries,
    }
    return {key: value for key, value in raw.items() if value}


def config_from_json(raw: Mapping[str, Any]) -> ImageConfig:
    """Decode an image config blob."""
    rootfs = _map(raw.get("rootfs"))
    history = raw.get("history")
    return ImageConfig(
        platform=normalize(
            str(raw.get("os") or "linux"),
            str(raw.get("architecture") or "amd64"),
            str(raw.get("variant") or ""),
            str(raw.get("os.version") or ""),
        ),
        created=raw.get("created") or None,
        author=str(raw.get("author") or ""),
        config=container_from_json(_map(raw.get("config"))),
        diff_ids=tuple(Digest(item) for item in _strings(rootfs.get("diff_ids"))),
        history=tuple(
            History(
                created=item.get("created") or None,
                created_by=str(item.get("created_by") or ""),
                author=str(item.get("author") or ""),
                comment=str(item.get("comment") or ""),
                empty_layer=bool(item.get("empty_layer")),
            )
            for item in (history if isinstance(history, list) else [])
            if isinstance(item, dict)
        ),
        extra={k: v for k, v in raw.items() if k not in _IMAGE_KEYS},
    )


def config_to_json(image: ImageConfig) -> dict[str, Any]:
    """Encode with sorted keys on top, as BuildKit writes them."""
    out: dict[str, Any] = {}
    if image.created:
        out["created"] = image.created
    if image.author:
        out["author"] = image.author
    out["architecture"] = image.platform.architecture
    if image.platform.variant:
        out["variant"] = image.platform.variant
    out["os"] = image.platform.os
    if image.platform.os_version:
        out["os.version"] = image.platform.os_version
    out["config"] = container_to_json(image.config)
    out["rootfs"] = {"type": "layers", "diff_ids": list(image.diff_ids)}
    if image.history:
        out["history"] = [_history_to_json(entry) for entry in image.history]
    out.update(image.extra)
    return dict(sorted(out.items()))


def _history_to_json(entry: History) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "created": entry.created,
        "created_by": entry.created_by,
        "author": entry.author,
        "comment": entry.comment,
        "empty_layer": entry.empty_layer,
    }
    return {key: value for key, value in raw.items() if value}
