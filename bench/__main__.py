"""Run every measurement of this folder, or those named: `python bench [NAME...]`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Run each in a process of its own; returns how many failed."""
    folder = Path(__file__).parent
    known = sorted(
        path.stem
        for path in folder.glob("*.py")
        if not path.stem.startswith("_") and path.stem != "peers"
    )
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no measurement {unknown[0]!r}; known: {', '.join(known)}", file=sys.stderr)
        return 2
    environment = os.environ | {"PYTHONPATH": os.fspath(folder.parent)}
    failed = 0
    for name in names or known:
        print(f"== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, folder / f"{name}.py"], env=environment, check=False
        )
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
