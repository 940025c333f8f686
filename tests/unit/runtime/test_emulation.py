"""Emulators as binfmt_misc shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_py.platforms import Platform
from buildkit_py.runtime.emulation import runs, supported_platforms

HOST = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
HANDLER = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: {flags}
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "register").write_text("")
    return tmp_path


def test_without_handlers_a_machine_runs_its_own_programs_and_its_32_bit_ones(
    tmp_path: Path,
) -> None:
    found = supported_platforms(HOST, tmp_path / "nothing")
    assert found == (HOST, Platform(os="linux", architecture="386"))
    assert supported_platforms(ARM64, tmp_path) == (ARM64,)


def test_a_handler_is_known_by_its_magic_not_by_its_name(handlers: Path) -> None:
    (handlers / "whatever").write_text(HANDLER.format(flags="POF"))
    assert ARM64 in supported_platforms(HOST, handlers)
    assert runs(ARM64, HOST, handlers)


def test_handlers_that_look_for_their_emulator_inside_the_image_do_not_count(
    handlers: Path,
) -> None:
    (handlers / "qemu-aarch64").write_text(HANDLER.format(flags="OC"))
    assert not runs(ARM64, HOST, handlers)


@pytest.mark.parametrize("spoil", ["handler", "all"])
def test_disabled_handlers_do_not_count(handlers: Path, spoil: str) -> None:
    text = HANDLER.format(flags="F")
    (handlers / "qemu-aarch64").write_text(text.replace("enabled", "disabled", spoil == "handler"))
    if spoil == "all":
        (handlers / "status").write_text("disabled\n")
    assert not runs(ARM64, HOST, handlers)


def test_other_handlers_are_passed_over(handlers: Path) -> None:
    (handlers / "python3.11").write_text(
        "enabled\ninterpreter /usr/bin/python3.11\nflags: F\noffset 0\nmagic a70d0d0a\n"
    )
    (handlers / "broken").write_text("enabled\nflags: F\nmagic zz\n")
    (handlers / "binary").write_bytes(b"\xff\xfe")
    assert supported_platforms(HOST, handlers)[2:] == ()


def test_big_endian_magic_is_read_as_such(handlers: Path) -> None:
    text = HANDLER.format(flags="F").replace(
        "7f454c460201010000000000000000000200b700", "7f454c4602020100000000000000000000020016"
    )
    (handlers / "z").write_text(text)
    assert runs(Platform(os="linux", architecture="s390x"), HOST, handlers)
