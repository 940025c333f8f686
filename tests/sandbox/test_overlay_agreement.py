"""Our merged view and our upper directories, against the kernel's overlay.

A private mount namespace mounts the stack; what a process sees there must be what `MergedTree`
says, and what the kernel writes into an upper must read the same as a layer.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.graph import CopyFiles, FileOp
from buildkit_py.layers.apply import apply_layer
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.diff import write_layer
from buildkit_py.layers.tree import MergedTree
from buildkit_py.worker.file import FileRun, run_file_op
from tests.trees import Hard, Link, With, make_tree, read_stack

pytestmark = [pytest.mark.sandbox, pytest.mark.requires("overlay", "unshare")]

LOOK = """
import json, os, stat, sys
found = {}
for folder, folders, files in os.walk("."):
    for name in folders + files:
        path = os.path.join(folder, name)
        s = os.lstat(path)
        content = None
        if stat.S_ISREG(s.st_mode):
            content = open(path, "rb").read().decode("latin-1")
        elif stat.S_ISLNK(s.st_mode):
            content = os.readlink(path)
        found[path[1:]] = [stat.filemode(s.st_mode), s.st_uid, s.st_gid, content]
json.dump(found, sys.stdout)
"""


def in_overlay(place: Path, lowers: Sequence[Path], script: str, upper: Path | None) -> str:
    """Run a shell script in a mounted stack; writes go to `upper`."""
    work, mount = place / "work", place / "mount"
    for folder in (work, mount):
        folder.mkdir(exist_ok=True)
    options = "lowerdir=" + ":".join(os.fspath(item) for item in reversed(lowers))
    if upper is not None:
        options += f",upperdir={upper},workdir={work}"
    if os.geteuid():
        options += ",userxattr"
    elif upper is not None:
        options += ",redirect_dir=off,metacopy=off,index=off"
    mapped = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    full = f'set -e; mount -t overlay overlay -o "$1" "$2"; cd "$2"; {script}'
    done = subprocess.run(
        ["unshare", *mapped, "--mount", "sh", "-c", full, "sh", options, os.fspath(mount)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen_by_kernel(place: Path, stack: Sequence[Path]) -> dict[str, Any]:
    (place / "look.py").write_text(LOOK)
    empty = place / "empty"
    empty.mkdir(exist_ok=True)
    command = f"{sys.executable} -I -S {place / 'look.py'}"
    out = in_overlay(place, [empty, *stack], command, None)
    found: dict[str, Any] = json.loads(out)
    return found


def seen_by_us(stack: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in read_stack(*stack).items():
        mode, (uid, gid), *rest = value
        content = next((item for item in rest if isinstance(item, (bytes, str))), None)
        if isinstance(content, bytes):
            content = content.decode("latin-1")
        found[name] = [mode, uid, gid, content]
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_tree(
        tmp_path / "base",
        {
            "etc/passwd": "root",
            "gone/x": "1",
            "again/old": "1",
            "again/deep/old": "1",
            "file-to-dir": "1",
            "dir-to-file/x": "1",
            "link-to-dir": Link("etc"),
            "dir-to-link/y": "1",
            "hard/a": "same",
            "hard/b": Hard("hard/a"),
            "perm/": With(None, mode=0o700),
            "perm/f": With("p", mode=0o4755),
        },
    )


SCRIPT = """
rm -rf gone; rm -rf again; mkdir again; echo new > again/new
rm file-to-dir; mkdir file-to-dir; echo 1 > file-to-dir/in
rm -rf dir-to-file; echo file > dir-to-file
rm link-to-dir; mkdir link-to-dir; echo 2 > link-to-dir/in
rm -rf dir-to-link; ln -s /etc dir-to-link
echo more >> hard/a; chmod 600 perm/f; rm etc/passwd; echo back > etc/passwd; ln etc/passwd linked
mkdir -p a/b/c; mkfifo a/pipe
"""


def test_what_the_kernel_writes_reads_the_same(tmp_path: Path, base: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    in_overlay(tmp_path, [base], SCRIPT, upper)
    assert seen_by_us([base, upper]) == seen_by_kernel(tmp_path, [base, upper])
    assert MergedTree([base, upper]).lookup("/again/old") is None


def test_a_layer_of_a_step_applies_to_the_same_tree(tmp_path: Path, base: Path) -> None:
    upper, applied = tmp_path / "upper", tmp_path / "applied"
    upper.mkdir()
    applied.mkdir()
    in_overlay(tmp_path, [base], SCRIPT, upper)
    out = io.BytesIO()
    write_layer(upper, out)
    apply_layer(io.BytesIO(out.getvalue()), applied, lowers=[base])
    assert seen_by_kernel(tmp_path, [base, applied]) == seen_by_kernel(tmp_path, [base, upper])
    assert seen_by_us([base, applied]) == seen_by_us([base, upper])


def test_the_kernel_sees_what_a_copy_made(tmp_path: Path, base: Path) -> None:
    upper, context = tmp_path / "upper", tmp_path / "context"
    upper.mkdir()
    make_tree(context, {"hard/a": "new", "perm/g": "g", "etc/sub/x": "x", "l": Link("etc")})
    copy = CopyFiles(input=1, source="/", destination="/")
    run = FileRun(base=[base], inputs=[None, ContextTree(context)], upper=upper)
    run_file_op(FileOp(actions=(copy,)), run)
    kernel = seen_by_kernel(tmp_path, [base, upper])
    assert seen_by_us([base, upper]) == kernel
    assert kernel["/hard/a"][3] == "new"
    assert kernel["/hard/b"][3] == "same"
    assert kernel["/perm/f"][0] == "-rwsr-xr-x"


def test_deep_stacks_agree(tmp_path: Path, base: Path) -> None:
    stack = [base]
    steps = ["rm -rf again", "mkdir again; echo 1 > again/x", "rm -rf again etc", "mkdir etc"]
    for number, script in enumerate(steps):
        upper = tmp_path / f"upper{number}"
        upper.mkdir()
        place = tmp_path / f"place{number}"
        place.mkdir()
        in_overlay(place, stack, script, upper)
        stack.append(upper)
        assert seen_by_us(stack) == seen_by_kernel(place, stack)


def test_an_opaque_root_in_a_layer_hides_all_below(tmp_path: Path, base: Path) -> None:
    from buildkit_py.layers.tar import LayerWriter, TarEntry

    out = io.BytesIO()
    writer = LayerWriter(out)
    writer.add(TarEntry(name=b".wh..wh..opq"))
    writer.add(TarEntry(name=b"etc/only", size=1), b"1")
    writer.finish()
    layer = tmp_path / "layer"
    layer.mkdir()
    apply_layer(io.BytesIO(out.getvalue()), layer, lowers=[base])
    kernel = seen_by_kernel(tmp_path, [base, layer])
    assert sorted(kernel) == ["/etc", "/etc/only"]
    assert seen_by_us([base, layer]) == kernel
