"""`--ulimit` and `--resource` values, parsed."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass

from buildkit_py.errors import UsageError

_ULIMITS = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?\Z", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """What a step may use; None is no limit. Memory and disk in bytes, cpu in microseconds."""

    memory: int | None = None
    memory_swap: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None
    disk: int | None = None

    def __bool__(self) -> bool:
        return self != ResourceLimits()


def parse_size(text: str) -> int:
    """Bytes of `64m`, `1.5g`, `1024`. Raises UsageError."""
    match = _SIZE.match(text.strip())
    if not match:
        raise UsageError(f'invalid size: "{text}"', hint="write a number with b, k, m or g")
    return int(float(match[1]) * (1 << _UNITS[match[2].lower()]))


def parse_ulimits(items: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """(number, soft, hard) of each `name=soft[:hard]`. Raises UsageError."""
    out = []
    for item in items:
        name, separator, value = item.partition("=")
        if name not in _ULIMITS or not separator:
            known = ", ".join(_ULIMITS)
            raise UsageError(f'invalid ulimit: "{item}"', hint=f"name=soft[:hard], of {known}")
        soft_text, _, hard_text = value.partition(":")
        try:
            soft = int(soft_text)
            hard = int(hard_text) if hard_text else soft
        except ValueError:
            raise UsageError(f'invalid ulimit: "{item}"', hint="limits are numbers") from None
        if hard != -1 and (soft > hard or soft == -1):
            raise UsageError(f'invalid ulimit: "{item}": soft limit must not exceed the hard one')
        out.append((_ULIMITS[name], soft, hard))
    return tuple(out)


def parse_resources(items: tuple[str, ...]) -> ResourceLimits:
    """`memory=64m`, `cpu-quota=50000`, … Raises UsageError."""
    values: dict[str, int | str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        key = name.strip().replace("-", "_")
        if key not in ResourceLimits.__slots__ or not separator or not value:
            known = ", ".join(field.replace("_", "-") for field in ResourceLimits.__slots__)
            raise UsageError(f'invalid resource limit: "{item}"', hint=f"known are {known}")
        if key.startswith("memory") or key == "disk":
            values[key] = -1 if value == "-1" else parse_size(value)
        elif key.startswith("cpuset"):
            if not re.fullmatch(r"[\d,-]+", value):
                raise UsageError(f'invalid resource limit: "{item}"', hint="a list like 0-2,4")
            values[key] = value
        elif value.lstrip("-").isdigit():
            if not (key == "pids" and int(value) <= 0):  # as docker has it: no limit
                values[key] = int(value)
        else:
            raise UsageError(f'invalid resource limit: "{item}"', hint="a number is needed")
    return ResourceLimits(**values)  # type: ignore[arg-type]  # names were checked above
