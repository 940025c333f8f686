"""USER to uid, gid, supplementary groups and HOME, from the text of passwd and group files.

The sandbox child imports this module, so it imports nothing itself. The rules are docker's: a
name must be in passwd; an unknown number runs with group 0; with `user:group` there are no
supplementary groups but that one; else they are those of /etc/group that list the user.
"""

from __future__ import annotations

MAX_ID = (1 << 31) - 1


class UnknownUser(LookupError):
    """A user or group name that the root does not define."""


class Identity:
    """Who a process runs as."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.home = home


def resolve_user(
    user: str, passwd: str, group: str, extra_groups: tuple[str, ...] = ()
) -> Identity:
    """Look up `user[:group]`. Raises UnknownUser."""
    wanted, _, wanted_group = user.partition(":")
    entry = _find_user(wanted or "0", passwd)
    number = _number(wanted or "0")
    if entry is None and number is None:
        raise UnknownUser(f"unable to find user {wanted}: no matching entries in passwd file")
    if entry is not None:
        name, uid, gid, home = entry
    else:
        assert number is not None
        name, uid, gid, home = "", number, 0, "/"
    groups: list[int] = []
    if wanted_group:
        gid = _find_group(wanted_group, group)
    elif name:
        groups = [number for number, members in _groups(group) if name in members]
    groups += [_find_group(item, group) for item in extra_groups]
    unique = tuple(dict.fromkeys([gid, *groups]))
    return Identity(uid, gid, unique, home or "/")


def find_uid(name: str, passwd: str) -> tuple[int, int] | None:
    """The uid and primary gid of a name or number in a passwd text, None if it is not there."""
    entry = _find_user(name, passwd)
    return None if entry is None else (entry[1], entry[2])


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit():
        return None
    value = int(text)
    if value > MAX_ID:
        raise UnknownUser(f"uids and gids must be in range 0-{MAX_ID}: {text}")
    return value


def _find_user(wanted: str, passwd: str) -> tuple[str, int, int, str] | None:
    number = _number(wanted)
    for line in passwd.splitlines():
        fields = line.strip().split(":")
        if len(fields) < 4 or not fields[2].isdigit() or not fields[3].isdigit():
            continue
        if fields[0] == wanted or (number is not None and int(fields[2]) == number):
            home = fields[5] if len(fields) > 5 else ""
            return fields[0], int(fields[2]), int(fields[3]), home
    return None


def _groups(group: str) -> list[tuple[int, list[str]]]:
    out = []
    for line in group.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[2].isdigit():
            out.append((int(fields[2]), fields[3].split(",")))
    return out


def _find_group(wanted: str, group: str) -> int:
    for line in group.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 3 and fields[0] == wanted and fields[2].isdigit():
            return int(fields[2])
    number = _number(wanted)
    if number is None:
        raise UnknownUser(f"unable to find group {wanted}: no matching entries in group file")
    return number
