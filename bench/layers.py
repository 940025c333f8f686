"""Times of COPY, layer tars, unpacking and compression, on a tree of many small files.

    python bench/layers.py [--files N] [--repeat N] [--directory /dev/shm]

Each figure is the median of the repeats. GNU tar is measured beside where it is installed.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from buildkit_py.graph import CopyFiles, FileOp
from buildkit_py.layers.apply import apply_layer
from buildkit_py.layers.compression import Compression, open_compressor, open_decompressor
from buildkit_py.layers.context import ContextTree
from buildkit_py.layers.diff import write_layer
from buildkit_py.worker.copy_tree import PreviousCopy
from buildkit_py.worker.file import FileRun, run_file_op

COPY = FileOp(actions=(CopyFiles(input=1, source="/", destination="/app"),))


def make_context(root: Path, files: int) -> None:
    """Files of up to 8 kB in 200 directories, which compress to about a third."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randrange(2, 9)).hex().encode() for _ in range(2000)]
    text = b" ".join(chance.choices(words, k=200_000))
    for number in range(files):
        folder = root / f"d{number % 200:03d}" / "package"
        if number < 200:
            folder.mkdir(parents=True)
        start = chance.randrange(len(text) - 8192)
        (folder / f"file{number:05d}.txt").write_bytes(text[start : start + 100 * (number % 80)])


def median(repeat: int, action: Callable[[], object]) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Bench:
    def __init__(self, place: Path, repeat: int) -> None:
        self.place = place
        self.repeat = repeat
        self.context = place / "context"
        self._count = 0

    def fresh(self) -> Path:
        self._count += 1
        folder = self.place / f"upper{self._count}"
        folder.mkdir()
        return folder

    def copy(self, previous: PreviousCopy | None = None) -> Path:
        upper = self.fresh()
        inputs = [None, ContextTree(self.context)]
        run_file_op(COPY, FileRun(base=[], inputs=inputs, upper=upper, previous=previous))
        return upper

    def show(self, what: str, action: Callable[[], object], size: int = 0) -> None:
        seconds = median(self.repeat, action)
        rate = f"{size / seconds / 1e6:10.0f} MB/s" if size else ""
        print(f"{what:44s} {seconds:8.3f} s{rate}")

    def run(self) -> None:
        self.show("COPY", self.copy)
        upper = self.copy()
        changed = b"/d000/package/file00000.txt"
        (self.context / os.fsdecode(changed[1:])).write_bytes(b"changed")
        known = PreviousCopy(upper=upper, unchanged=lambda _, path: path != changed)
        self.show("COPY after one change, from the last result", lambda: self.copy(known))
        self.show("tar, hashed only", lambda: write_layer(upper))
        out = io.BytesIO()
        layer = write_layer(upper, out)
        data = out.getvalue()
        self.show("tar, hashed and written", lambda: write_layer(upper, io.BytesIO()))
        self.show("unpack", lambda: apply_layer(io.BytesIO(data), self.fresh()))
        if shutil.which("tar"):
            tar = ["tar", "--numeric-owner", "-cf", "-", "-C", os.fspath(upper), "."]
            self.show(
                "GNU tar (no hash)",
                lambda: subprocess.run(tar, check=False, stdout=subprocess.DEVNULL),
            )
        for kind in ("gzip", "zstd"):
            self.show(f"{kind}", lambda kind=kind: self.compress(data, kind), layer.size)
            packed = self.compress(data, kind)
            print(f"{'  ratio':44s} {len(packed) / len(data):8.3f}")
            self.show(f"{kind} out", lambda packed=packed: self.decompress(packed), layer.size)

    @staticmethod
    def compress(data: bytes, kind: str) -> bytes:
        out = io.BytesIO()
        with open_compressor(out, Compression(kind=kind)) as compressor:
            for start in range(0, len(data), 1 << 20):
                compressor.write(data[start : start + (1 << 20)])
        return out.getvalue()

    @staticmethod
    def decompress(data: bytes) -> None:
        with open_decompressor(io.BytesIO(data)) as stream:
            while stream.read(1 << 20):
                pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", default="/dev/shm")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bench-layers-", dir=options.directory))
    try:
        bench = Bench(place, options.repeat)
        make_context(bench.context, options.files)
        print(f"{options.files} files in {place}")
        bench.run()
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
