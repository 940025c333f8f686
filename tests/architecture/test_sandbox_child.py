"""The sandbox's child is another program: the standard library and two modules of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_the_child_imports_little_of_ours_and_nothing_of_others() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "import buildkit_py.runtime.init\n"
        "print('\\n'.join(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    foreign = {
        name
        for name in loaded
        if name.partition(".")[0] not in sys.stdlib_module_names | {"buildkit_py", "__main__"}
    }
    assert not foreign
    ours = {name for name in loaded if name.startswith("buildkit_py")}
    outside = {name for name in ours if not name.startswith("buildkit_py.runtime")}
    assert outside == {"buildkit_py", "buildkit_py.version"}  # the package and one constant
    assert not loaded & {"threading", "asyncio", "sqlite3", "logging"}
