"""The shape of the code: sizes, docstrings, registries that must be complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from buildkit_py.cli import COMMANDS, load_command

PROJECT = Path(__file__).resolve().parents[2]
MODULES = sorted((PROJECT / "buildkit_py").rglob("*.py"))
_NOT_INSTRUCTIONS = {"__init__", "base", "files", "flags", "mounts"}


def _name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_says_its_job(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not source.strip() or ast.get_docstring(ast.parse(source))


def test_every_instruction_file_is_registered() -> None:
    from buildkit_py import instructions

    registry = (PROJECT / "buildkit_py/instructions/__init__.py").read_text(encoding="utf-8")
    folder = Path(instructions.__file__).parent
    with_instruction = {
        path.stem
        for path in folder.glob("*.py")
        if path.stem not in _NOT_INSTRUCTIONS and "@instruction(" in path.read_text("utf-8")
    }
    assert with_instruction
    assert {name for name in with_instruction if name not in registry} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_can_be_loaded_and_explains_itself(name: str) -> None:
    parser, run = load_command(name)
    assert callable(run)
    assert parser.format_help().startswith(f"\nUsage:  pybuild {name}")


def test_no_module_is_a_grab_bag() -> None:
    assert not {path.stem for path in MODULES} & {"util", "utils", "common", "helpers", "misc"}
