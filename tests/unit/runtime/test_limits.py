"""Values of --ulimit, --resource and sizes."""

from __future__ import annotations

import resource

import pytest

from buildkit_py.errors import UsageError
from buildkit_py.runtime.limits import parse_resources, parse_size, parse_ulimits


def test_ulimits_give_number_soft_and_hard() -> None:
    assert parse_ulimits(("nofile=10:20", "core=0")) == (
        (resource.RLIMIT_NOFILE, 10, 20),
        (resource.RLIMIT_CORE, 0, 0),
    )


@pytest.mark.parametrize("text", ["nofile", "nope=1", "nofile=a", "nofile=2:1", "nofile=-1:5"])
def test_bad_ulimits_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ulimits((text,))


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("64m", 64 << 20), ("1.5g", 3 << 29), ("2KiB", 2048)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_resources_by_name() -> None:
    limits = parse_resources(("memory=64m", "cpu-quota=50000", "cpuset-cpus=0-1"))
    assert (limits.memory, limits.cpu_quota, limits.cpuset_cpus) == (64 << 20, 50000, "0-1")


@pytest.mark.parametrize("text", ["memory", "memory=x", "gpu=1", "cpuset-cpus=a", "cpu-quota=x"])
def test_bad_resources_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_resources((text,))
