"""Cost of one `RUN true`: snapshot prepared, sandbox run, layer committed; beside runc and crun.

    python bench/run_true.py [--root DIR] [--rounds 5]

Prints milliseconds a step for 1, 20 and 100 steps (the first includes the fork server's start),
for whole builds of 1 and of 21 such steps the time of a further step beside other builders,
and for each OCI runtime that works here the time of one `run` of a prepared bundle, default
namespaces, an overlay mounted and unmounted around it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.fspath(Path(__file__).resolve().parent.parent))


def ours(base: Path, busybox: Path, rounds: int) -> None:
    from tests.sandbox.harness import Rig

    for count in (1, 20, 100):
        totals = []
        for number in range(rounds):
            with Rig(base / f"s{count}-{number}", busybox) as rig:
                top = rig.image
                started = time.perf_counter()
                for _ in range(count):
                    top = rig.run(("/bin/true",), parent=top if count < 100 else rig.image)
                    top = top.ok().snapshot
                totals.append((time.perf_counter() - started) * 1000 / count)
        low, middle = min(totals), statistics.median(totals)
        print(f"pybuild    {count:4d} steps: {middle:7.2f} ms a step (median), {low:.2f} (least)")


def steady(base: Path, busybox: Path) -> None:
    """Single steps once the server is up, without and with the snapshot's commit."""
    from tests.sandbox.harness import Rig

    with Rig(base / "steady", busybox) as rig:
        rig.run(("/bin/true",)).ok()
        times = []
        for _ in range(60):
            started = time.perf_counter()
            rig.run(("/bin/true",)).ok()
            times.append((time.perf_counter() - started) * 1000)
    middle = statistics.median(times)
    print(f"pybuild    one more step: {middle:6.2f} ms median, {min(times):.2f} least")


def oci_runtime(name: str, base: Path, busybox: Path) -> None:
    if shutil.which(name) is None:
        print(f"{name:10} not installed")
        return
    bundle = base / name
    lower = bundle / "lower/bin"
    lower.mkdir(parents=True)
    shutil.copy(busybox, lower / "busybox")
    (lower / "true").symlink_to("busybox")
    for part in ("upper", "work", "rootfs"):
        (bundle / part).mkdir()
    subprocess.run([name, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"].update(args=["/bin/true"], terminal=False)
    (bundle / "config.json").write_text(json.dumps(config))
    options = f"lowerdir={bundle}/lower,upperdir={bundle}/upper,workdir={bundle}/work"
    times = []
    for number in range(15):
        started = time.perf_counter()
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, bundle / "rootfs"], check=True
        )
        done = subprocess.run(
            [name, "run", f"bench-{os.getpid()}-{number}"],
            cwd=bundle,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        subprocess.run(["umount", bundle / "rootfs"], check=True)
        times.append((time.perf_counter() - started) * 1000)
        if done.returncode:
            print(f"{name:10} does not run here: {done.stderr.strip().splitlines()[-1]}")
            return
    print(f"{name:10} one run: {statistics.median(times):6.1f} ms median, {min(times):.1f} least")


def whole_builds(base: Path, rounds: int) -> None:
    """What a further `RUN true` costs in a build: the difference of 21 and of 1, over 20."""
    sys.path.insert(0, os.fspath(Path(__file__).parent))
    from peers import BASE, base_tar, builders, show

    directory = base / "context"
    directory.mkdir()
    figures = {}
    for builder in builders(base / "peers" / "state", base_tar()):
        costs = []
        for number in range(-1, rounds):  # the first is to warm up
            seconds = []
            for steps in (1, 21):
                # no builder may know them from another day
                mark = f"{os.urandom(4).hex()}-{number}-{steps}"
                lines = [f"RUN true {mark} {step}\n" for step in range(steps)]
                (directory / "Dockerfile").write_text(f"FROM {BASE}\n" + "".join(lines))
                seconds.append(builder.build(directory))
            costs.append((seconds[1] - seconds[0]) / 20)
        figures[builder.name] = statistics.median(costs[1:])
    show("one more RUN true in a build", figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    base = Path(tempfile.mkdtemp(prefix="pybuild-bench-", dir=args.root))
    try:
        ours(base, busybox, args.rounds)
        steady(base, busybox)
        whole_builds(base, max(1, args.rounds // 2))
        for name in ("runc", "crun"):
            oci_runtime(name, base, busybox)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
