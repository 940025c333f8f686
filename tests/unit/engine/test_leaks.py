"""The forms in which a secret's value is looked for."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit_py.engine.leaks import encoded_forms, search_directory

around = st.binary(max_size=40)
VALUE = b"hunter2+hunter2/?\xff\xfe"


def is_found(data: bytes, value: bytes) -> bool:
    return any(form in data for _, form in encoded_forms(value))


@given(value=st.binary(min_size=8, max_size=300), before=around, after=around)
def test_encoded_values_are_found_whatever_stands_beside_them(
    value: bytes, before: bytes, after: bytes
) -> None:
    whole = before + value + after
    assert is_found(base64.b64encode(whole), value)
    assert is_found(base64.urlsafe_b64encode(whole), value)
    assert is_found(base64.encodebytes(value), value)  # in lines
    assert is_found(whole.hex().encode(), value)
    assert is_found(whole.hex().upper().encode(), value)


def test_other_data_is_not_taken_for_the_value() -> None:
    other = os.urandom(1 << 20)
    for data in (other, base64.b64encode(other), other.hex().encode()):
        assert not is_found(data, VALUE)


@pytest.mark.parametrize(
    ("form", "encode"),
    [
        ("base64", base64.b64encode),
        ("hex", lambda data: data.hex().encode()),
        ("percent encoding", lambda data: quote_from_bytes(data, safe="").encode()),
        ("JSON", lambda data: json.dumps(os.fsdecode(data)).encode()),
    ],
)
def test_a_file_with_an_encoded_value_is_named_with_the_form(
    tmp_path: Path, form: str, encode: Callable[[bytes], bytes]
) -> None:
    value = b'hunter2"hunter2/?\xff\xfe'
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(bytes(3 << 20) + encode(value) + b"\n")
    needles = tuple((f"x, as {name}", text) for name, text in encoded_forms(value))
    assert search_directory(tmp_path, needles) == (f"x, as {form}", "/d/file")
