"""`pybuild save`, `load`, `import` and `export`: images to and from archives."""

from __future__ import annotations

import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from buildkit_py.cli.inspect import asked_platform
from buildkit_py.cli.options import state_root
from buildkit_py.errors import ContainerError, NoSuchImage, StoreError, UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from buildkit_py.cli.options import CommandParser
    from buildkit_py.store import Store


# ------------------------------------------------------------------ save
def configure_save(parser: CommandParser) -> None:
    """Declare the options of `save`."""
    parser.usage = "pybuild save [OPTIONS] IMAGE [IMAGE...]"
    parser.add_argument("names", nargs="+", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("-o", "--output", metavar="file", help="Write to a file, not to stdout")
    parser.add_argument("--platform", metavar="platform", help="Only this platform")


def run_save(args: Namespace) -> int:
    """Write images to a docker archive that is an OCI layout as well."""
    from buildkit_py.exporters.layout import TarSink
    from buildkit_py.exporters.save import save_images
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store, _output(args.output) as stream:
        names = [own for name in args.names for own in _tags_of(store, name)]
        save_images(store, names, TarSink(stream), asked_platform(args.platform))
    return 0


def _tags_of(store: Store, name: str) -> list[str]:
    """A repository without a tag stands for all tags that it has here, as for docker."""
    from buildkit_py.oci.reference import parse_reference

    try:
        asked = parse_reference(name, default_tag=None)
    except UsageError:
        return [name]
    if asked.tag or asked.digest:
        return [name]
    own = {item for image in store.images.list() for item in image.names}
    return sorted(str(item) for item in own if item.repository == asked.repository) or [name]


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    from buildkit_py.exporters.destination import open_file

    if path is not None and path != "-":
        with open_file(Path(path)) as file:
            yield file
        return
    if sys.stdout.isatty():
        raise UsageError(
            "cowardly refusing to save to a terminal", hint="use -o FILE, or redirect the output"
        )
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


# ------------------------------------------------------------------ load
def configure_load(parser: CommandParser) -> None:
    """Declare the options of `load`."""
    parser.usage = "pybuild load [OPTIONS]"
    parser.add_argument(
        "-i", "--input", metavar="file", help="Read a file or a layout directory, not stdin"
    )
    parser.flag("-q", "--quiet", help="Print only what went wrong")


def run_load(args: Namespace) -> int:
    """Read the images of a docker or OCI archive."""
    from buildkit_py.store import open_store
    from buildkit_py.store.archive import describe, load_archive

    if args.input in {None, "-"} and sys.stdin.isatty():
        raise UsageError("requested load from stdin, but stdin is a terminal", hint="use -i FILE")
    path = None if args.input in {None, "-"} else Path(args.input)
    if path is not None and not path.exists():
        raise UsageError(f"open {path}: no such file or directory")
    with open_store(state_root(args)) as store:
        loaded = load_archive(store, sys.stdin.buffer if path is None else path)
    if not args.quiet:
        print("\n".join(describe(loaded)))
    return 0


# ------------------------------------------------------------------ import
def configure_import(parser: CommandParser) -> None:
    """Declare the options of `import`."""
    parser.usage = "pybuild import [OPTIONS] FILE|- [REPOSITORY[:TAG]]"
    parser.add_argument("file", metavar="FILE", help=SUPPRESS)
    parser.add_argument("name", nargs="?", metavar="REPOSITORY[:TAG]", help=SUPPRESS)
    parser.add_argument(
        "-c",
        "--change",
        action="append",
        default=[],
        metavar="list",
        help="Apply a Dockerfile instruction to the image",
    )
    parser.add_argument("-m", "--message", default="", metavar="string", help="Commit message")
    parser.add_argument("--platform", metavar="string", help="Platform of the image")


def run_import(args: Namespace) -> int:
    """Make an image of one layer from a root filesystem tar; prints its id."""
    import os

    from buildkit_py.cli.changes import apply_changes
    from buildkit_py.oci.config import History, ImageConfig
    from buildkit_py.oci.reference import parse_reference
    from buildkit_py.platforms import host_platform
    from buildkit_py.store import open_store
    from buildkit_py.store.imported import ImportRequest, import_tree

    name = None if args.name is None else parse_reference(args.name)
    platform = asked_platform(args.platform) or host_platform(os.uname().machine)
    source = "-" if args.file == "-" else str(args.file)
    comment = args.message or f"Imported from {source}"
    base = ImageConfig(platform=platform, history=(History(comment=comment),))
    request = ImportRequest(
        config=base, container=apply_changes(base, args.change), created=int(time.time())
    )
    with open_store(state_root(args)) as store, _input(args.file) as stream:
        image = import_tree(store, stream, request, () if name is None else (name,))
    print(image.id)
    return 0


@contextmanager
def _input(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    if "://" in name:
        with _downloaded(name) as stream:
            yield stream
        return
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            f"open {name}: no such file", hint="a tar, compressed or not, a URL, or -"
        )
    try:
        with path.open("rb") as file:
            yield file
    except PermissionError as error:
        raise StoreError(f"cannot read {name}: permission denied") from error


@contextmanager
def _downloaded(url: str) -> Iterator[BinaryIO]:
    """The body of an HTTP answer as a file that is read once."""
    import os
    from io import BufferedReader, RawIOBase

    from buildkit_py.registry import open_client
    from buildkit_py.registry.transport import Request

    if not url.startswith(("http://", "https://")):
        raise UsageError(f"cannot import from {url}", hint="http:// and https:// are known")

    class Body(RawIOBase):
        pending = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: WriteableBuffer, /) -> int:
            self.pending = self.pending or next(pieces, b"")
            view = memoryview(buffer)
            count = min(len(view), len(self.pending))
            view[:count], self.pending = self.pending[:count], self.pending[count:]
            return count

    client = open_client(os.environ)
    sys.stderr.write(f"Downloading from {url}\n")
    with client.transport.request(Request(method="GET", url=url)) as response:
        if response.status != 200:
            raise StoreError(f"cannot import from {url}: the server answers {response.status}")
        pieces = response.stream()
        yield cast("BinaryIO", BufferedReader(Body()))


# ------------------------------------------------------------------ export
def configure_export(parser: CommandParser) -> None:
    """Declare the options of `export`."""
    parser.usage = "pybuild export [OPTIONS] IMAGE|CONTAINER"
    parser.add_argument("name", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("-o", "--output", metavar="file", help="Write to a file, not to stdout")
    parser.add_argument("--platform", metavar="platform", help="Of several platforms, this one")


def run_export(args: Namespace) -> int:
    """Write the root filesystem of an image or of a stopped container as a tar."""
    from buildkit_py.exporters.tar import snapshot_to_tar
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        snapshot = _exported(store, args)
        with _output(args.output) as stream:
            snapshot_to_tar(store, snapshot, stream)
    return 0


def _exported(store: Store, args: Namespace) -> int | None:
    """The snapshot of the image or else the container of a name. Raises NoSuchImage and kin."""
    from buildkit_py.store.containers import ContainerStore

    try:
        return store.images.get(args.name, asked_platform(args.platform)).snapshot
    except NoSuchImage:
        try:
            container = ContainerStore(store.db).get(args.name)
        except ContainerError:
            container = None
        if container is None:
            raise
    if container.snapshot is None:
        state = "is running" if container.status == "running" else "has left no files"
        raise ContainerError(f"container {args.name} {state}")
    store.snapshots.use(container.snapshot)
    return container.snapshot
