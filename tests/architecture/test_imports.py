"""What may import what, and what a quick command must not import at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ("lark", "rich", "urllib3", "zstandard", "http.client", "asyncio", "email")


def _modules_after(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-cache"], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["build", "--help"], ["build", "--no-such-flag", "."]],
    ids=" ".join,
)
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"from buildkit_py.cli import main\nmain({arguments!r})"
    loaded = _modules_after(code)
    assert not loaded.intersection(HEAVY)
    assert "buildkit_py.engine" not in loaded


def test_importing_the_package_imports_none_of_its_modules() -> None:
    loaded = _modules_after("import buildkit_py")
    ours = {name for name in loaded if name.split(".")[0] == "buildkit_py"}
    assert ours == {"buildkit_py", "buildkit_py.version"}


@pytest.mark.parametrize("module", HEAVY[:4])
def test_heavy_libraries_are_never_imported_with_a_module(module: str) -> None:
    names = [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for path in sorted((PROJECT / "buildkit_py").rglob("*.py"))
        if path.name not in {"__main__.py", "__init__.py"}
    ]
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    assert module not in _modules_after(code)
