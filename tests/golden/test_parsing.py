"""Each folder of `cases` has a Dockerfile, and an `ast.json` or an `error.txt` beside it."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from buildkit_py.dockerfile import parse
from buildkit_py.errors import DockerfileErrors
from buildkit_py.instructions.base import Instruction
from buildkit_py.source import SourceFile, excerpt

CASES = Path(__file__).parent / "cases"


def to_json(value: Any) -> Any:
    """A parsed value as JSON; of positions only the first and last line of an instruction."""
    if is_dataclass(value) and not isinstance(value, type):
        out: dict[str, Any] = {"kind": type(value).__name__}
        if isinstance(value, Instruction):
            out["lines"] = f"{value.line.first}-{value.line.last}"
            out["text"] = value.text
            if value.comment:
                out["comment"] = value.comment
        for item in fields(value):
            if item.name in {"line", "source", "spans", "warnings", "raw", "first_line"}:
                continue
            found = getattr(value, item.name)
            if found != item.default and found not in ((), None):
                out[item.name] = to_json(found)
        return out
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def outcome(path: Path) -> tuple[str, str]:
    """The name of the expected file, and what it should hold."""
    source = SourceFile(name="Dockerfile", text=path.read_bytes().decode())
    try:
        parsed = parse(source)
    except DockerfileErrors as error:
        out = []
        for problem in error.problems:
            out.append(excerpt(problem.spans))
            out.append(f"error: {problem.message}")
            if problem.hint:
                out.append(f"hint: {problem.hint}")
        return "error.txt", "\n".join(out) + "\n"
    return "ast.json", json.dumps(to_json(parsed), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_a_dockerfile_parses_to_the_expected_value(case: str, update_golden: bool) -> None:
    folder = CASES / case
    name, actual = outcome(folder / "Dockerfile")
    if update_golden:
        for old in ("ast.json", "error.txt"):
            (folder / old).unlink(missing_ok=True)
        (folder / name).write_text(actual)
    assert [path.name for path in folder.iterdir() if path.name != "Dockerfile"] == [name]
    assert (folder / name).read_text() == actual
