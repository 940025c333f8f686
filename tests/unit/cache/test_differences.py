from __future__ import annotations

from typing import Any

import pytest

from buildkit_py.cache.differences import op_change

CACHE = {
    "kind": "cache",
    "target": "/c",
    "input": None,
    "mode": 0o755,
    "uid": 0,
    "readonly": False,
}
SECRET = {"kind": "SecretMount", "id": "a", "target": "/run/secrets/a", "mode": 0o400}
LINUX = {"kind": "Platform", "os": "linux"}
FILE = {"kind": "MakeFile", "name": "EOF", "destination": "/x", "mtime": 1}


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        ({"user": ""}, {"user": "web"}, "user root by default → web"),
        ({"shm_size": 0}, {"shm_size": 1024}, "size of /dev/shm default → 1024"),
        ({"cgroup_parent": ""}, {"cgroup_parent": "/x"}, "parent cgroup none → /x"),
        ({"hosts": ["a"]}, {"hosts": ["b"]}, "extra host b is new, extra host a is gone"),
        ({"ulimits": []}, {"ulimits": ["nofile=9"]}, "ulimit nofile=9 is new"),
        (
            {"devices": []},
            {"devices": [{"kind": "Device", "name": "x.com/gpu=0"}]},
            "device x.com/gpu=0 is new",
        ),
        (
            {"platform": {"kind": "Platform", "os": "linux", "architecture": "amd64"}},
            {
                "platform": {
                    "kind": "Platform",
                    "os": "linux",
                    "architecture": "arm",
                    "variant": "v7",
                }
            },
            "platform linux/amd64 → linux/arm/v7",
        ),
        (
            {"arguments": ["/bin/sh", "-c", "make"]},
            {"arguments": ["/bin/sh", "-ec", "make"]},
            "shell /bin/sh -c → /bin/sh -ec",
        ),
        (
            {"heredocs": [["EOF", "#!/bin/sh\na\n"]]},
            {"heredocs": [["EOF", "#!/bin/sh\nb\n"]]},
            "here-document EOF, line 2: a → b",
        ),
        (
            {"actions": [{**FILE, "content": "a\nb\n"}]},
            {"actions": [{**FILE, "content": "a\n", "mtime": 2}]},
            "here-document EOF, line 2 is gone (b)",
        ),
        (
            {"actions": [{**FILE, "mode": "1"}]},
            {"actions": [{**FILE, "mode": "2"}]},
            "changed: flags or destination",
        ),
        (
            {"mounts": [CACHE]},
            {"mounts": [{**CACHE, "mode": 0o700, "readonly": True}]},
            "--mount=type=cache,target=/c: mode 0755 → 0700, readonly false → true",
        ),
        (
            {"mounts": [CACHE, SECRET]},
            {"mounts": [CACHE, {**SECRET, "id": "b"}]},
            "--mount=type=secret,id=b is new, --mount=type=secret,id=a is gone",
        ),
        ({"mounts": [CACHE, SECRET]}, {"mounts": [SECRET, CACHE]}, "order of the mounts"),
        (
            {"user": "a", "cwd": "/"},
            {"user": "b", "cwd": "/w"},
            "user a → b, working directory / → /w",
        ),
    ],
)
def test_each_field_says_what_it_was_and_is(
    then: dict[str, Any], now: dict[str, Any], expected: str
) -> None:
    assert op_change({"kind": "exec", **now}, {"kind": "exec", **then}) == expected
