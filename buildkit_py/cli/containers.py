"""`pybuild ps`, `rm` and `commit`: containers that `pybuild run` has kept."""

from __future__ import annotations

import sys
import time
from argparse import SUPPRESS, Namespace
from typing import TYPE_CHECKING, Any

from buildkit_py.cli.options import state_root
from buildkit_py.errors import ContainerError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.store.containers import Container, ContainerStore

_COLUMNS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "State": "STATE",
    "Names": "NAMES",
}
_TABLE = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}"
_SHORT, _COMMAND_WIDTH = 12, 20


# ------------------------------------------------------------------ ps
def configure_ps(parser: CommandParser) -> None:
    """Declare the options of `ps`."""
    parser.usage = "pybuild ps [OPTIONS]"
    parser.flag("-a", "--all", help="Show stopped containers, too")
    parser.flag("-q", "--quiet", help="Only show ids")
    parser.flag("--no-trunc", help="Show whole ids and commands")
    parser.add_argument("--format", default="", metavar="string", help="json or a Go template")


def run_ps(args: Namespace) -> int:
    """List containers."""
    from buildkit_py.cli.templates import print_rows
    from buildkit_py.store import open_store
    from buildkit_py.store.containers import ContainerStore

    with open_store(state_root(args)) as store:
        known = ContainerStore(store.db).list()
    shown = [item for item in known if args.all or item.status == "running"]
    if args.quiet:
        for item in shown:
            print(item.id if args.no_trunc else item.id[:_SHORT])
        return 0
    rows = [_row(item, whole=args.no_trunc, now=time.time()) for item in shown]
    print_rows(args.format, _COLUMNS, rows, _TABLE)
    return 0


def _row(item: Container, *, whole: bool, now: float) -> dict[str, Any]:
    from buildkit_py.cli.render import human_age
    from buildkit_py.oci.config import rfc3339

    command = " ".join(item.command)
    if not whole and len(command) > _COMMAND_WIDTH:
        command = command[: _COMMAND_WIDTH - 1] + "…"
    status = "Dead"
    if item.status == "running":
        status = f"Up {human_age(item.created, now).removesuffix(' ago')}"
    elif item.status == "exited":
        status = f"Exited ({item.code}) {human_age(item.ended or item.created, now)}"
    return {
        "ID": item.id if whole else item.id[:_SHORT],
        "Image": item.image,
        "Command": f'"{command}"',
        "CreatedAt": rfc3339(int(item.created)),
        "RunningFor": human_age(item.created, now),
        "Status": status,
        "State": item.status,
        "Names": item.name or "",
    }


# ------------------------------------------------------------------ rm
def configure_rm(parser: CommandParser) -> None:
    """Declare the options of `rm`."""
    parser.usage = "pybuild rm [OPTIONS] CONTAINER [CONTAINER...]"
    parser.add_argument("names", nargs="*", metavar="CONTAINER", help=SUPPRESS)
    parser.flag("-f", "--force", help="Forgive absence")
    parser.flag("-a", "--all", help="Remove all stopped containers")


def run_rm(args: Namespace) -> int:
    """Remove stopped containers and their files."""
    from buildkit_py.store import open_store
    from buildkit_py.store.containers import ContainerStore
    from buildkit_py.store.gc import collect_garbage

    if not args.names and not args.all:
        raise UsageError('"pybuild rm" requires at least 1 argument', hint="or --all")
    failed = False
    with open_store(state_root(args)) as store:
        containers = ContainerStore(store.db)
        names = list(args.names)
        if args.all:
            names += [item.id for item in containers.list() if item.status != "running"]
        for name in names:
            try:
                _remove(containers, name)
            except ContainerError as error:
                if not args.force or "no such" not in error.message:
                    failed = True
                    print(f"ERROR: {error.message}", file=sys.stderr)
                continue
            print(name)
        collect_garbage(store.db, store.paths)
    return int(failed)


def _remove(containers: ContainerStore, name: str) -> None:
    found = containers.get(name)
    if found.status == "running":
        raise ContainerError(f"container {name} is running: stop it first")
    containers.forget(found.id)


# ------------------------------------------------------------------ commit
def configure_commit(parser: CommandParser) -> None:
    """Declare the options of `commit`."""
    parser.usage = "pybuild commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]"
    parser.add_argument("container", metavar="CONTAINER", help=SUPPRESS)
    parser.add_argument("name", nargs="?", metavar="NAME", help=SUPPRESS)
    parser.add_argument("-a", "--author", default="", metavar="string", help="Author")
    parser.add_argument("-m", "--message", default="", metavar="string", help="Commit message")
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="instruction",
        help="Apply a Dockerfile instruction to the image's config",
    )
    parser.flag("-p", "--pause", default=True, help="For docker's sake: containers have ended")


def run_commit(args: Namespace) -> int:
    """Make an image of a stopped container; prints its id."""
    from buildkit_py.cli.changes import apply_changes
    from buildkit_py.containers.commit import CommitRequest, commit
    from buildkit_py.oci.config import ImageConfig
    from buildkit_py.oci.reference import parse_reference
    from buildkit_py.store import open_store
    from buildkit_py.store.containers import ContainerStore

    name = None if args.name is None else parse_reference(args.name)
    with open_store(state_root(args)) as store:
        container = ContainerStore(store.db).get(args.container)
        image = ImageConfig(platform=container.platform, config=container.config)
        request = CommitRequest(
            config=apply_changes(image, args.change),
            author=args.author,
            message=args.message,
            created=int(time.time()),
        )
        made = commit(store, container, request, () if name is None else (name,))
    print(made.id)
    return 0
