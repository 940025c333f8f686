"""Commands that are killed at any moment cost at most what they did: the root stays sound.

Half of them are builds; the others pull from and push to a registry, collect garbage, and write
images to files. A file that was there before a killed command is the old one or the new one.
PYBUILD_CRASHES=5000 runs the storm for longer; PYBUILD_CRASH_SEED repeats one (as far as the
scheduling of processes lets it).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Pybuild
from tests.registries import RealRegistry, real_registry

pytestmark = [pytest.mark.root, pytest.mark.sandbox, pytest.mark.requires("docker-registry")]

_CRASHES = int(os.environ.get("PYBUILD_CRASHES", "200"))
_SEED = int(os.environ.get("PYBUILD_CRASH_SEED", "0")) or random.SystemRandom().getrandbits(32)
_VARIANTS = 6
_AT_A_TIME = 2
_FAR = (10, 11, 12)  # variants that are pulled and removed
_KEPT = (20, 21)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Commands by dice, of which each number is a command that may run beside one other."""

    pybuild: Pybuild
    app: Path
    folder: Path
    host: str
    longest: float

    def crash(self, number: int) -> str:
        """Start a command and kill it; its name if it was killed before it ended."""
        dice = random.Random(_SEED + number)
        kind, limit, command = self._choose(dice, self.folder / f"storm{number % _AT_A_TIME}")
        if kind == "build" and dice.random() < 0.2:
            self._make_collection_due()
        return kind if killed_after(self.pybuild, dice.uniform(0.05, limit), command) else ""

    def _choose(self, dice: random.Random, place: Path) -> tuple[str, float, list[str]]:
        variant, chance = dice.randrange(_VARIANTS), dice.random()
        far = f"{self.host}/app:{dice.choice(_FAR)}"
        kept = f"{self.host}/kept:{dice.choice(_KEPT)}"
        if chance < 0.5:
            command = words(variant, self.app, place)
            if dice.random() < 0.5:
                command.insert(1, "--no-cache")
            return "build", self.longest, command
        archive = os.fspath(place.with_suffix(".kept"))
        if chance < 0.62:
            return "pull", 1.0, ["pull", "-q", far]
        if chance < 0.72:
            return "push", 1.0, ["push", "-q", kept]
        if chance < 0.8:
            return "save", 0.8, ["save", "-o", archive, kept]
        if chance < 0.86:
            return "export", 0.8, ["export", "-o", archive, kept]
        if chance < 0.9:
            return "rmi", 0.6, ["rmi", "-f", far]
        if chance < 0.98:
            return "prune", 0.6, ["prune", "-f", "--filter=until=1s"]
        return "df", 0.6, ["system", "df"]

    def _make_collection_due(self) -> None:
        """As if the last automatic collection was long ago."""
        with closing(sqlite3.connect(self.pybuild.root / "state.db", timeout=60)) as db, db:
            db.execute("UPDATE meta SET value = '0' WHERE key = 'collected'")


def spread(clean: Pybuild, busybox: Pybuild, app: Path, host: str) -> None:
    """Images that the registry alone has, and images of the root that a storm must not lose."""
    place = clean.directory / "spread"
    for variant in (*_FAR, *_KEPT):
        digest(clean, variant, app, place)
        clean("tag", f"app:{variant}", f"{host}/app:{variant}")
        clean("push", "-q", f"{host}/app:{variant}")
    for variant in _KEPT:
        if variant % 2:
            clean("save", "-o", place, f"{host}/app:{variant}")
            busybox("load", "-i", place)
        else:
            busybox("pull", "-q", f"{host}/app:{variant}")
        busybox("tag", f"{host}/app:{variant}", f"{host}/kept:{variant}")


def assert_whole(archive: Path) -> None:
    """It is not there, or is a tar to its last byte."""
    if archive.exists():
        with tarfile.open(archive) as tar:
            assert len(tar.getmembers()) > 3


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RealRegistry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with real_registry(folder) as running:
        yield running


@pytest.mark.timeout(280 + _CRASHES)
def test_killed_commands_leave_a_sound_root(
    busybox: Pybuild, app: Path, tmp_path: Path, registry: RealRegistry
) -> None:
    clean = Pybuild(root=tmp_path / "clean", directory=tmp_path)
    shutil.copytree(busybox.root, clean.root, symlinks=True)
    began = time.monotonic()
    right = {n: digest(clean, n, app, tmp_path / f"clean{n}") for n in range(_VARIANTS)}
    longest = 1.2 * (time.monotonic() - began) / _VARIANTS
    assert len(set(right.values())) == _VARIANTS
    spread(clean, busybox, app, registry.host)
    storm = Storm(pybuild=busybox, app=app, folder=tmp_path, host=registry.host, longest=longest)

    print(f"seed {_SEED}")
    killed: Counter[str] = Counter()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        done = 0
        while killed.total() < _CRASHES:
            more = range(done, done + _CRASHES - killed.total())
            killed.update(kind for kind in pool.map(storm.crash, more) if kind)
            done = more.stop
    print(f"killed of {done}: {dict(killed)}")
    assert survivors(busybox.root) == []
    checked = busybox("system", "check")
    assert "Store is sound" in checked.stdout, checked.stdout
    assert "problem" not in checked.stdout
    for number in range(_AT_A_TIME):
        assert_whole(tmp_path / f"storm{number}.kept")
    again = {n: digest(busybox, n, app, tmp_path / f"again{n}") for n in range(_VARIANTS)}
    assert again == right
    assert_as_they_were(clean, busybox, registry.host)
    busybox("prune", "-f")
    assert "leftover" not in busybox("system", "check").stdout
    assert list((busybox.root / "tmp").iterdir()) == []


def assert_as_they_were(clean: Pybuild, stormed: Pybuild, host: str) -> None:
    """What was kept is whole, here and in the registry, and what is only there can be had."""
    for variant in _KEPT:
        right, kept = files_of(clean, f"{host}/app:{variant}"), f"{host}/kept:{variant}"
        assert files_of(stormed, kept) == right
        stormed("push", "-q", kept)
        stormed("rmi", kept, f"{host}/app:{variant}")
        stormed("pull", "-q", kept)
        assert files_of(stormed, kept) == right
    for variant in _FAR:
        name = f"{host}/app:{variant}"
        stormed("pull", "-q", name)
        assert files_of(stormed, name) == files_of(clean, name)


def files_of(pybuild: Pybuild, image: str) -> dict[str, tuple[int, str, bytes]]:
    """The files of an image: mode, link target and content by name."""
    place = pybuild.directory / "files.tar"
    pybuild("export", "-o", place, image)
    found = {}
    with tarfile.open(place) as tar:
        for member in tar:
            file = tar.extractfile(member)
            data = hashlib.sha256(file.read() if file else b"").digest()
            found[member.name] = (member.mode, member.linkname, data)
    place.unlink()
    return found
