from __future__ import annotations

import io
import os
import py_compile
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from buildkit_py.layers import bytecode
from buildkit_py.layers.diff import raise_times, write_layer

SETTLED = 1_600_000_000
TIME_CHECKED = py_compile.PycInvalidationMode.TIMESTAMP


def module(folder: Path, mtime: int = SETTLED + 99_999_999) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "settled_module.py"
    source.write_text("value = 1\n")
    os.utime(source, (mtime, mtime))
    py_compile.compile(os.fspath(source), invalidation_mode=TIME_CHECKED)
    return source


def uses_bytecode(folder: Path) -> bool:
    shown = subprocess.run(
        [sys.executable, "-B", "-v", "-c", "import settled_module"],
        cwd=folder,
        env={"PYTHONPATH": os.fspath(folder)},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    return "settled_module.cpython" in shown and "/settled_module.py\n" in "".join(
        line + "\n" for line in shown.splitlines() if " matches " in line
    )


def unpacked(upper: Path, target: Path, clamp: int | None) -> Path:
    out = io.BytesIO()
    write_layer(upper, out, clamp_mtime=clamp)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        archive.extraction_filter = lambda member, _path: member  # 3.11.2 knows no filter=
        archive.extractall(target)
    return target


def test_a_settled_layer_has_bytecode_that_python_uses(tmp_path: Path) -> None:
    module(tmp_path / "upper")
    settled = unpacked(tmp_path / "upper", tmp_path / "out", SETTLED)
    assert (settled / "settled_module.py").stat().st_mtime == SETTLED
    assert uses_bytecode(settled)


def test_bytecode_of_another_source_stays_unused(tmp_path: Path) -> None:
    source = module(tmp_path / "upper", SETTLED - 500)
    os.utime(source, (SETTLED - 10, SETTLED - 10))
    assert not uses_bytecode(unpacked(tmp_path / "upper", tmp_path / "out", SETTLED))


def test_layers_made_at_different_times_are_alike(tmp_path: Path) -> None:
    module(tmp_path / "one", SETTLED + 5)
    module(tmp_path / "two", SETTLED + 77)
    same_name = {"one": tmp_path / "one", "two": tmp_path / "two"}
    # compiled from the same path, as it is inside of an image
    for folder in same_name.values():
        source = folder / "settled_module.py"
        py_compile.compile(
            os.fspath(source), dfile="/settled_module.py", invalidation_mode=TIME_CHECKED
        )
    first, second = (write_layer(folder, clamp_mtime=SETTLED) for folder in same_name.values())
    assert first.diff_id == second.diff_id
    assert write_layer(same_name["one"]).diff_id != write_layer(same_name["two"]).diff_id


def test_bytecode_checked_by_hash_is_left_alone(tmp_path: Path) -> None:
    source = module(tmp_path)
    made = py_compile.compile(
        os.fspath(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
    data = Path(str(made)).read_bytes()
    assert bytecode.settled(data, latest=1) == data


@pytest.mark.parametrize("data", [b"", b"short", bytes(16), b"#!/bin/sh\necho hello there\n"])
def test_what_is_no_bytecode_is_left_alone(data: bytes) -> None:
    assert bytecode.settled(data, earliest=9, latest=9) == data


def test_times_before_the_limit_are_raised_with_their_bytecode(tmp_path: Path) -> None:
    module(tmp_path / "upper", SETTLED - 1000)
    raise_times(tmp_path / "upper", SETTLED)
    assert (tmp_path / "upper/settled_module.py").stat().st_mtime == SETTLED
    assert uses_bytecode(tmp_path / "upper")
