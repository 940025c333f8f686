"""From a BuildRequest to the compiler's options: parsed, checked, with the environment's share."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from buildkit_py.engine.request import BuildRequest
from buildkit_py.errors import UsageError
from buildkit_py.exporters.attributes import FALSE, TRUE
from buildkit_py.platforms import Platform, parse_platform
from buildkit_py.runtime.emulation import supported_platforms
from buildkit_py.runtime.network import HOST_GATEWAY
from buildkit_py.stages import BuildOptions

_NETWORKS = frozenset({"default", "none", "host", "bridge"})
_EPOCH = "SOURCE_DATE_EPOCH"
_MULTI_PLATFORM = "BUILDKIT_MULTI_PLATFORM"


def build_options(
    request: BuildRequest, environment: Mapping[str, str], host: Platform
) -> BuildOptions:
    """The compiler's options. Raises UsageError."""
    if request.network not in _NETWORKS:
        raise UsageError(
            f'network mode "{request.network}" is not supported',
            hint="use default, none, host or bridge",
        )
    if request.timestamps not in {"settle", "keep"}:
        raise UsageError(
            f'unknown value "{request.timestamps}" for --timestamps', hint="settle or keep"
        )
    if request.ulimits or request.resources:
        from buildkit_py.runtime.limits import parse_resources, parse_ulimits  # noqa: PLC0415

        parse_ulimits(request.ulimits)
        parse_resources(request.resources)
    build_args = dict(request.build_args)
    if _EPOCH not in build_args and environment.get(_EPOCH):
        build_args[_EPOCH] = environment[_EPOCH]  # as docker's client passes it on
    platforms = dict.fromkeys(parse_platform(text, host) for text in request.platforms)
    return BuildOptions(
        build_args=build_args,
        target=request.target or None,
        platforms=tuple(platforms),
        build_platform=host,
        supported_platforms=supported_platforms(host),
        multi_platform=_multi_platform(build_args, len(platforms)),
        build_contexts=request.build_contexts,
        labels=request.labels,
        no_cache=request.no_cache,
        no_cache_filter=request.no_cache_filter,
        network="default" if request.network == "bridge" else request.network,
        extra_hosts=tuple(_host(text) for text in request.add_hosts),
        ulimits=request.ulimits,
        shm_size=request.shm_size,
        cgroup_parent=request.cgroup_parent,
        resources=request.resources,
        timeout=request.step_timeout,
        entitlements=frozenset(item.partition("=")[0] for item in request.allow),
        settle=request.timestamps == "settle",
        environment=environment,
    )


def _multi_platform(build_args: Mapping[str, str | None], count: int) -> bool:
    """Whether the result is an index: one of several platforms is, and one can be asked for."""
    text = build_args.get(_MULTI_PLATFORM)
    if not text:
        return count > 1
    if text not in TRUE | FALSE:
        raise UsageError(f'invalid value "{text}" for {_MULTI_PLATFORM}: not a boolean')
    if text in FALSE and count > 1:
        raise UsageError(
            "conflicting config: returning multiple target platforms is not allowed",
            hint=f"leave {_MULTI_PLATFORM} away",
        )
    return text in TRUE


def _host(text: str) -> tuple[str, str]:
    """`name=ip`, `name:ip` or `name:host-gateway`."""
    separator = "=" if "=" in text else ":"
    name, found, address = text.partition(separator)
    address = address.strip("[]")
    if not found or not name:
        raise UsageError(f'bad format for add-host: "{text}"', hint="expected NAME=IP")
    if address == HOST_GATEWAY:
        return name, address
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f'invalid IP address in add-host: "{address}"') from error
    return name, address
