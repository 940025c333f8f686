"""`pybuild fmt`: Dockerfiles in one layout."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import UsageError
from buildkit_py.formatter import format_dockerfile
from buildkit_py.source import SourceFile

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = "Format Dockerfiles in place; - reads stdin and writes stdout."
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: Dockerfile")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a file is not formatted"
    )
    group.add_argument("--diff", action="store_true", help="change nothing; print what would")


def run(args: argparse.Namespace) -> int:
    """Format each file; the status is 1 where --check or --diff found something."""
    changed = 0
    for name in args.files or ["Dockerfile"]:
        changed += _format(name, check=args.check, diff=args.diff)
    return 1 if changed and (args.check or args.diff) else 0


def _format(name: str, *, check: bool, diff: bool) -> bool:
    text = _read(name)
    formatted = format_dockerfile(
        SourceFile(name=name if name != "-" else "Dockerfile", text=text)
    )
    changed = formatted != text
    if diff:
        sys.stdout.writelines(_diff(name, text, formatted))
    elif check:
        if changed:
            print(f"{name}: not formatted", file=sys.stderr)
    elif name == "-":
        sys.stdout.write(formatted)
    elif changed:
        _write(Path(name), formatted)
        print(f"formatted {name}", file=sys.stderr)
    return changed


def _diff(name: str, before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, name
    )
    return [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in lines
    ]


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    return data.decode("utf-8", "surrogateescape")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path.resolve())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
