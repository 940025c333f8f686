"""The command line: a table of names and modules, each imported when it is used.

A module that serves one command offers `configure(parser)` and `run(args) -> int`; one that
serves several has a pair for each: `configure_images(parser)` and `run_images(args)`. `configure`
gets a `CommandParser` (an argparse parser that already knows --help, --debug and --root). `run`
returns the exit status, prints results to stdout and all else to stderr, and raises typed errors,
which are rendered here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from buildkit_py.errors import BuildCancelled, PybuildError, UsageError

if TYPE_CHECKING:
    import argparse
    from types import ModuleType

    from buildkit_py.cli.options import CommandParser, Configure, Run

# Commands that read no state; `system` looks at the host as it is.
_WITHOUT_STORE = frozenset(
    "check outline targets fmt search sign verify login logout system".split()
)

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    """Where a command lives and what the overview says of it."""

    module: str
    summary: str
    group: str


_BUILD, _IMAGES, _REGISTRY, _SYSTEM = "Build", "Images and containers", "Registries", "System"

COMMANDS: dict[str, Command] = {
    "build": Command("build", "Build an image from a Dockerfile", _BUILD),
    "builds": Command("builds", "Records of past builds: ls, inspect, logs, report, rm", _BUILD),
    "check": Command("check", "Lint a Dockerfile", _BUILD),
    "outline": Command("check", "Show what a Dockerfile's target takes", _BUILD),
    "targets": Command("check", "List the stages of a Dockerfile", _BUILD),
    "fmt": Command("fmt", "Format Dockerfiles", _BUILD),
    "debug": Command("debug", "Dump a hand-over of the pipeline", _BUILD),
    "images": Command("images", "List images", _IMAGES),
    "history": Command("inspect", "Show the layers of an image, newest first", _IMAGES),
    "inspect": Command("inspect", "Show an image's details as JSON", _IMAGES),
    "diff": Command("understand", "Show what two images differ in", _IMAGES),
    "blame": Command("understand", "Show which instruction wrote a file of an image", _IMAGES),
    "waste": Command("understand", "Show files that later layers overwrite or delete", _IMAGES),
    "tag": Command("images", "Give an image another name", _IMAGES),
    "rmi": Command("images", "Remove images", _IMAGES),
    "save": Command("archives", "Write images to an archive", _IMAGES),
    "load": Command("archives", "Read images from an archive", _IMAGES),
    "import": Command("archives", "Make an image from a root filesystem tar", _IMAGES),
    "export": Command("archives", "Write an image's or container's files as a tar", _IMAGES),
    "run": Command("run", "Run a program from an image, in the foreground", _IMAGES),
    "ps": Command("containers", "List containers", _IMAGES),
    "rm": Command("containers", "Remove stopped containers", _IMAGES),
    "commit": Command("containers", "Make an image of a stopped container", _IMAGES),
    "pull": Command("registry", "Fetch an image from a registry", _REGISTRY),
    "push": Command("registry", "Send an image to a registry", _REGISTRY),
    "manifest": Command("manifest", "Put images of several platforms under one name", _REGISTRY),
    "index": Command("manifest", "The same as manifest", _REGISTRY),
    "search": Command("registry", "Search a registry's catalog and tags", _REGISTRY),
    "sign": Command("sign", "Sign an image of a registry, as cosign does", _REGISTRY),
    "verify": Command("sign", "Check the signatures of an image of a registry", _REGISTRY),
    "login": Command("registry", "Log in to a registry", _REGISTRY),
    "logout": Command("registry", "Log out of a registry", _REGISTRY),
    "unshare": Command(
        "system", "Run a program in the user namespace of rootless builds", _SYSTEM
    ),
    "du": Command("maintenance", "Show disk use", _SYSTEM),
    "prune": Command("maintenance", "Free disk space", _SYSTEM),
    "system": Command("system", "doctor, check, df, info", _SYSTEM),
    "info": Command("system", "Show where state lives and what the host supports", _SYSTEM),
}


def main(argv: Sequence[str]) -> int:
    """Run one command line; returns the exit status and lets no error through."""
    _forgive_encodings()
    debug = bool({"-D", "--debug"}.intersection(argv))
    status = EXIT_DONE
    try:
        from buildkit_py.cli.signals import interruptible

        _configure_logging()
        with interruptible():
            status = _dispatch(list(argv))
        sys.stdout.flush()
    except (KeyboardInterrupt, BuildCancelled):
        sys.stderr.write("ERROR: interrupted\n")
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = EXIT_FAILED
    except Exception as error:  # noqa: BLE001  (the last line of defence: no traceback for users)
        status = _report(error, debug=debug)
    return status


def load_command(name: str) -> tuple[CommandParser, Run]:
    """The parser and the function of a command."""
    from importlib import import_module

    from buildkit_py.cli.options import CommandParser

    command = COMMANDS[name]
    module = import_module(f"buildkit_py.cli.{command.module}")
    parser = CommandParser(name, command.summary)
    cast("Configure", _function(module, "configure", name))(parser)
    return parser, cast("Run", _function(module, "run", name))


def _function(module: ModuleType, verb: str, name: str) -> object:
    return getattr(module, f"{verb}_{name}", None) or getattr(module, verb)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help", "help"}:
        return _help(argv[1:2])
    if argv[0] in {"--version", "version", "-v"}:
        from buildkit_py import __version__

        print(f"pybuild version {__version__}")
        return EXIT_DONE
    name, rest = _split_command(argv)
    parser, run = load_command(name)
    args: argparse.Namespace = parser.parse(rest)
    if args.help:
        print(parser.format_help(), end="")
        return EXIT_DONE
    args.command, args.argv = name, argv
    if name not in _WITHOUT_STORE:
        enter_user_namespace(args.root)
    return run(args)


def enter_user_namespace(root: str | None) -> None:
    """An ordinary user works as root of a user namespace: the store's files are of many owners.

    So does root without the right to mount. Where the host forbids it, all that needs no other
    owner and no sandbox still works.
    """
    from buildkit_py.errors import UnsupportedHost
    from buildkit_py.runtime import idmap
    from buildkit_py.store.paths import default_root

    if not idmap.needs_user_namespace():
        return
    if not root:
        os.environ["PYBUILD_ROOT"] = os.fspath(default_root(os.getuid(), os.environ))
    try:
        idmap.enter_user_namespace()
    except UnsupportedHost as error:
        if os.environ.get("PYBUILD_DEBUG"):
            sys.stderr.write(f"{error.message}\n")


def _split_command(argv: list[str]) -> tuple[str, list[str]]:
    """The command and its words: the first operand names it, or else this is a build."""
    if argv[0] in COMMANDS:
        return argv[0], argv[1:]
    parser, _ = load_command("build")
    index = parser.first_operand(argv)
    if index is None or "--" in argv[:index]:
        return "build", argv
    word = argv[index]
    if word in COMMANDS:
        return word, argv[:index] + argv[index + 1 :]
    if "/" not in word and word != "-" and not os.path.lexists(word):
        from buildkit_py.cli.options import closest

        close = closest(word, list(COMMANDS))
        hint = f"did you mean 'pybuild {close}'?" if close else "see 'pybuild --help'"
        raise UsageError(f'"{word}" is neither a command nor a path', hint=hint)
    return "build", argv


def _help(topic: list[str]) -> int:
    if topic and topic[0] in COMMANDS:
        print(load_command(topic[0])[0].format_help(), end="")
        return EXIT_DONE
    if topic:
        raise UsageError(f'unknown command: "{topic[0]}"', hint="see 'pybuild --help'")
    lines = [
        "",
        "Usage:  pybuild [OPTIONS] PATH | URL | -",
        "        pybuild COMMAND [OPTIONS]",
        "",
        "Build container images from Dockerfiles, without a daemon",
    ]
    width = max(map(len, COMMANDS))
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [
            f"  {name:<{width}}   {command.summary}"
            for name, command in COMMANDS.items()
            if command.group == group
        ]
    lines += [
        "",
        "Options:",
        "  -D, --debug      Say more: tracebacks, whole warnings",
        "      --root dir   State directory (PYBUILD_ROOT)",
        "      --version    Show the version and exit",
        "",
        "'pybuild PATH' takes the options of 'pybuild build', listed by 'pybuild build --help'.",
        "Run 'pybuild COMMAND --help' for the options of a command.",
    ]
    print("\n".join(lines))
    return EXIT_DONE


def _report(error: Exception, *, debug: bool) -> int:
    from buildkit_py.cli.render import render_error, render_unexpected

    if debug:
        import traceback

        traceback.print_exception(error)
    known = isinstance(error, (PybuildError, OSError))
    sys.stderr.write(render_error(error) if known else render_unexpected(error))
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED


def _forgive_encodings() -> None:
    """A name that the terminal cannot show must not end a build."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _configure_logging() -> None:
    """PYBUILD_DEBUG=solver,cache sends the log lines of those folders to stderr; `all`: of all."""
    topics = os.environ.get("PYBUILD_DEBUG", "")
    if not topics:
        return
    import logging

    logging.basicConfig(
        stream=sys.stderr, format="%(relativeCreated)8d ms %(name)s: %(message)s", force=True
    )
    for topic in topics.split(","):
        name = "buildkit_py" if topic.strip() in {"all", "1"} else f"buildkit_py.{topic.strip()}"
        logging.getLogger(name).setLevel(logging.DEBUG)
