from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_py.errors import CopyError
from buildkit_py.graph import Owner
from buildkit_py.layers.tree import MergedTree
from buildkit_py.worker.owners import resolve_owner
from tests.trees import Link, make_tree

PASSWD = "# comment\nbroken\nroot:x:0:0::/:/bin/sh\napp:x:1000:1001::/:\n55:x:7:8::/:\n"


@pytest.fixture
def tree(tmp_path: Path) -> MergedTree:
    files = {
        "real/passwd": PASSWD,
        "etc/passwd": Link("/real/passwd"),
        "etc/group": "staff:x:50:\n",
    }
    return MergedTree([make_tree(tmp_path / "root", files)])


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        (Owner(user="app"), (1000, 1001)),
        (Owner(user="app", group="0"), (1000, 0)),
        (Owner(user="55"), (55, 55)),  # a number is an id, whatever the names
        (Owner(user="3000000000", group="staff"), (3_000_000_000, 50)),
        (Owner(user="", group="9"), (0, 9)),
        (Owner(user="root", group="root"), (0, 0)),  # in every image, whatever its files say
    ],
)
def test_owners(tree: MergedTree, owner: Owner, ids: tuple[int, int]) -> None:
    assert resolve_owner(owner, tree, pytest.fail) == ids


@pytest.mark.parametrize(
    ("owner", "ids", "name"),
    [
        (Owner(user="ghost"), (0, 0), 'no user "ghost"'),
        (Owner(user="ghost", group="staff"), (0, 50), 'no user "ghost"'),
        (Owner(user="app", group="ghosts"), (1000, 1001), 'no group "ghosts"'),
        (Owner(user="999", group="ghosts"), (999, 999), 'no group "ghosts"'),
        (Owner(user="-1"), (0, 0), 'no user "-1"'),
    ],
)
def test_names_that_are_not_there_are_told_of_and_stand_for_root(
    tree: MergedTree, owner: Owner, ids: tuple[int, int], name: str
) -> None:
    told: list[str] = []
    assert resolve_owner(owner, tree, told.append) == ids
    assert len(told) == 1
    assert name in told[0]


def test_a_number_that_is_no_id_is_an_error(tree: MergedTree) -> None:
    with pytest.raises(CopyError, match="out of range"):
        resolve_owner(Owner(user="4294967295"), tree, pytest.fail)


def test_without_a_passwd_file_no_name_is_there() -> None:
    told: list[str] = []
    assert resolve_owner(Owner(user="app", group="app"), MergedTree([]), told.append) == (0, 0)
    assert len(told) == 2
