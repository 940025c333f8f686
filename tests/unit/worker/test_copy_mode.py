from __future__ import annotations

import stat

import pytest

from buildkit_py.errors import CopyError
from buildkit_py.worker.copy_mode import parse_mode

FILE = stat.S_IFREG
FOLDER = stat.S_IFDIR


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("644", FILE | 0o755, 0o644),
        ("07777", FILE, 0o7777),
        ("0", FILE | 0o777, 0),
        ("+x", FILE | 0o644, 0o755),
        ("+w", FILE | 0o444, 0o644),  # without letters the umask counts
        ("a+w", FILE | 0o444, 0o666),
        ("go-w", FILE | 0o666, 0o644),
        ("u=rwX,go=rX", FILE | 0o600, 0o644),
        ("u=rwX,go=rX", FILE | 0o700, 0o755),
        ("u=rwX,go=rX", FOLDER | 0o600, 0o755),
        ("go=u", FILE | 0o640, 0o666),
        ("go=", FILE | 0o777, 0o700),
        ("u+s,g+s", FILE | 0o755, 0o6755),
        ("o+s", FILE | 0o755, 0o755),
        ("+t", FOLDER | 0o755, 0o1755),
        ("u=rwx,go=rx", FILE | 0o6000, 0o755),
        ("u+r-w+x", FILE | 0o200, 0o500),
        ("=rw", FILE | 0o111, 0o644),
    ],
)
def test_modes_change_as_chmod_says(text: str, before: int, after: int) -> None:
    assert parse_mode(text).apply(before) == after


@pytest.mark.parametrize("text", ["64a", "8", "17777", "", "u", "u=q", "x+r", "u+x,", "99"])
def test_a_bad_mode_is_refused(text: str) -> None:
    with pytest.raises(CopyError, match="invalid chmod parameter"):
        parse_mode(text)
