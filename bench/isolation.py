"""What a step sees and may do, beside docker's, podman's and runc's defaults: a table.

    python bench/isolation.py

Runs one probe in a step of this project and in a container of each of the others that works here,
as root: namespaces, capabilities, filter, masked and read-only paths, devices.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from peers import BASE, PROJECT, base_tar, program

NAMESPACES = "mnt pid ipc uts net cgroup user".split()
PROBE = r"""
for n in mnt pid ipc uts net cgroup user; do echo "ns $n $(readlink /proc/self/ns/$n)"; done
sed -n 's/^\(Cap...\|Seccomp\|NoNewPrivs\):/status \1/p' /proc/self/status
echo "plain umask $(umask)"
echo "plain stdin $(readlink /proc/self/fd/0)"
set -- $(cat /proc/$$/stat); echo "plain own-session $(($1 == $6))"
echo "plain devices $(cd /dev && echo *)"
for p in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper; do
    (: > $p) 2>/dev/null && echo "plain writable $p"
done
sed 's/^/mount /' /proc/self/mountinfo
"""


def read(text: str, host: dict[str, str]) -> dict[str, str]:
    """The rows of one probe."""
    rows = {"namespaces": "", "shared with the host": ""}
    masked, readonly = [], []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        words = rest.split()
        if kind == "ns" and len(words) == 2:
            place = "shared with the host" if host[words[0]] == words[1] else "namespaces"
            rows[place] += f" {words[0]}"
        elif kind == "status" and len(words) == 2:
            rows[words[0]] = words[1]
        elif kind == "plain":
            rows[words[0]] = " ".join(words[1:])
        elif kind == "mount":
            point, options = words[4], words[5].split(",")
            source = words[words.index("-") + 1]
            if not point.startswith(("/proc/", "/sys/")):
                continue
            if words[3].endswith("/null") or (source == "tmpfs" and "cgroup" not in point):
                masked.append(point)
            elif "ro" in options and not point.startswith("/sys/fs/cgroup"):
                readonly.append(point)
    return rows | {"masked": " ".join(sorted(masked)), "read-only": " ".join(sorted(readonly))}


def ours(base: Path) -> str:
    own = program()
    environment = os.environ | {
        "PYBUILD_ROOT": os.fspath(base / "state"),
        "PYTHONPATH": os.fspath(PROJECT),
    }
    subprocess.run([*own, "import", "-", BASE], input=base_tar(), env=environment, check=True)
    folder = base / "context"
    folder.mkdir()
    (folder / "probe").write_text(PROBE)
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY probe /\nRUN sh /probe > /out\n")
    out = base / "out"
    subprocess.run(
        [*own, "build", "-q", "-o", f"type=local,dest={out}", folder], env=environment, check=True
    )
    return (out / "out").read_text()


def container(words: list[str]) -> Callable[[Path], str]:
    def run(_base: Path) -> str:
        done = subprocess.run(
            [words[0], "import", "-", BASE], input=base_tar(), capture_output=True, check=False
        )
        if done.returncode:
            raise OSError(done.stderr.decode().strip().splitlines()[-1:])
        return output([*words, BASE, "sh", "-c", PROBE])

    return run


def runc(base: Path) -> str:
    """The bundle of `runc spec`, as it is: few capabilities, no filter."""
    bundle = base / "runc"
    (bundle / "rootfs").mkdir(parents=True)
    subprocess.run(["tar", "x", "-C", bundle / "rootfs"], input=base_tar(), check=True)
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"].update(args=["/bin/sh", "-c", PROBE], terminal=False)
    (bundle / "config.json").write_text(json.dumps(config))
    return output(["runc", "run", f"isolation-{os.getpid()}"], bundle)


def output(words: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise OSError(" ".join(done.stderr.strip().splitlines()[-1:]))
    return done.stdout


def main() -> None:
    host = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    found: dict[str, dict[str, str]] = {}
    others = {
        "docker run": container(["docker", "run", "--rm"]),
        "podman run": container(["podman", "--runtime=runc", "run", "--rm", "--ulimit=host"]),
        "runc spec": runc,
    }
    base = Path(tempfile.mkdtemp(prefix="pybuild-isolation-"))
    try:
        found["a RUN step"] = read(ours(base), host)
        for name, run in others.items():
            if shutil.which(name.split()[0]) is None:
                print(f"{name}: not installed", file=sys.stderr)
                continue
            try:
                found[name] = read(run(base), host)
            except OSError as error:
                print(f"{name}: does not run here: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    for row in dict.fromkeys(key for rows in found.values() for key in rows):
        print(row)
        for name, rows in found.items():
            print(f"    {name:12} {rows.get(row, '').strip() or '-'}")


if __name__ == "__main__":
    main()
