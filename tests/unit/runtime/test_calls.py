"""Lists of system calls, worked on by a child that shares our memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_py.runtime import calls
from buildkit_py.runtime.calls import ANY, CallList, Child, tolerating

pytestmark = pytest.mark.skipif(not calls.available(), reason="the loop is for x86-64 only")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe; the child inherits both ends."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def end_of(child: Child) -> int:
    status = os.waitpid(child.pid, 0)[1]
    os.close(child.pidfd)
    return os.waitstatus_to_exitcode(status)


def test_calls_are_made_in_order_and_their_results_kept(pipe: tuple[int, int]) -> None:
    todo = CallList()
    for text in (b"one", b"three"):
        todo.add("write", pipe[1], text, len(text))
    child = Child(todo, 0, 0)
    assert end_of(child) == calls.FAILED
    assert os.read(pipe[0], 99) == b"onethree"
    assert [result for result, _label in child.outcome()[:2]] == [3, 5]
    assert child.outcome()[-1][1][1] == "exit_group"


def test_an_error_ends_the_list_and_is_named(pipe: tuple[int, int]) -> None:
    todo = CallList()
    todo.add("chdir", b"/missing/of/calls", stage="cwd", path="/missing/of/calls")
    todo.add("write", pipe[1], b"never", 5)
    child = Child(todo, 0, 0)
    assert end_of(child) == calls.FAILED
    assert child.outcome() == [(-errno.ENOENT, ("cwd", "chdir", "/missing/of/calls"))]
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 9)


@pytest.mark.parametrize(
    ("tolerate", "goes_on"),
    [
        (ANY, True),
        (tolerating(errno.ENOENT), True),
        (tolerating(errno.EACCES, errno.ENOTDIR), False),
        (0, False),
    ],
)
def test_errors_that_do_not_matter(tolerate: int, goes_on: bool, pipe: tuple[int, int]) -> None:
    todo = CallList()
    todo.add("chdir", b"/missing/of/calls", tolerate=tolerate)
    todo.add("write", pipe[1], b"on", 2)
    child = Child(todo, 0, 0)
    assert end_of(child) == calls.FAILED
    assert (child.outcome()[-1][1][1] == "exit_group") is goes_on


def test_a_list_grows_while_the_child_waits(pipe: tuple[int, int], tmp_path: Path) -> None:
    door = tmp_path / "door"
    os.mkfifo(door)
    first, then = CallList(), CallList()
    first.add("open", os.fsencode(door), os.O_RDONLY)
    then.add("write", pipe[1], b"on", 2)
    child = Child(first, 1, 0)
    child.extend(then)
    with pytest.raises(OSError, match="too long"):
        child.extend(then)  # there is room for one
    door.write_bytes(b"")
    assert end_of(child) == calls.FAILED
    assert os.read(pipe[0], 9) == b"on"


def test_the_program_gets_its_arguments_and_variables(pipe: tuple[int, int]) -> None:
    todo = CallList()
    todo.add("dup2", pipe[1], 1)
    words = todo.strings([b"sh", b"-c", b'echo "$0 $A $B"', "wörd".encode()])
    variables = todo.strings([b"A=a b", b"B="])
    todo.add("execve", b"/missing/of/calls", words, variables, tolerate=ANY)
    todo.add("execve", b"/bin/sh", words, variables)
    assert end_of(Child(todo, 0, 0)) == 0
    assert os.read(pipe[0], 99).decode() == "wörd a b \n"


def test_a_nul_byte_cannot_cut_an_argument() -> None:
    with pytest.raises(ValueError, match="NUL"):
        CallList().strings([b"a", b"b\0c"])
