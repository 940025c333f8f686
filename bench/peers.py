"""The builders that measurements stand beside, each as the words of a command. No bench itself.

    docker build      with BuildKit (the one in docker's daemon, or buildx) and with the classic
                      builder, where a daemon answers (DOCKER_HOST)
    buildah           where it is installed; needs root or rootless storage

All build the same Dockerfile on `BASE`: an image with a shell that each is given beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BASE = "localhost/bench-base:latest"


class Builder:
    """One program: how it builds a directory, and what its environment needs."""

    def __init__(self, name: str, words: list[str], **environment: str) -> None:
        self.name = name
        self.words = words
        self.environment = os.environ | environment
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def build(self, directory: Path) -> float:
        """Seconds of one build. Raises CalledProcessError."""
        started = time.perf_counter()
        subprocess.run(
            [*self.words, os.fspath(directory)],
            env=self.environment,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        return time.perf_counter() - started

    def works(self, directory: Path) -> bool:
        """Whether it builds that directory here."""
        try:
            self.build(directory)
        except (OSError, subprocess.SubprocessError):
            return False
        return True


def in_turns(
    found: list[Builder],
    directory: Path,
    rounds: int,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of several builds of each, in turns, as other work on a machine comes and goes.

    `before` changes something ahead of each.
    """
    times: dict[str, list[float]] = {item.name: [] for item in found}
    for _ in range(rounds):
        for item in found:
            before()
            times[item.name].append(item.build(directory))
    return times


def program() -> list[str]:
    """The command line that was installed with this interpreter, else the module."""
    script = Path(sys.executable).with_name("pybuild")
    return [os.fspath(script)] if script.exists() else [sys.executable, "-m", "buildkit_py"]


def builders(state: Path, base: bytes) -> list[Builder]:
    """This project's builder and every other one that works here, all with the base image."""
    own = program()
    environment = {"PYBUILD_ROOT": os.fspath(state), "PYTHONPATH": os.fspath(PROJECT)}
    if own[0] != sys.executable:
        del environment["PYTHONPATH"]
    found = [Builder("pybuild", [*own, "build", "-q", "-t", "bench"], **environment)]
    _run([*own, "import", "-", BASE], base, os.environ | environment)
    probe = state.parent / "probe"
    probe.mkdir(parents=True)
    (probe / "Dockerfile").write_text(f"FROM {BASE}\nRUN true\n")
    for name, kit in (("docker, BuildKit", "1"), ("docker, classic", "0")):
        for docker in every("docker"):
            words = [docker, "build", "-q", "--network=host", "-t", "bench"]
            builder = Builder(name, words, DOCKER_BUILDKIT=kit)
            if _run([docker, "import", "-", BASE], base) and builder.works(probe):
                found.append(builder)
                break
    buildah = shutil.which("buildah")
    if buildah and _buildah_base(buildah, base, state):
        words = [buildah, "build", "-q", "--layers", "--network=host", "-t", "bench"]
        builder = Builder("buildah", words)
        if builder.works(probe):
            found.append(builder)
    return found


def every(name: str) -> list[str]:
    """Every program of a name on the path: not each docker client can build."""
    folders = dict.fromkeys(os.environ.get("PATH", os.defpath).split(os.pathsep))
    found = [shutil.which(name, path=folder) for folder in folders]
    return [path for path in found if path]


def _buildah_base(buildah: str, base: bytes, state: Path) -> bool:
    archive = state.parent / "base.tar"
    archive.write_bytes(base)
    made = subprocess.run(
        [buildah, "from", "scratch"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return False
    name = made.stdout.strip()
    try:
        return _run([buildah, "add", "-q", name, archive, "/"]) and _run(
            [buildah, "commit", "-q", name, BASE]
        )
    finally:
        _run([buildah, "rm", name])


def _run(
    words: list[str | Path], data: bytes = b"", environment: dict[str, str] | None = None
) -> bool:
    done = subprocess.run(
        words, input=data, env=environment, capture_output=True, check=False, timeout=120
    )
    return done.returncode == 0


def show(what: str, figures: Mapping[str, float | list[float]]) -> None:
    """A line for each builder (median and least), and our share of the fastest other one's."""
    times = {name: [each] if isinstance(each, float) else each for name, each in figures.items()}
    print(f"{what} (load {os.getloadavg()[0]:.1f}):")
    for name, seconds in times.items():
        median, least = statistics.median(seconds) * 1000, min(seconds) * 1000
        print(f"  {name:20} {median:9.0f} ms, at its least {least:9.0f} ms")
    ratios = [
        best(times["pybuild"]) / min(best(times[name]) for name in times if name != "pybuild")
        for best in (statistics.median, min)
        if len(times) > 1
    ]
    if ratios:
        shown = "         ".join(f"{ratio:9.2f}   " for ratio in ratios)
        print(f"  {'ratio to the fastest':20} {shown}")
    sys.stdout.flush()


def base_tar() -> bytes:
    """Debian's static busybox with its links, as the examples make it."""
    code = (
        "import sys; sys.path.insert(0, 'examples'); import base_images;"
        "sys.stdout.buffer.write(base_images.busybox_tar())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True
    )
    return done.stdout


def machine() -> str:
    """What the figures were taken on, in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    facts = {"cores": os.cpu_count(), "memory": f"{memory:.0f} GB", "kernel": os.uname().release}
    return json.dumps(facts)


if __name__ == "__main__":
    print(machine())
