"""`pybuild debug` where it looks at the cache and the sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

DOCKERFILE = """\
FROM busybox
ARG V=1
COPY a /a
RUN --mount=type=cache,target=/c,id=things --network=none echo $V > /v
"""


@pytest.fixture
def app(context: Callable[..., Path]) -> Path:
    return context(DOCKERFILE, {"a": "a"})


def debug(pybuild: Pybuild, *words: str | Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(pybuild("debug", *words).stdout)
    return found


def test_keys_show_what_counts_and_whether_it_is_known(busybox: Pybuild, app: Path) -> None:
    before = {entry["step"]: entry for entry in debug(busybox, "keys", app)}
    copy = before["COPY a /a"]
    (run,) = [entry for step, entry in before.items() if step.startswith("RUN")]
    assert not copy["recorded"]
    assert copy["inputs"][1]["content"]
    assert "V=1" in run["op"]["env"]
    assert run["inputs"] == [{"key": copy["key"]}]
    busybox("build", app)
    after = {entry["step"]: entry for entry in debug(busybox, "keys", app)}
    assert after["COPY a /a"] == copy | {"recorded": True}


def test_explain_says_what_would_run_and_runs_nothing(busybox: Pybuild, app: Path) -> None:
    busybox("build", app)
    steps = debug(busybox, "explain", app, "--build-arg=V=2", "--format=json")
    assert [step["cached"] for step in steps if step["step"].startswith("COPY")] == [True]
    (run,) = [step for step in steps if step["step"].startswith("RUN")]
    assert not run["cached"]
    assert run["reason"] == "ARG V 1 → 2"
    assert run["line"] == 4
    assert debug(busybox, "explain", app, "--build-arg=V=2", "--format=json") == steps
    said = busybox("debug", "explain", app, "--build-arg=V=2").stdout
    line = "RUN --mount=type=cache,target=/c,id=things --network=none echo $V > /v: ARG V 1 → 2"
    assert said == line + "\n"
    assert busybox("debug", "explain", app).stdout == "every step is cached\n"


def test_sandbox_shows_what_a_run_would_see(busybox: Pybuild, app: Path) -> None:
    (run,) = debug(busybox, "sandbox", app)
    assert run["process"]["arguments"] == ["/bin/sh", "-c", "echo $V > /v"]
    assert run["process"]["capabilities"] == "0xa80425fb"
    assert run["network"] == "none"
    assert run["mounts"][0]["id"] == "things"
    assert "/proc/kcore" in run["masked_paths"]
