"""Secrets: where values come from, and that no output shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_py.errors import UsageError
from buildkit_py.worker.secrets import SECRET_LIMIT, BuildSecrets, Masker, Secret


def test_values_come_from_bytes_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("file")
    secrets = BuildSecrets(
        secrets={
            "a": Secret(id="a", value=b"given"),
            "b": Secret(id="b", env="B"),
            "c": Secret(id="c", path=str(tmp_path / "f")),
            "d": Secret(id="d", env="UNSET"),
        },
        environ={"B": "variable"},
    )
    assert [secrets.value(name) for name in "abcde"] == [
        b"given",
        b"variable",
        b"file",
        None,
        None,
    ]


def test_a_secret_that_is_too_big_is_refused() -> None:
    secrets = BuildSecrets(secrets={"a": Secret(id="a", value=b"x" * (SECRET_LIMIT + 1))})
    with pytest.raises(UsageError):
        secrets.value("a")


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_value_is_masked_wherever_chunks_part_it(cut: int) -> None:
    masker = Masker([b"hunter22"])
    text = b"see hunter22 and hunter2x!"
    shown = masker.feed(1, text[:cut]) + masker.feed(1, text[cut:])
    shown += b"".join(data for _, data in masker.flush())
    assert shown == b"see **** and hunter2x!"


def test_streams_are_masked_apart() -> None:
    masker = Masker([b"abcdef"])
    assert masker.feed(1, b"abc") == b""
    assert masker.feed(2, b"def") == b"def"
    assert masker.flush() == [(1, b"abc")]
