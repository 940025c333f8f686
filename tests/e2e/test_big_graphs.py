"""Graphs that are wide, deep, or have parts that nobody wants."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
pytestmark = [pytest.mark.sandbox, pytest.mark.root]


def test_more_layers_than_the_kernel_stacks(busybox: Pybuild, context: Context) -> None:
    folders = "".join(f"WORKDIR /d/{number}\n" for number in range(501))
    lines = f"FROM busybox\n{folders}RUN ls /d | wc -l > /count && rm -r /d/7\nRUN ls /d | wc -l\n"
    said = busybox("build", "--progress=plain", "-t", "deep", context(lines)).stderr
    assert any(line.endswith(" 500") for line in said.splitlines())
    assert busybox("run", "--rm", "deep", "cat", "/count").stdout == "501\n"
    assert "Store is sound" in busybox("system", "check").stdout


def test_a_hundred_stages_and_diamonds(busybox: Pybuild, context: Context) -> None:
    stages = "".join(f"FROM busybox AS s{n}\nWORKDIR /w{n}\n" for n in range(100))
    copies = "".join(f"COPY --from=s{n} /w{n} /all/w{n}\n" for n in range(100))
    base = "FROM busybox AS b0\nRUN echo > /base\n"
    diamonds = "".join(
        f"FROM b{n} AS l{n}\nWORKDIR /l{n}\nFROM b{n} AS r{n}\nWORKDIR /r{n}\n"
        f"FROM b{n} AS b{n + 1}\nCOPY --from=l{n} /l{n} /l{n}\nCOPY --from=r{n} /r{n} /r{n}\n"
        for n in range(8)
    )
    app = context(f"{base}{diamonds}{stages}FROM b8\n{copies}")
    busybox("build", "-q", "-t", "wide", app)
    found = busybox("run", "--rm", "wide", "sh", "-c", "ls /all | wc -l; ls -d /[lr]? | wc -l")
    assert found.stdout == "100\n16\n"
    said = busybox("build", "--progress=plain", "--jobs=1", app).stderr
    assert (
        " DONE"
        not in said.replace("#1 [internal] load build context\n#1 DONE", "").partition(
            "exporting to image"
        )[0]
    )


@pytest.mark.parametrize("jobs", [[], ["--jobs=1"]])
def test_what_nobody_wants_is_neither_run_nor_fetched(
    busybox: Pybuild, context: Context, jobs: list[str]
) -> None:
    lines = """\
FROM registry.invalid/no/such AS far
RUN exit 1
FROM busybox AS broken
COPY missing /
ADD https://registry.invalid/x /
RUN exit 2
FROM busybox AS good
RUN echo fine > /fine
FROM broken AS last
RUN exit 3
"""
    app = context(lines)
    busybox("build", "-q", "--target=good", *jobs, app)
    assert "missing" in busybox("build", "-q", *jobs, app, status=1).stderr


def test_a_failure_ends_what_sleeps_beside_it(busybox: Pybuild, context: Context) -> None:
    mark = "31415926"
    lines = f"""\
FROM busybox AS slow
RUN sleep {mark}
FROM busybox AS other
RUN (trap '' TERM INT HUP; sleep {mark}) & setsid sleep {mark} & wait
FROM busybox AS bad
RUN sleep 0.5; exit 7
FROM busybox
COPY --from=slow / /a
COPY --from=other / /b
COPY --from=bad / /c
"""
    done = busybox("build", "--progress=plain", "--jobs=4", context(lines), status=1, timeout=60)
    assert "exit code: 7" in done.stderr
    assert done.stderr.count("CANCELED") == 2
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert not [line for line in listed.stdout.splitlines() if line.strip() == f"sleep {mark}"]
    assert os.listdir(busybox.root / "tmp") == []


def test_equal_steps_of_different_stages_run_once(
    busybox: Pybuild, context: Context, tmp_path: Path
) -> None:
    same = "RUN --mount=type=cache,id=log,target=/log echo ran >> /log/all && cat /log/all > /n\n"
    stages = "".join(f"FROM busybox AS s{n}\n{same}" for n in range(6))
    copies = "".join(f"COPY --from=s{n} /n /n{n}\n" for n in range(6))
    out = tmp_path / "out"
    app = context(f"{stages}FROM scratch\n{copies}")
    busybox("build", "--jobs=6", f"--output=type=local,dest={out}", app)
    assert {path.read_text() for path in out.iterdir()} == {"ran\n"}
