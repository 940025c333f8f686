"""Times of parsing a Dockerfile of 50 and of 1,000 lines, cold (a new process) and warm.

    python bench/parse.py [--repeat N]

Cold is the time inside a fresh interpreter from the first import of the parser to the parsed
value, and so includes importing it, and lark where a line needs the grammar.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PLAIN = """\
FROM debian:bookworm AS stage{n}
ARG VERSION{n}=1.{n}
ENV HOME{n}=/srv/app{n} MODE="release {n}"
WORKDIR /srv/app{n}
COPY --chown=1000:1000 src{n}/ ./src/
RUN --mount=type=cache,target=/root/.cache,id=c{n} apt-get update && \\
    apt-get install -y --no-install-recommends package{n} && \\
    rm -rf /var/lib/apt/lists/*
LABEL org.example.number="{n}" org.example.name='stage {n}'
CMD ["/srv/app{n}/run", "--number", "{n}"]
"""
ESCAPED = 'ENV QUOTED{n}="a \\"b\\" {n}" OTHER{n}=a\\ b\n'

COLD = """\
import sys, time
text = open(sys.argv[1]).read()
start = time.perf_counter()
from buildkit_py.dockerfile import parse
parse(text)
print(time.perf_counter() - start)
"""


def dockerfile(lines: int, *, escapes: bool) -> str:
    """A Dockerfile of so many physical lines."""
    out: list[str] = []
    number = 0
    while len(out) < lines:
        out += (PLAIN + (ESCAPED if escapes else "")).format(n=number).splitlines()
        number += 1
    return "\n".join(out[:lines]).rstrip("\\ &") + "\n"


def cold(path: Path, repeat: int) -> float:
    """Median seconds in fresh interpreters."""
    times = []
    for _ in range(repeat):
        done = subprocess.run(
            [sys.executable, "-c", COLD, str(path)], check=True, capture_output=True, text=True
        )
        times.append(float(done.stdout))
    return statistics.median(times)


def warm(text: str, repeat: int) -> float:
    """Median seconds in this process, after a first parse."""
    from buildkit_py.dockerfile import parse

    parse(text)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        parse(text)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    scratch = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    path = scratch / "bench-parse.Dockerfile"
    try:
        for lines in (50, 1000):
            for escapes in (False, True):
                text = dockerfile(lines, escapes=escapes)
                path.write_text(text)
                kind = "with escapes" if escapes else "plain"
                print(
                    f"{lines:5d} lines, {kind:12}: cold {cold(path, args.repeat) * 1000:7.1f} ms,"
                    f" warm {warm(text, args.repeat) * 1000:6.1f} ms"
                )
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
