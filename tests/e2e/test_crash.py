"""Builds that are killed at any moment cost at most the step that ran: the root stays sound.

PYBUILD_CRASHES=5000 runs the storm for longer; PYBUILD_CRASH_SEED repeats one (as far as the
scheduling of processes lets it).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.sandbox]

_CRASHES = int(os.environ.get("PYBUILD_CRASHES", "200"))
_SEED = int(os.environ.get("PYBUILD_CRASH_SEED", "0")) or random.SystemRandom().getrandbits(32)
_VARIANTS = 6
_AT_A_TIME = 2

DOCKERFILE = """\
FROM busybox AS tools
ARG N
RUN --mount=type=cache,target=/cache echo $N >> /cache/log && echo tool-$N > /tool
RUN mkdir /many && for i in $(seq 150); do echo $N-$i > /many/$i; done
FROM busybox
COPY d /d
COPY --link big /linked/big
ADD archive.tar /archive/
ARG N
RUN rm -r /d/1 && ln /d/2 /d/two && echo $N > /n
COPY --from=tools /tool /many /t/
RUN cat /t/tool /n > /all && chmod 700 /all
"""

# every pybuild process before a kill, and whatever it has started, bears the root's name
_CLEANERS = (("prune", "-f", "--filter=until=1s"), ("system", "df"))


@pytest.fixture
def app(context: Callable[..., Path]) -> Path:
    files = {f"d/{number}": f"{number}\n" * number for number in range(120)}
    path = context(DOCKERFILE, files | {"big": "big\n" * 200_000})
    subprocess.run(["tar", "-C", path, "-cf", path / "archive.tar", "d"], check=True)
    return path


def words(variant: int, app: Path, place: Path) -> list[str]:
    """One of a few builds that have some of their steps in common."""
    return [
        "build",
        "--progress=plain",
        f"--build-arg=N={variant}",
        "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        f"--tag=app:{variant}",
        f"--output=type=oci,dest={place}.tar,rewrite-timestamp=true",
        "--output=type=image",
        f"--metadata-file={place}.json",
        os.fspath(app),
    ]


def digest(pybuild: Pybuild, variant: int, app: Path, place: Path) -> str:
    pybuild(*words(variant, app, place), timeout=120)
    found = json.loads(place.with_suffix(".json").read_text())["containerimage.digest"]
    assert isinstance(found, str)
    return found


def killed_after(pybuild: Pybuild, delay: float, command: list[str]) -> bool:
    """Start it as a process group and kill that; whether it was killed before it ended."""
    process = subprocess.Popen(
        pybuild.command(*command),
        env=pybuild.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    assert process.returncode == 0, output.decode()
    return False


def survivors(root: Path) -> list[int]:
    """Processes that work on the root; those that are ending have a moment for it."""
    mark = os.fsencode(f"PYBUILD_ROOT={root}")
    deadline = time.monotonic() + 20
    found: list[int] = []
    while time.monotonic() < deadline:
        found = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        found = [pid for pid in found if mark in _environment(pid).split(b"\0")]
        if not found:
            break
    return found


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.mark.timeout(280 + _CRASHES)
def test_killed_builds_leave_a_sound_root(busybox: Pybuild, app: Path, tmp_path: Path) -> None:
    clean = Pybuild(root=tmp_path / "clean", directory=tmp_path)
    shutil.copytree(busybox.root, clean.root, symlinks=True)
    began = time.monotonic()
    right = {n: digest(clean, n, app, tmp_path / f"clean{n}") for n in range(_VARIANTS)}
    longest = 1.2 * (time.monotonic() - began) / _VARIANTS
    assert len(set(right.values())) == _VARIANTS

    def crash(number: int) -> bool:
        dice = random.Random(_SEED + number)
        command = words(dice.randrange(_VARIANTS), app, tmp_path / f"storm{number % _AT_A_TIME}")
        if dice.random() < 0.1:
            command = list(dice.choice(_CLEANERS))
        elif dice.random() < 0.5:
            command.insert(1, "--no-cache")
        return killed_after(busybox, dice.uniform(0.05, longest), command)

    print(f"seed {_SEED}")
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        killed = done = 0
        while killed < _CRASHES:
            ended = list(pool.map(crash, range(done, done + _CRASHES - killed)))
            killed, done = killed + sum(ended), done + len(ended)
    assert survivors(busybox.root) == []
    checked = busybox("system", "check")
    assert "Store is sound" in checked.stdout, checked.stdout
    assert "problem" not in checked.stdout
    again = {n: digest(busybox, n, app, tmp_path / f"again{n}") for n in range(_VARIANTS)}
    assert again == right
    busybox("prune", "-f")
    assert "leftover" not in busybox("system", "check").stdout
    assert list((busybox.root / "tmp").iterdir()) == []
