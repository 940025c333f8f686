"""How long it takes to scan a build context: cold, warm, and with ignore rules.

    python bench/context.py [FILES] [DIRECTORY]

Files have 3 kB each, a hundred to a directory. The goal for an unchanged context of 20,000 files
is 0.2 s. DIRECTORY (default: a temporary one) decides on which file system it is measured.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from buildkit_py.cache.keys import Selection
from buildkit_py.dockerignore import IgnoreMatcher
from buildkit_py.sources.local import ContextSource

PATTERNS = ("**/*.log", "dist", "**/node_modules", ".git", "!dist/keep.txt")
ROUNDS = 7


def make_tree(root: Path, files: int) -> None:
    for number in range(files):
        place = root / f"d{number // 2000}" / f"e{number // 100}"
        if number % 100 == 0:
            place.mkdir(parents=True)
        (place / f"file{number}.py").write_bytes(os.urandom(1500) * 2)


def milliseconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    folder = Path(tempfile.mkdtemp(dir=sys.argv[2] if len(sys.argv) > 2 else None))
    try:
        measure(folder, files)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, files: int) -> None:
    root, memory = folder / "context", folder / "memory"
    make_tree(root, files)
    time.sleep(0.2)  # so that the files have settled and are remembered

    def scan(ignore: IgnoreMatcher | None = None, cache: Path | None = memory) -> None:
        source = ContextSource(root, ignore, cache=cache)
        source.digest(Selection())
        source.save()

    print(f"{files} files")
    print(f"cold:              {milliseconds(lambda: scan(cache=None)):6.0f} ms")
    scan()
    warm = [milliseconds(scan) for _ in range(ROUNDS)]
    print(f"warm:              {statistics.median(warm):6.0f} ms (least {min(warm):.0f})")
    rules = IgnoreMatcher(PATTERNS)
    ruled = [milliseconds(lambda: scan(rules)) for _ in range(ROUNDS)]
    print(f"warm, {len(PATTERNS)} patterns:  {statistics.median(ruled):6.0f} ms")
    (root / "d0" / "e0" / "file7.py").write_bytes(b"changed")
    print(f"one file changed:  {milliseconds(scan):6.0f} ms")
    everything = IgnoreMatcher(("d*",))
    print(f"all but excluded:  {milliseconds(lambda: scan(everything)):6.1f} ms")


if __name__ == "__main__":
    main()
