"""Builds again: nothing changed, nothing of 20,000 files changed, one of them changed.

    python bench/rebuild.py [--rounds 10] [--files 20000] [--directory /dev/shm]

Whole processes, from start to exit, beside docker's builders and buildah where they are installed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peers import BASE, base_tar, builders, in_turns, machine, show

TEN = f"""\
FROM {BASE} AS build
WORKDIR /src
COPY src/ ./
RUN cat one two > three
FROM {BASE}
ENV MODE=release
WORKDIR /app
COPY --from=build /src/three .
RUN sed -i s/1/x/ three
CMD ["cat", "three"]
"""
MANY = f'FROM {BASE}\nCOPY . /app\nCMD ["true"]\n'


def small(root: Path) -> Path:
    """Ten instructions and three files."""
    directory = root / "small"
    (directory / "src").mkdir(parents=True)
    (directory / "Dockerfile").write_text(TEN)
    for name, text in {"one": "1\n", "two": "2\n"}.items():
        (directory / "src" / name).write_text(text)
    return directory


def large(root: Path, files: int) -> Path:
    """Files of up to 8 kB in 200 folders."""
    directory = root / "large"
    chance = random.Random(1)
    data = chance.randbytes(1 << 20)
    for number in range(files):
        folder = directory / f"d{number % 200:03d}" / "package"
        if number < 200:
            folder.mkdir(parents=True)
        start = chance.randrange(1 << 19)
        (folder / f"file{number:05d}").write_bytes(data[start : start + 100 * (number % 80)])
    (directory / "Dockerfile").write_text(MANY)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--directory", default="/dev/shm" if Path("/dev/shm").is_dir() else None)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-rebuild-", dir=options.directory))
    try:
        print(machine())
        found = builders(root / "state", base_tar())
        ten, many = small(root), large(root, options.files)
        time.sleep(0.2)  # files as new as the build that reads them are read again
        first = in_turns(found, many, 1)
        in_turns(found, ten, 1)
        show("ten instructions, unchanged", in_turns(found, ten, options.rounds))
        show(f"{options.files} files, copied for the first time", first)
        few = max(3, options.rounds // 3)
        show(f"{options.files} files, unchanged", in_turns(found, many, few))
        changed = many / "d000" / "package" / "file00000"

        def change() -> None:
            changed.write_text(str(time.time_ns()))
            time.sleep(0.2)  # a younger one would be read again by the next build

        show(f"{options.files} files, one changed", in_turns(found, many, few, change))
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
