"""The table of COPY's and ADD's flags, a row each: who takes it, and what it does to files."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_py.errors import DockerfileErrors
from buildkit_py.graph import FileOp, GitOp, HttpOp, MergeOp
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.tree import MergedTree
from buildkit_py.worker.file import FileRun, run_file_op
from tests.stage import OTHER, lowered
from tests.trees import With, contents, make_tree

Copied = Callable[..., "Result"]


class Result:
    """The tree after one instruction."""

    def __init__(self, base: Path, upper: Path, op: FileOp, inputs: tuple[object, ...]) -> None:
        self.op = op
        self.inputs = inputs
        self.files = contents(base, upper)
        self._tree = MergedTree([base, upper])

    def stat(self, path: str) -> tuple[int, int, int]:
        node = self._tree.lookup(path, follow=False)
        assert node is not None
        return stat.S_IMODE(node.mode), node.uid, node.gid


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    """Run one instruction, as it is written, over small trees."""
    context = tmp_path / "context"
    make_tree(
        context,
        {
            "d/a.txt": With("1", mode=0o640),
            "d/b.md": "2",
            "d/run": With("3", mode=0o755),
            "d/s/c.txt": "4",
        },
    )
    with tarfile.open(context / "t.bin", "w") as tar:
        member = tarfile.TarInfo("inside")
        member.uid = 7
        tar.addfile(member, io.BytesIO())
    base = tmp_path / "base"
    passwd = "app:x:1000:1001::/:\n"
    make_tree(base, {"etc/passwd": passwd, "etc/group": "staff:x:50:\n"})

    def run(text: str) -> Result:
        stage = lowered(text)
        vertex = stage.root
        assert vertex is not None
        if isinstance(vertex.op, MergeOp):
            vertex = vertex.inputs[1]
            assert vertex is not None
        assert isinstance(vertex.op, FileOp)
        upper = tmp_path / "upper"
        upper.mkdir()
        kept = [] if vertex.inputs[0] is None else [base]
        trees = [None, ContextTree(context)]
        run_file_op(vertex.op, FileRun(base=kept, inputs=trees, upper=upper, made_at=77))
        return Result(base, upper, vertex.op, vertex.inputs)

    return run


@pytest.mark.parametrize(
    ("flag", "copy", "add"),
    [
        ("--from=x", True, False),
        ("--chown=1", True, True),
        ("--chmod=1", True, True),
        ("--link", True, True),
        ("--parents", True, False),
        ("--exclude=x", True, True),
        ("--keep-git-dir", False, True),
        ("--checksum=x", False, True),
        ("--unpack", False, True),
    ],
)
def test_which_instruction_takes_which_flag(flag: str, copy: bool, add: bool) -> None:
    name = flag.partition("=")[0]
    source = "https://h/x.git" if name in {"--checksum", "--keep-git-dir"} else "x"
    for keyword, taken in (("COPY", copy), ("ADD", add)):
        text = f"{keyword} {flag} {source} /y/"
        if taken:
            lowered(text.replace("--checksum=x", "--checksum=" + "a" * 40))
        else:
            with pytest.raises(DockerfileErrors, match=f"unknown flag: {name}"):
                lowered(text)


def test_from(copied: Copied) -> None:
    found = copied("COPY --from=stage d /x")
    assert found.inputs[1] is OTHER
    assert found.files["/x/a.txt"] == "1"


@pytest.mark.root
@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
@pytest.mark.parametrize(
    ("value", "ids"),
    [("55", (55, 55)), ("55:staff", (55, 50)), ("app", (1000, 1001)), ("app:7", (1000, 7))],
)
def test_chown(copied: Copied, keyword: str, value: str, ids: tuple[int, int]) -> None:
    found = copied(f"{keyword} --chown={value} d /new/x")
    for path in ("/new", "/new/x", "/new/x/a.txt", "/new/x/s/c.txt"):
        assert found.stat(path)[1:] == ids, path


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
@pytest.mark.parametrize(
    ("value", "made", "plain", "program"),
    [
        ("750", 0o750, 0o750, 0o750),
        ("4755", 0o755, 0o4755, 0o4755),
        ("u=rwX,go=rX", 0o755, 0o644, 0o755),
        ("go-r", 0o755, 0o600, 0o711),
    ],
)
def test_chmod(
    copied: Copied, keyword: str, value: str, made: int, plain: int, program: int
) -> None:
    found = copied(f"{keyword} --chmod={value} d /new/x")
    modes = [found.stat(path)[0] for path in ("/new", "/new/x/a.txt", "/new/x/run")]
    assert modes == [made, plain, program]


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_link(copied: Copied, keyword: str) -> None:
    found = copied(f"{keyword} --link d/a.txt /etc/")
    assert found.inputs[0] is None
    assert isinstance(lowered(f"{keyword} --link d /x").root.op, MergeOp)  # type: ignore[union-attr]
    with_mode = lowered(f"{keyword} --link --chmod=1 d /x").root
    assert with_mode is not None
    assert isinstance(with_mode.op, FileOp)


def test_parents(copied: Copied) -> None:
    found = copied("COPY --parents d/a.txt d/./s/*.txt **/*.md /x/")
    kept = {path: text for path, text in found.files.items() if path.startswith("/x")}
    assert kept == {"/x/d/a.txt": "1", "/x/s/c.txt": "4", "/x/d/b.md": "2"}


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_exclude(copied: Copied, keyword: str) -> None:
    found = copied(f"{keyword} --exclude=*.txt --exclude=run d /x")
    kept = {path: text for path, text in found.files.items() if path.startswith("/x")}
    assert kept == {"/x/b.md": "2", "/x/s/c.txt": "4"}


def test_keep_git_dir() -> None:
    for flag, kept in (("", False), ("--keep-git-dir", True), ("--keep-git-dir=false", False)):
        root = lowered(f"ADD {flag} https://h/x.git /x").root
        assert root is not None
        op = root.inputs[1].op  # type: ignore[union-attr]
        assert isinstance(op, GitOp)
        assert op.keep_git_dir is kept


def test_checksum() -> None:
    digest = "sha256:" + "a" * 64
    root = lowered(f"ADD --checksum={digest} https://h/f /x").root
    assert root is not None
    assert root.inputs[1].op == HttpOp(url="https://h/f", filename="f", checksum=digest)  # type: ignore[union-attr]
    root = lowered("ADD --checksum=abcdef0 https://h/x.git#main /x").root
    assert root is not None
    op = root.inputs[1].op  # type: ignore[union-attr]
    assert isinstance(op, GitOp)
    assert (op.ref, op.checksum) == ("main", "abcdef0")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("ADD t.bin /x/", "/x/inside"),
        ("ADD --unpack=true t.bin /x/", "/x/inside"),
        ("ADD --unpack=false t.bin /x/", "/x/t.bin"),
        ("COPY t.bin /x/", "/x/t.bin"),
    ],
)
def test_unpack(copied: Copied, text: str, file: str) -> None:
    found = copied(text)
    assert [path for path in found.files if path.startswith("/x")] == [file]
    if os.geteuid() == 0:
        assert found.stat(file)[1] == (7 if file.endswith("inside") else 0)
