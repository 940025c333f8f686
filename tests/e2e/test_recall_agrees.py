"""The look-up of an unchanged build and the pipeline give the same image, whatever was changed.

Every case builds until the build is recalled, changes one thing, and then asks three times: the
plain command (which may recall), the pipeline with its cache, and the pipeline without any cache.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Pybuild

Context = Callable[..., Path]
Change = Callable[[Path], object]

DOCKERFILES = {
    "literal": "COPY literal /literal\nCOPY literal/one.txt /named/\n",
    "link": "COPY way/in.txt /through-a-link/\n",
    "wildcard": "COPY wild/*/a* /wild/\nCOPY wi?d/sub/ /sub/\n",
    "parents": "COPY --parents par/*/x.txt par/./deep/**/y.txt /parents/\n",
    "exclude": "COPY --exclude=*.log --exclude=cold some /some/\n",
    "ignored": "COPY . /all\n",
    "named": "COPY --from=more . /more/\n",
    "mount": "RUN --mount=type=bind,source=mounted,target=/m cat /m/* > /read\n",
}
FILES = {
    "literal/one.txt": "1",
    "literal/folder/two.txt": "2",
    "wild/sub/a1": "a1",
    "wild/sub/b1": "b1",
    "par/one/x.txt": "x",
    "par/deep/er/y.txt": "y",
    "par/deep/er/z.txt": "z",
    "some/kept": "kept",
    "some/dropped.log": "dropped",
    "some/cold/file": "cold",
    "real/in.txt": "in",
    "elsewhere/in.txt": "else",
    "mounted/m.txt": "m",
    "ignored/file": "ignored",
    "unused/file": "unused",
}


class Place:
    """A context reached through a link, a named context, and the command that builds them.

    `kind` says which of the Dockerfiles is built.
    """

    def __init__(self, pybuild: Pybuild, directory: Path, tmp_path: Path, kind: str) -> None:
        self.pybuild = pybuild
        self.directory = directory
        self.more = tmp_path / "more"
        self.link = tmp_path / "link"
        base = "busybox" if kind == "mount" else "scratch"
        (directory / "Dockerfile").write_text(f"FROM {base}\n{DOCKERFILES[kind]}")
        self.words = ["build", "-q", "--build-context", f"more={self.more}", str(self.link)]

    def build(self, *words: str, pipeline: bool = False) -> tuple[str, bool]:
        """The image's ID, and whether it was recalled."""
        command = self.pybuild.command(*self.words, *words)
        traced = [command[0], "-X", "importtime", *command[1:]]
        more = {"PYBUILD_DEBUG": "none"} if pipeline else {}
        done = subprocess.run(
            traced,
            env=self.pybuild.variables(more),
            cwd=self.pybuild.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip(), "buildkit_py.engine.build" not in done.stderr

    def settle(self) -> None:
        """Wait until a change of a file would show in its ctime."""
        tops = (self.directory, self.more)
        paths = [path for top in tops for path in (top, *top.rglob("*"))]
        newest = max(path.lstat().st_ctime_ns for path in paths)
        while time.time_ns() < newest + 150_000_000:
            time.sleep(0.01)


@pytest.fixture
def place(request: pytest.FixtureRequest, context: Context, tmp_path: Path) -> Place:
    kind = request.node.callspec.params["case"].partition(":")[0]
    pybuild = request.getfixturevalue("busybox" if kind == "mount" else "pybuild")
    directory = context(None, FILES)
    (directory / ".dockerignore").write_text("ignored\n*.tmp\n")
    (directory / "way").symlink_to("real")
    found = Place(pybuild, directory, tmp_path, kind)
    found.more.mkdir()
    (found.more / "file").write_text("more")
    found.link.symlink_to(directory)
    found.settle()
    return found


def _write(name: str, text: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return change


def _append(name: str, text: str) -> Change:
    def change(directory: Path) -> None:
        with (directory / name).open("a") as file:
            file.write(text)

    return change


def _remove(name: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    return change


def _rename(name: str, new: str) -> Change:
    return lambda directory: (directory / name).rename(directory / new)


def _mode(name: str, mode: int) -> Change:
    return lambda directory: (directory / name).chmod(mode)


def _touch(name: str) -> Change:
    return lambda directory: os.utime(directory / name, ns=(1, 10**18))


def _retarget(name: str, target: str) -> Change:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).symlink_to(target)

    return change


def _same_size_and_time(name: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        before = path.stat()
        path.write_text("#" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


def _replaced_by_rename(name: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        before = path.stat()
        new = directory.parent / "new"
        new.write_text("#" * before.st_size)
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        new.replace(path)

    return change


def _folder_instead(name: str) -> Change:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        (directory / name).mkdir()
        (directory / name / "inside").write_text("inside")

    return change


def _file_instead(name: str) -> Change:
    def change(directory: Path) -> None:
        shutil.rmtree(directory / name)
        (directory / name).write_text("a file")

    return change


def _link_instead(name: str, new: str) -> Change:
    def change(directory: Path) -> None:
        path = directory / name
        path.rename(path.with_name(new))
        path.symlink_to(new)

    return change


def _attribute(name: str) -> Change:
    return lambda directory: os.setxattr(directory / name, "user.note", b"value")


def _socket(name: str) -> Change:
    def change(directory: Path) -> None:
        there = os.getcwd()
        os.chdir((directory / name).parent)
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(Path(name).name)
        finally:
            os.chdir(there)

    return change


COUNTS: dict[str, Change] = {
    "literal: content": _write("literal/one.txt", "other"),
    "literal: same size and time": _same_size_and_time("literal/folder/two.txt"),
    "literal: another file of the same size and time": _replaced_by_rename("literal/one.txt"),
    "literal: a file more": _write("literal/folder/three.txt", "3"),
    "literal: a file more in a new folder": _write("literal/new/er/file", "3"),
    "literal: an empty folder more": lambda directory: (directory / "literal/empty").mkdir(),
    "literal: a file less": _remove("literal/folder/two.txt"),
    "literal: a folder less": _remove("literal/folder"),
    "literal: a file renamed": _rename("literal/folder/two.txt", "literal/folder/2.txt"),
    "literal: a folder renamed": _rename("literal/folder", "literal/directory"),
    "literal: a folder in place of a file": _folder_instead("literal/folder/two.txt"),
    "literal: a file in place of a folder": _file_instead("literal/folder"),
    "literal: a link in place of a file": _retarget("literal/one.txt", "folder/two.txt"),
    "literal: mode of a file": _mode("literal/folder/two.txt", 0o755),
    "literal: mode of a folder": _mode("literal/folder", 0o700),
    "literal: extended attribute": _attribute("literal/one.txt"),
    "literal: a socket": _socket("literal/folder/socket"),
    "link: another target on the way": _retarget("way", "elsewhere"),
    "link: content behind it": _write("real/in.txt", "other"),
    "wildcard: content": _write("wild/sub/a1", "other"),
    "wildcard: same size and time": _same_size_and_time("wild/sub/a1"),
    "wildcard: a match more": _write("wild/sub/a2", "a2"),
    "wildcard: a match more in a new folder": _write("wild/new/a3", "a3"),
    "wildcard: a match renamed": _rename("wild/sub/a1", "wild/sub/a9"),
    "wildcard: mode of a match": _mode("wild/sub/a1", 0o600),
    "wildcard: a folder in place of a match": _folder_instead("wild/sub/a1"),
    "wildcard: below a matched folder": _write("wild/sub/deep/file", "deep"),
    "parents: content": _write("par/one/x.txt", "other"),
    "parents: same size and time": _same_size_and_time("par/deep/er/y.txt"),
    "parents: a match more in a new folder": _write("par/two/x.txt", "x2"),
    "parents: a match more further down": _write("par/deep/er/est/y.txt", "y2"),
    "parents: mode of a folder above a match": _mode("par/one", 0o700),
    "parents: a match less": _remove("par/deep/er/y.txt"),
    "exclude: content of what is left": _write("some/kept", "other"),
    "exclude: a file more": _write("some/more", "more"),
    "mount: content": _write("mounted/m.txt", "other"),
    "mount: a file more": _write("mounted/n.txt", "n"),
    "literal: the Dockerfile": _append("Dockerfile", "LABEL new=1\n"),
    "literal: a pattern more in the ignore file": _append(".dockerignore", "literal/folder\n"),
    "literal: an ignore file of the Dockerfile's own": _write(
        "Dockerfile.dockerignore", "literal/folder\n"
    ),
    "ignored: no ignore file": _remove(".dockerignore"),
    "ignored: an exception": _append(".dockerignore", "!ignored/file\n"),
    "named: content": lambda directory: (directory.parent / "more" / "file").write_text("other"),
    "named: a file more": lambda directory: (directory.parent / "more" / "other").write_text(
        "other"
    ),
    "named: an ignore file": lambda directory: (
        directory.parent / "more" / ".dockerignore"
    ).write_text("file\n.dockerignore\n"),
}
COUNTS_NOT: dict[str, Change] = {
    "literal: time alone": _touch("literal/folder/two.txt"),
    "literal: the same content again": _write("literal/one.txt", "1"),
    "literal: time of a folder": _touch("literal/folder"),
    "wildcard: time alone": _touch("wild/sub/a1"),
    "parents: time alone": _touch("par/one/x.txt"),
    "parents: content of what does not match": _write("par/deep/er/z.txt", "other"),
    "exclude: content of what is excluded": _write("some/dropped.log", "other"),
    "exclude: a file more in an excluded folder": _write("some/cold/other", "other"),
    "ignored: content": _write("ignored/file", "other"),
    "ignored: a file more": _write("ignored/new", "new"),
    "ignored: a file more in a folder that counts": _write("x.tmp", "t"),
    "literal: content of what is not copied": _write("unused/file", "other"),
    "literal: a file more that is not copied": _write("unused/new/file", "new"),
    "literal: another comment in the ignore file": _append(".dockerignore", "# text\n"),
    "wildcard: a link to the folder in its place": _link_instead("wild/sub", "moved"),
    "literal: the context moved, a link in its place": _link_instead(".", "moved"),
}
# what a recalled build has nothing to look at for
UNSEEN = frozenset(
    (
        "parents: content of what does not match",
        "exclude: content of what is excluded",
        "exclude: a file more in an excluded folder",
        "ignored: content",
        "ignored: a file more",
        "literal: content of what is not copied",
        "literal: a file more that is not copied",
    )
)


def _three_ways(place: Place) -> tuple[str, bool]:
    """The image ID, which must be the same three ways, and whether it was recalled."""
    image, recalled = place.build()
    assert place.build(pipeline=True)[0] == image
    assert place.build("--no-cache")[0] == image
    return image, recalled


def _recalled(place: Place) -> str:
    first, _ = place.build()
    assert place.build() == (first, True)
    return first


@pytest.mark.sandbox
@pytest.mark.parametrize("case", COUNTS)
def test_what_counts_is_built(place: Place, case: str) -> None:
    before = _recalled(place)
    COUNTS[case](place.directory)
    image, recalled = _three_ways(place)
    assert not recalled
    assert image != before


@pytest.mark.sandbox
@pytest.mark.parametrize("case", COUNTS_NOT)
def test_what_does_not_count_gives_the_same_image(place: Place, case: str) -> None:
    before = _recalled(place)
    COUNTS_NOT[case](place.directory)
    image, recalled = _three_ways(place)
    assert image == before
    assert recalled or case not in UNSEEN
