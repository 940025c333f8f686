"""A full disk: one clear error, nothing half-made, and a store that works on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.root, pytest.mark.sandbox]

_SCRIPT = """
set -u
mount -t tmpfs -o size=6m none "$1"
shift
"$@" < "$INPUT"; echo "status $?"
"$PYTHON" -m buildkit_py images -q
"$PYTHON" -m buildkit_py system check; echo "check $?"
ls "$PYBUILD_ROOT/snapshots" "$PYBUILD_ROOT/blobs/sha256" | grep -c '^[a-z0-9]*$' || true
"""


@pytest.mark.parametrize("command", [["import", "-", "big:1"], ["load"]])
def test_a_full_disk_is_one_error_and_leaves_nothing(
    busybox: Pybuild, tmp_path: Path, command: list[str]
) -> None:
    big = tmp_path / "big"
    big.mkdir()
    (big / "noise").write_bytes(os.urandom(9 << 20))
    archive = tmp_path / "big.tar"
    subprocess.run(["tar", "-C", big, "-cf", archive, "."], check=True)
    if command == ["load"]:
        busybox("import", archive, "big:1")
        busybox("save", "-o", archive, "big:1")
    small = Pybuild(root=tmp_path / "small", directory=tmp_path)
    small.root.mkdir()
    words = small.command(*command)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", small.root, *words],
        env=small.variables({"PYTHON": words[0], "INPUT": os.fspath(archive)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "no space left on device" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "status 1" in done.stdout
    assert "check 0" in done.stdout, done.stdout
    assert "Store is sound: 0 blobs, 0 images" in done.stdout


_BUILDS = """
set -u
mount -t tmpfs -o size=24m none "$1"
cp -a "$2/." "$1"
shift 2
free=0
while :; do
    rm -f "$PYBUILD_ROOT/ballast"
    all=$(df --output=avail -k "$PYBUILD_ROOT" | tail -n 1)
    [ "$free" -lt "$all" ] || break
    fallocate -l $(( (all - free) * 1024 )) "$PYBUILD_ROOT/ballast"
    "$@" > log 2>&1; status=$?
    [ "$status" = 0 ] || grep -qi 'error: .*no space left on device' log || cat log
    grep Traceback log && cat log
    rm "$PYBUILD_ROOT/ballast"
    "$PYTHON" -m buildkit_py system check > check || cat check
    echo "status $status"
    [ "$status" = 0 ] && break
    free=$(( free + 150 ))
done
"$@" > log 2>&1 || cat log
tr -d '\\n' < meta.json
"""
_DOCKERFILE = """\
FROM busybox
COPY files /files
RUN head -c 700000 /dev/zero | tr '\\\\0' x > /made
RUN cat /made /files/0 > /both
"""


def on_small_disk(
    script: str, busybox: Pybuild, command: list[str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script in a mount namespace of its own: place to mount at, state to copy, command."""
    small = directory / "small"
    small.mkdir()
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", small, busybox.root, *command],
        env=busybox.variables({"PYTHON": command[0], "PYBUILD_ROOT": os.fspath(small)}),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_builds_on_a_disk_that_is_full_at_any_point(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    app = context(_DOCKERFILE, {f"files/{n}": f"{n}" * 50_000 for n in range(8)})
    words = ["build", "--progress=plain", "--build-arg=SOURCE_DATE_EPOCH=1", "-t", "app"]
    command = busybox.command(*words, "--metadata-file=meta.json", app)
    done = on_small_disk(_BUILDS, busybox, command, tmp_path)
    *tries, last = done.stdout.splitlines()
    assert set(tries) == {"status 1", "status 0"}, done.stdout + done.stderr
    assert tries.count("status 1") > 5
    busybox(*words, f"--metadata-file={tmp_path}/right.json", app)
    right = json.loads((tmp_path / "right.json").read_text())
    assert json.loads(last)["containerimage.digest"] == right["containerimage.digest"]


_LAST_BYTES = """
set -u
mkfs.ext4 -q -b 1024 -m 0 "$1.image" 8M > /dev/null
mount -o loop "$1.image" "$1"
cp -a "$2/." "$1"
shift 2
free=0
while [ "$free" -le 140 ]; do
    all=$(df --output=avail -k "$PYBUILD_ROOT" | tail -n 1)
    fallocate -l $(( (all - free) * 1024 )) "$PYBUILD_ROOT/ballast"
    "$@" > log 2>&1; echo "status $?"
    grep Traceback log && cat log
    rm "$PYBUILD_ROOT/ballast"
    free=$(( free + 7 ))
done
"$PYTHON" -m buildkit_py system check
umount "$PYBUILD_ROOT"
"""


@pytest.mark.requires("loop", "mkfs.ext4")
def test_a_file_system_of_small_blocks_without_a_last_one_is_an_error_and_no_signal(
    busybox: Pybuild, context: Callable[..., Path], tmp_path: Path
) -> None:
    command = busybox.command("build", "--no-cache", context("FROM busybox\nCOPY . /\n"))
    done = on_small_disk(_LAST_BYTES, busybox, command, tmp_path)
    *tries, last = done.stdout.splitlines()
    assert set(tries) <= {"status 1", "status 0"}, done.stdout + done.stderr
    assert tries.count("status 1") > 5
    assert last.startswith("Store is sound"), done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
