"""`pybuild inspect` and `history`: an image's config as JSON, and its layers line by line."""

from __future__ import annotations

import json
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from buildkit_py.cli.options import state_root
from buildkit_py.errors import NoSuchImage, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.platforms import Platform
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage

_COLUMNS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_TABLE = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_MISSING = "<missing>"
_CREATED_BY_WIDTH = 45
_CONFIG_DEFAULTS: dict[str, Any] = {
    "User": "",
    "Env": None,
    "Cmd": None,
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


# ------------------------------------------------------------------ inspect
def configure_inspect(parser: CommandParser) -> None:
    """Declare the options of `inspect`."""
    parser.usage = "pybuild inspect [OPTIONS] IMAGE [IMAGE...]"
    parser.add_argument("names", nargs="+", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("-f", "--format", metavar="string", help="json or a template")
    parser.add_argument("--platform", metavar="platform", help="Of several platforms, this one")
    parser.add_argument("--type", metavar="string", default="image", help="Only 'image' is known")


def run_inspect(args: Namespace) -> int:
    """Print the images; those that exist are printed even if others do not."""
    from buildkit_py.cli.templates import render_template
    from buildkit_py.store import open_store

    if args.type != "image":
        raise UsageError(f'"{args.type}" is not a valid value for --type', hint="image")
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    with open_store(state_root(args)) as store:
        for name in args.names:
            try:
                image = store.images.get(name, asked_platform(args.platform))
                found.append(image_to_json(store, image))
            except NoSuchImage as error:
                missing.append(error.message)
    if args.format in {None, ""}:
        print(json.dumps(found, indent=4, ensure_ascii=False))
    else:
        for item in found:
            text = "{{json .}}" if args.format == "json" else args.format
            print(render_template(text, _for_templates(item)))
    for message in missing:
        print(f"ERROR: {message}", file=sys.stderr)
    return int(bool(missing))


def _for_templates(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same with zero values for the fields that docker's types have and the image has not."""
    from buildkit_py.cli.template_functions import NilList, NilMap, Record

    lists = dict.fromkeys(("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"), NilList())
    maps = dict.fromkeys(("ExposedPorts", "Volumes", "Labels"), NilMap())
    texts = dict.fromkeys("Hostname Domainname User Image WorkingDir StopSignal".split(), "")
    flags = "AttachStdin AttachStdout AttachStderr Tty OpenStdin StdinOnce ArgsEscaped".split()
    zero = {**lists, **maps, **texts, **dict.fromkeys(flags, False), "Healthcheck": None}
    nested = {
        key: Record(value, zero if key == "Config" else None)
        for key, value in document.items()
        if isinstance(value, dict)
    }
    return Record({**document, **nested}, {"Variant": "", "OsVersion": "", "Descriptor": None})


def asked_platform(text: str | None) -> Platform | None:
    """The value of `--platform`."""
    if not text:
        return None
    import os

    from buildkit_py.platforms import host_platform, parse_platform

    return parse_platform(text, host_platform(os.uname().machine))


def image_to_json(store: Store, image: StoredImage) -> dict[str, Any]:
    """What docker's `inspect` says of an image, field by field."""
    from buildkit_py.oci.config import container_to_json
    from buildkit_py.oci.descriptor import descriptor_to_json

    config = image.config
    out: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": [name.familiar for name in image.names],
        "RepoDigests": [item.familiar for item in image.digests],
        "Parent": image.parent,
        "Comment": config.history[-1].comment if config.history else "",
        "Created": image.created or "",
        "Author": config.author,
        "Config": _CONFIG_DEFAULTS | container_to_json(config.config),
        "Architecture": config.platform.architecture,
    }
    if config.platform.variant:
        out["Variant"] = config.platform.variant
    out["Os"] = config.platform.os
    if config.platform.os_version:
        out["OsVersion"] = config.platform.os_version
    out |= {
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": _rfc3339(image.stored)},
        "Descriptor": None if image.manifest is None else descriptor_to_json(image.manifest),
    }
    layers = store.snapshots.chain(image.snapshot)
    out["GraphDriver"] = {
        "Name": "overlay",
        "Data": {"LowerDirs": [str(item.directory) for item in layers if item.unpacked]},
    }
    return out


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# ------------------------------------------------------------------ history
def configure_history(parser: CommandParser) -> None:
    """Declare the options of `history`."""
    parser.usage = "pybuild history [OPTIONS] [IMAGE]"
    parser.epilog = "Without IMAGE: the image that was built last."
    parser.add_argument("name", nargs="?", metavar="IMAGE", help=SUPPRESS)
    parser.add_argument("--format", default="", metavar="string", help="table, json or a template")
    parser.flag("-H", "--human", default=True, help="Print sizes and dates for people")
    parser.flag("--no-trunc", help="Don't truncate output")
    parser.flag("-q", "--quiet", help="Only show image IDs")
    parser.add_argument("--platform", metavar="platform", help="Of several platforms, this one")
    parser.flag("--size-tree", help="Show the largest directories of each layer, oldest first")
    parser.flag("--steps", help="Show the steps of the build that made it; 'run' takes their ids")


def run_history(args: Namespace) -> int:
    """Show the history, newest first."""
    from buildkit_py.cli.templates import print_rows
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        image = store.images.get(args.name or last_built(store), asked_platform(args.platform))
        if args.size_tree or args.steps:
            from buildkit_py.cli.understand import print_size_tree, print_steps

            if args.steps:
                print_steps(store, image, args)
            else:
                print_size_tree(store, image)
            return 0
        rows = list(_history_rows(store, image, args))
    if args.quiet:
        for row in rows:
            print(row["ID"])
        return 0
    print_rows(args.format, _COLUMNS, rows, _TABLE)
    return 0


def last_built(store: Store) -> str:
    """The id of the image that the last successful build made; else of the newest one."""
    with store.db.explained():
        rows = store.db.connection().execute(
            "SELECT image FROM builds WHERE image IS NOT NULL ORDER BY started DESC"
        )
        for row in rows:
            if store.images.find(row["image"]) is not None:
                return str(row["image"])
    images = sorted(store.images.list(), key=lambda image: image.stored)
    if not images:
        raise NoSuchImage("there is no image yet", hint="build one: pybuild -t NAME .")
    return images[-1].id


def _history_rows(store: Store, image: StoredImage, args: Namespace) -> Iterator[dict[str, Any]]:
    from buildkit_py.cli.render import human_age, human_size
    from buildkit_py.digest import short_id
    from buildkit_py.oci.config import seconds_of

    sizes = _sizes(store, image)
    now = time.time()
    for number, (entry, size) in enumerate(reversed(sizes)):
        created = seconds_of(entry.created)
        stamp = _rfc3339(created) if created is not None else "N/A"
        since = human_age(created, now) if created is not None else "N/A"
        text = entry.created_by.replace("\t", " ")
        if not args.no_trunc and len(text) > _CREATED_BY_WIDTH:
            text = text[: _CREATED_BY_WIDTH - 1] + "…"
        image_id = image.id if args.no_trunc else short_id(image.id)
        yield {
            "ID": image_id if number == 0 else _MISSING,
            "CreatedSince": since if args.human else stamp,
            "CreatedAt": stamp,
            "CreatedBy": text,
            "Size": human_size(size) if args.human else str(size),
            "Comment": entry.comment,
        }


def _sizes(store: Store, image: StoredImage) -> list[tuple[Any, int]]:
    """Each history entry with the bytes of its layer; layers without an entry get one."""
    from buildkit_py.oci.config import History

    layers = [store.snapshots.usage(item.id) for item in store.snapshots.chain(image.snapshot)]
    rest = iter(layers)
    out = [(entry, 0 if entry.empty_layer else next(rest, 0)) for entry in image.config.history]
    return out + [(History(created=image.created), size) for size in rest]
