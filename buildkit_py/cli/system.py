"""system doctor, system info, info, unshare: what this host supports, and what would help."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from buildkit_py.cli.options import state_root
from buildkit_py.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from buildkit_py.cli.options import CommandParser
    from buildkit_py.runtime.probe import HostSupport

_MODES = {
    "root": "root: namespaces and overlay, as docker has them",
    "rootless": "rootless: a user namespace with a range of ids",
    "rootless-single-id": "rootless with one id: files of other users lose their owner",
    "chroot": "chroot only: isolation is that of the container around it",
    "none": "no RUN is possible; COPY, ADD and metadata are",
}
_VERBS = ("doctor", "info", "check", "df", "prune")


def configure_system(parser: CommandParser) -> None:
    """The command's verbs."""
    parser.options_first = True
    parser.usage = "pybuild system doctor|info|check|df|prune"
    parser.add_argument("--format", metavar="format", help="json: print JSON")
    parser.add_argument("verb", nargs="?", metavar="VERB", help=f"One of {', '.join(_VERBS)}")
    parser.add_argument("words", nargs="*", metavar="ARG")


def run_system(args: argparse.Namespace) -> int:
    """Do what the verb says."""
    words = [word for word in args.words if word != "--format=json"]
    as_json = args.format == "json" or len(words) < len(args.words)
    if args.verb == "doctor":
        return _doctor(args, as_json=as_json)
    if args.verb == "info":
        return _info(args, as_json=as_json)
    if args.verb in {"check", "df", "prune"}:
        return _on_store(args)
    raise UsageError(f'unknown verb: "{args.verb or ""}"', hint=f"known are {', '.join(_VERBS)}")


def _on_store(args: argparse.Namespace) -> int:
    from buildkit_py.cli import enter_user_namespace, load_command
    from buildkit_py.cli.maintenance import check_state, print_disk_use
    from buildkit_py.cli.options import CommandParser

    enter_user_namespace(args.root)
    if args.verb == "prune":
        parser, run = load_command("prune")
        found = parser.parse([*(["--root", args.root] if args.root else []), *args.words])
        if getattr(found, "help", False):
            print(parser.format_help(), end="")
            return 0
        return run(found)
    parser = CommandParser(f"system {args.verb}", "")
    if args.verb == "check":
        parser.flag("--quick", help="Look at names and sizes only")
    else:
        parser.flag("-v", "--verbose", help="Show each record")
        parser.add_argument("--format", default=args.format, metavar="string")
    found = parser.parse(args.words)
    if getattr(found, "help", False):
        print(parser.format_help(), end="")
        return 0
    found.root = found.root or args.root
    return check_state(found) if args.verb == "check" else print_disk_use(found)


def configure_info(parser: CommandParser) -> None:
    """No options of its own but the format."""
    parser.add_argument("--format", metavar="format", help="json: print JSON")


def run_info(args: argparse.Namespace) -> int:
    """The same as `system info`."""
    return _info(args, as_json=args.format == "json")


def configure_unshare(parser: CommandParser) -> None:
    """A program and its arguments."""
    parser.options_first = True
    parser.add_argument("words", nargs="*", metavar="COMMAND")


def run_unshare(args: argparse.Namespace) -> int:
    """Become the program; `main` has entered the namespace already."""
    words = args.words or [os.environ.get("SHELL", "/bin/sh")]
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)  # noqa: S606  (that is what was asked for)
    except OSError as error:
        raise UsageError(f"cannot run {words[0]}: {error.strerror}") from error


# ------------------------------------------------------------------ reports
def _doctor(args: argparse.Namespace, *, as_json: bool) -> int:
    from buildkit_py.runtime.probe import probe

    support = probe(os.fspath(state_root(args)))
    if as_json:
        _print_json(support)
    else:
        print(f"mode: {_MODES[support.mode]}")
        width = max(len(item.name) for item in support.findings)
        for item in support.findings:
            mark = "ok" if item.present else "--"
            print(f"  {mark}  {item.name:<{width}}  {item.detail}".rstrip())
            if not item.present and item.remedy:
                print(f"      {'':<{width}}  -> {item.remedy}")
    return 0 if support.mode != "none" else 1


def _info(args: argparse.Namespace, *, as_json: bool) -> int:
    import platform

    from buildkit_py import __version__
    from buildkit_py.runtime.probe import probe

    root = state_root(args)
    support = probe(os.fspath(root))
    facts = {
        "version": __version__,
        "root": os.fspath(root),
        "mode": support.mode,
        "kernel": platform.release(),
        "architecture": os.uname().machine,
        "python": platform.python_version(),
    }
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name.capitalize() + ':':<14} {value}")
    return 0


def _print_json(support: HostSupport) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps(asdict(support), indent=2))
