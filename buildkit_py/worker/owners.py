"""`--chown`: names and numbers to ids, names by the passwd and group files of the destination.

`root` is 0 whatever those files say, and needs none. What to do about a name that is not there is
for the caller to say: `--chown` refuses it, WORKDIR under such a USER makes root's directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from buildkit_py.errors import CopyError
from buildkit_py.graph import Owner

_MAX_ID = (1 << 32) - 2
_LIMIT = 16 << 20


class Readable(Protocol):
    """A tree that small files are read from."""

    def read(self, path: str | bytes, *, limit: int = ...) -> bytes | None:
        """Content of a regular file, None if there is none."""
        ...


def resolve_owner(owner: Owner, tree: Readable, unknown: Callable[[str], None]) -> tuple[int, int]:
    """The uid and gid meant. A lone number stands for both; a lone name brings its group.

    `unknown` is told of names that are not there; if it returns, such a user is 0:0, and such a
    group leaves the group as the user has it.
    """
    uid = gid = 0
    if owner.user:
        number = _number(owner.user)
        if number is not None:
            uid = gid = number
        else:
            uid, gid = _user(owner.user, tree, unknown)
    if owner.group:
        number = _number(owner.group)
        gid = _group(owner.group, tree, gid, unknown) if number is None else number
    return uid, gid


def _user(name: str, tree: Readable, unknown: Callable[[str], None]) -> tuple[int, int]:
    for fields in _lines(tree, "/etc/passwd"):
        if fields[0] == name and len(fields) > 3 and fields[2].isdigit() and fields[3].isdigit():
            return int(fields[2]), int(fields[3])
    unknown(f'there is no user "{name}" in /etc/passwd of the image')
    return 0, 0


def _group(name: str, tree: Readable, otherwise: int, unknown: Callable[[str], None]) -> int:
    for fields in _lines(tree, "/etc/group"):
        if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
            return int(fields[2])
    unknown(f'there is no group "{name}" in /etc/group of the image')
    return otherwise


def refuse(lack: str) -> None:
    """For names that have to be there. Raises CopyError."""
    what = "group" if "no group" in lack else "user"
    raise CopyError(
        lack,
        hint=f"make the {what} in an earlier step, or give its number, as in --chown=1000:1000",
    )


def _lines(tree: Readable, path: str) -> Iterator[list[str]]:
    content = tree.read(path, limit=_LIMIT) or b""
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        yield line.strip().split(":")


def _number(text: str) -> int | None:
    if text == "root":
        return 0
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text)
    if value > _MAX_ID:
        raise CopyError(f"owner id {text} is out of range")
    return value
