"""A COPY that misses links files from the earlier result of the same step: unchanged ones only.

All files have one size and one time, so that nothing but their content tells them apart.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

pytestmark = [pytest.mark.sandbox, pytest.mark.root]

Context = Callable[..., Path]
DAY = 1_700_000_000


def built(pybuild: Pybuild, context: Path, files: dict[str, str]) -> dict[str, str]:
    """Build with these files; what the destination holds."""
    for name, text in files.items():
        (context / name).parent.mkdir(exist_ok=True)
        (context / name).write_text(text)
    for path in context.rglob("*"):
        os.utime(path, (DAY, DAY))
    out = context.parent / "out"
    pybuild("build", f"--output=type=local,dest={out}", context)
    return {path.name: path.read_text() for path in (out / "x").iterdir()}


def test_files_that_swap_their_contents_are_copied(pybuild: Pybuild, context: Context) -> None:
    app = context("FROM scratch\nCOPY p/a q/b c /x/\n")
    for files in (
        {"p/a": "one", "q/b": "two", "c": "1"},
        {"p/a": "two", "q/b": "one", "c": "2"},
        {"p/a": "one", "q/b": "six", "c": "3"},
        {"p/a": "six", "q/b": "six", "c": "4"},
    ):
        expected = {name.rpartition("/")[2]: text for name, text in files.items()}
        assert built(pybuild, app, files) == expected


@pytest.mark.parametrize("sources", ["p q", "p/* q/*", "p l", "p l/*"])
def test_what_lay_under_a_file_of_another_source_is_copied_again(
    pybuild: Pybuild, context: Context, sources: str
) -> None:
    app = context(f"FROM scratch\nCOPY {sources} /x/\n")
    (app / "l").symlink_to("q")
    files = {"p/f": "one", "q/f": "two", "q/g": "1"}
    assert built(pybuild, app, files) == {"f": "two", "g": "1"}
    (app / "q/f").unlink()
    assert built(pybuild, app, {}) == {"f": "one", "g": "1"}


def test_what_lay_under_a_file_of_an_archive_is_copied_again(
    pybuild: Pybuild, context: Context
) -> None:

    app = context("FROM scratch\nADD f a.tar /x/\n", {"f": "one"})
    for names in (("f", "g"), ("g",)):
        with tarfile.open(app / "a.tar", "w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = 3, DAY
                archive.addfile(entry, io.BytesIO(b"two"))
        found = built(pybuild, app, {})
    assert found == {"f": "one", "g": "two"}
