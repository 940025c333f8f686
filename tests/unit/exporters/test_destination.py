"""Files that take a place, and places that no file may take."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from buildkit_py.exporters.destination import open_file, place_of, write_file


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_file(pipe, b"one ")
    with open_file(pipe) as file:
        file.write(b"two")
    assert os.read(reader, 100) == b"one two"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_names_a_descriptor_is_written_to(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with target.open("wb") as stream:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{stream.fileno()}")
        write_file(link, b"text")
        assert link.is_symlink()
        assert os.fstat(stream.fileno()).st_size == 4
        with open_file(link) as file:
            file.write(b"archive")
        assert link.is_symlink()
    assert target.read_bytes() == b"archive"


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    old = tmp_path / "deep" / "file"
    old.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("deep/file")
    before = old.stat().st_ino
    write_file(link, b"new")
    with open_file(link) as file:
        file.write(b"newer")
    assert link.is_symlink()
    assert old.read_text() == "newer"
    assert old.stat().st_ino != before
    assert sorted(path.name for path in old.parent.iterdir()) == ["file"]


def test_a_directory_is_no_place_for_a_file(tmp_path: Path) -> None:
    assert place_of(tmp_path) is None
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []
