"""`pybuild diff`, `blame` and `waste`: what is in an image, and who put it there."""

from __future__ import annotations

import json
import os
from argparse import SUPPRESS, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from buildkit_py.cli.options import state_root
from buildkit_py.errors import NoSuchImage, printable

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.inspection.differ import Change
    from buildkit_py.inspection.entries import LayerContent
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage

_WIDTH = 72


# ------------------------------------------------------------------ diff
def configure_diff(parser: CommandParser) -> None:
    """Declare the options of `diff`."""
    parser.usage = "pybuild diff [OPTIONS] IMAGE IMAGE"
    parser.add_argument("old", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("new", metavar="IMAGE", help=SUPPRESS)
    parser.flag("--layers", help="Compare layer by layer as well")


def run_diff(args: Namespace) -> int:
    """Print what differs; status 1 if anything does, as diff(1) has it."""
    from buildkit_py.inspection.differ import config_changes, file_changes, layer_changes
    from buildkit_py.inspection.entries import merged
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        images = [store.images.get(name) for name in (args.old, args.new)]
        layers = [_layers(store, image) for image in images]
        files = [{path: entry for path, (entry, _) in merged(x).items()} for x in layers]
        different = _section("config", config_changes(images[0].config, images[1].config))
        different |= _section("packages", _package_changes(store, images))
        different |= _section("files", file_changes(*files))
        if args.layers:
            different |= _section("layers", layer_changes(*layers))
    return int(different)


def _section(title: str, changes: Iterable[Change]) -> bool:
    lines = [str(change) for change in changes]
    if lines:
        print(f"{title}:")
        for line in lines:
            print(f"  {printable(line)}".encode("utf-8", "replace").decode())
    return bool(lines)


def _package_changes(store: Store, images: list[StoredImage]) -> list[Change]:
    from buildkit_py.inspection.differ import Change
    from buildkit_py.inspection.packages import find_packages
    from buildkit_py.layers.tree import MergedTree

    found: list[dict[tuple[str, str, str], str]] = []
    for image in images:
        versions: dict[tuple[str, str, str], list[str]] = {}
        for item in find_packages(MergedTree(store.snapshots.directories(image.snapshot))):
            versions.setdefault((item.kind, item.name, item.architecture), []).append(item.version)
        found.append({key: ", ".join(sorted(value)) for key, value in versions.items()})
    old, new = found
    out = []
    for key in sorted(old.keys() | new.keys()):
        name = f"{key[0]} {key[1]}"
        before, after = old.get(key), new.get(key)
        if before is None:
            out.append(Change(kind="A", name=name, detail=str(after)))
        elif after is None:
            out.append(Change(kind="D", name=name, detail=before))
        elif before != after:
            out.append(Change(kind="C", name=name, detail=f"{before} → {after}"))
    return out


# ------------------------------------------------------------------ blame
def configure_blame(parser: CommandParser) -> None:
    """Declare the options of `blame`."""
    parser.usage = "pybuild blame IMAGE PATH"
    parser.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("path", metavar="PATH", help=SUPPRESS)


def run_blame(args: Namespace) -> int:
    """Print the instructions that wrote or deleted a file, oldest first."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.inspection.waste import touches
    from buildkit_py.layers.tree import MergedTree
    from buildkit_py.store import open_store

    path = os.path.normpath("/" + args.path).strip("/")
    with open_store(state_root(args)) as store:
        image = store.images.get(args.image)
        layers = _layers(store, image)
        found = list(touches(layers, os.fsencode(path)))
        if not found:  # a link on the way, as /bin is one to usr/bin
            tree = MergedTree(store.snapshots.directories(image.snapshot))
            real = tree.resolve("/" + path, follow=False).strip(b"/")
            found = list(touches(layers, real))
    if not found:
        raise NoSuchImage(f"no layer of {args.image} has /{path}")
    for touch in found:
        what = "deleted" if touch.entry is None else human_size(touch.entry.size)
        total = sum(entry.size for entry in touch.layer.entries.values())
        step = _short(touch.layer.created_by)
        print(f"{what:>10}  of {human_size(total):>8} in  {step}")
    return 0


# ------------------------------------------------------------------ waste
def configure_waste(parser: CommandParser) -> None:
    """Declare the options of `waste`."""
    parser.usage = "pybuild waste [OPTIONS] IMAGE"
    parser.add_argument("image", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="int", help="Files to show")


def run_waste(args: Namespace) -> int:
    """Print files that are shipped but not seen, and how much of the image they are."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.inspection.waste import wasted
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        layers = _layers(store, store.images.get(args.image))
    total = sum(entry.size for layer in layers for entry in layer.entries.values())
    found = wasted(layers)
    lost = sum(item.size for item in found)
    share = 100 * (total - lost) / total if total else 100
    for item in found[: args.lines]:
        verb = "deleted" if item.deleted else "overwritten"
        step = _short(layers[item.by].created_by)
        print(f"{human_size(item.size):>10}  /{_name(item.path)}  {verb} by {step}")
    print(f"{human_size(lost)} of {human_size(total)} wasted in {len(found)} files; ", end="")
    print(f"efficiency {share:.1f} %")
    return 0


def print_size_tree(store: Store, image: StoredImage, depth: int = 2) -> None:
    """The directories of an image with the bytes below them, largest first."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.inspection.waste import size_tree

    for layer in _layers(store, image):
        sizes = size_tree([layer], depth)
        print(f"{human_size(sizes.get(b'/', 0)):>10}  {_short(layer.created_by)}")
        below = sorted(((-size, path) for path, size in sizes.items() if path != b"/" and size))
        for size, path in below[:10]:
            print(f"{human_size(-size):>10}    {_name(path)}")


def print_steps(store: Store, image: StoredImage, args: Namespace) -> None:
    """The steps of the last build that made the image, each with the id that `run` takes."""
    from buildkit_py.cli.render import human_size
    from buildkit_py.cli.templates import print_rows

    query = "SELECT data FROM builds WHERE image = ? ORDER BY started DESC LIMIT 1"
    with store.db.explained():
        row = store.db.connection().execute(query, (image.id,)).fetchone()
    summary = {} if row is None else json.loads(row["data"]).get("summary", {})
    if not summary.get("steps"):
        raise NoSuchImage(
            "no build of this image is on record", hint="it came from elsewhere, or is too old"
        )
    rows = [
        {
            "ID": step["id"] if args.no_trunc else step["id"][:12],
            "State": "cached" if step["cached"] else f"{step['seconds']:.1f} s",
            "Size": human_size(step["size"]),
            "Stage": step["stage"],
            "Step": printable(step["text"]) if args.no_trunc else _short(step["text"]),
        }
        for step in summary["steps"]
    ]
    if args.quiet or args.format:
        form = "{{.ID}}" if args.quiet else args.format
        columns = {key: key.upper() for key in rows[0]}
        print_rows(form, columns, rows, "\t".join(f"{{{{.{key}}}}}" for key in columns))
        return
    for row in rows:
        print(f"{row['ID']}  {row['State']:>8}  {row['Size']:>8}  {row['Stage']}  {row['Step']}")


def _layers(store: Store, image: StoredImage) -> list[LayerContent]:
    from buildkit_py.inspection.entries import image_layers

    return image_layers(store, image.config, image.snapshot)


def _name(path: bytes) -> str:
    """A file's name as it can be printed."""
    return printable(path.decode("utf-8", "replace"))


def _short(text: str) -> str:
    text = printable(text.replace("\t", " ").replace("\n", " "))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
