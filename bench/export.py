"""Times of leaving: an image with one large layer to archives and to a registry, beside others.

    python bench/export.py [--megabytes 500] [--directory /dev/shm]

The image is built first, its layer is then in no compressed form. Each figure is one run, since
every tool keeps what it has compressed. The registry is Debian's, started for this on loopback.
docker push and buildah push stand beside push; docker save writes no compressed layer at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent))

from peers import PROJECT, every, machine, program, show

STEPS = ("gzip archive", "zstd archive", "push", "push again")


def make_context(folder: Path, megabytes: int) -> None:
    """A file that compresses to about two fifths: words, and noise."""
    chance = random.Random(7)
    words = [chance.randbytes(chance.randrange(2, 9)).hex().encode() for _ in range(4000)]
    folder.mkdir()
    with (folder / "data").open("wb") as file:
        for _ in range(megabytes):
            text = b" ".join(chance.choices(words, k=90_000))[: 3 << 18]
            file.write(text + chance.randbytes((1 << 20) - len(text)))
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY data /data\n")


def timed(words: Sequence[str | Path], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(
        words, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return time.perf_counter() - started


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "registry.json"
    storage = {"filesystem": {"rootdirectory": os.fspath(folder / "registry")}}
    config.write_text(
        json.dumps({"version": "0.1", "storage": storage, "http": {"addr": address}})
    )
    environment = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
    command = ["docker-registry", "serve", os.fspath(config)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def ours(place: Path, context: Path, address: str) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": os.fspath(PROJECT), "DOCKER_HOST": "none"}
    environment["PYBUILD_ROOT"] = os.fspath(place / "ours")
    own, name = program(), f"{address}/ours:1"
    build = [*own, "build", "-q", "--provenance=false", "-t", name]
    timed([*build, context], environment)
    figures = {}
    for kind in ("zstd", "gzip"):
        output = f"type=oci,dest={place}/out.tar,compression={kind}"
        figures[f"{kind} archive"] = timed([*build, "-o", output, context], environment)
    # the gzip form is kept now: pushing is measured from a root that has none
    environment["PYBUILD_ROOT"] = os.fspath(place / "again")
    timed([*build, context], environment)
    figures["push"] = timed([*own, "push", name], environment)
    figures["push again"] = timed([*own, "push", name], environment)
    return figures


def buildah(place: Path, context: Path, address: str) -> dict[str, float]:
    environment = dict(os.environ)
    folders = [f"--root={place}/buildah", f"--runroot={place}/run", "--storage-driver=vfs"]
    own = ["buildah", *folders]
    timed([*own, "build", "-q", "-t", "bench", context], environment)
    figures = {}
    for kind in ("gzip", "zstd"):
        words = [*own, "push", "--format=oci", f"--compression-format={kind}", "bench"]
        figures[f"{kind} archive"] = timed([*words, f"oci-archive:{place}/b.tar"], environment)
        (place / "b.tar").unlink()
    push = [*own, "push", "--tls-verify=false", "bench", f"docker://{address}/buildah:1"]
    figures["push"] = timed(push, environment)
    figures["push again"] = timed(push, environment)
    return figures


def docker(_place: Path, context: Path, address: str) -> dict[str, float]:
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    name = f"{address}/docker:1"
    problem: Exception = FileNotFoundError("no docker")
    for client in every("docker"):  # not each client can build
        try:
            timed([client, "build", "-q", "-t", name, context], environment)
        except subprocess.SubprocessError as error:
            problem = error
            continue
        figures = {"push": timed([client, "push", name], environment)}
        figures["push again"] = timed([client, "push", name], environment)
        timed([client, "rmi", name], environment)
        return figures
    raise problem


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--directory", default="/dev/shm")
    arguments = parser.parse_args()
    print(machine())
    if shutil.which("docker-registry") is None:
        print("docker-registry is not installed: nothing is measured")
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        place = Path(name)
        context = place / "context"
        make_context(context, arguments.megabytes)
        found: dict[str, dict[str, float]] = {}
        with registry(place) as address:
            for title, measure in (("pybuild", ours), ("buildah", buildah), ("docker", docker)):
                try:
                    found[title] = measure(place, context, address)
                except (OSError, subprocess.SubprocessError) as error:
                    said = getattr(error, "stderr", b"") or b""
                    print(f"{title} is left out: {said.decode()[-200:] or error}")
        for step in STEPS:
            show(step, {title: times[step] for title, times in found.items() if step in times})


if __name__ == "__main__":
    main()
