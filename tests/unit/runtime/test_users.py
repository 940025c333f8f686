"""USER as docker resolves it."""

from __future__ import annotations

import pytest

from buildkit_py.runtime.users import UnknownUser, resolve_user

PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nbroken\nbob:x:1000:1001::/home/bob:/bin/sh\n12:x:7:8::/t:\n"
)
GROUP = "root:x:0:root\nbobs:x:1001:\nwheel:x:10:bob,root\nempty:x:11:\n"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0, 10), "/root"),
        ("bob", 1000, 1001, (1001, 10), "/home/bob"),
        ("1000", 1000, 1001, (1001, 10), "/home/bob"),
        ("bob:wheel", 1000, 10, (10,), "/home/bob"),
        ("bob:99", 1000, 99, (99,), "/home/bob"),
        ("4711", 4711, 0, (0,), "/"),
        ("12", 7, 8, (8,), "/t"),
    ],
)
def test_users_resolve(user: str, uid: int, gid: int, groups: tuple[int, ...], home: str) -> None:
    found = resolve_user(user, PASSWD, GROUP)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("user", ["eve", "bob:eves", "2147483648", "-1"])
def test_unknown_names_and_numbers_out_of_range_are_refused(user: str) -> None:
    with pytest.raises(UnknownUser):
        resolve_user(user, PASSWD, GROUP)
