from __future__ import annotations

from buildkit_py.errors import PybuildError


def test_control_characters_of_a_name_do_not_reach_a_terminal() -> None:
    error = PybuildError("cannot unpack \x1b[2Jx\x9b\r", hint="not \x07\x7f\nbut ü")
    assert error.message == str(error) == r"cannot unpack \x1b[2Jx\x9b\x0d"
    assert error.hint == "not \\x07\\x7f\nbut ü"
