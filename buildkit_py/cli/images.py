"""`pybuild images`, `tag` and `rmi`: what the store holds, under which names."""

from __future__ import annotations

import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from buildkit_py.cli.options import state_root
from buildkit_py.errors import NoSuchImage, PybuildError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.oci.reference import Reference
    from buildkit_py.store import Store
    from buildkit_py.store.images import ImageSummary

_COLUMNS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Platform": "PLATFORM",
}
_TABLE = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_TABLE_DIGESTS = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
_NONE = "<none>"


# ------------------------------------------------------------------ images
def configure_images(parser: CommandParser) -> None:
    """Declare the options of `images`."""
    parser.usage = "pybuild images [OPTIONS] [REPOSITORY[:TAG]]"
    parser.add_argument("name", nargs="?", metavar="REPOSITORY[:TAG]", help=SUPPRESS)
    parser.flag("-a", "--all", help="Show all images (none are hidden)")
    parser.flag("--digests", help="Show digests")
    parser.add_argument(
        "-f",
        "--filter",
        action="append",
        default=[],
        metavar="filter",
        help="dangling=true, label=k[=v], before=, since=IMAGE, until=, reference=PATTERN",
    )
    parser.add_argument("--format", default="", metavar="string", help="table, json or a template")
    parser.flag("--no-trunc", help="Don't truncate output")
    parser.flag("-q", "--quiet", help="Only show image IDs")
    parser.flag("--tree", help="List the platforms of each name")


def run_images(args: Namespace) -> int:
    """List images, newest first."""
    from buildkit_py.cli.templates import print_rows
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        images = filtered_images(store, args.filter)
        rows = list(_rows(images, args.name, whole=args.no_trunc))
    if args.quiet:
        for row in _one_per_name(rows):
            print(row["ID"])
        return 0
    if args.tree:
        _print_tree(rows)
        return 0
    if not args.format:
        rows = _one_per_name(rows)
    print_rows(args.format, _COLUMNS, rows, _TABLE_DIGESTS if args.digests else _TABLE)
    return 0


def filtered_images(store: Store, filters: Sequence[str]) -> list[ImageSummary]:
    """The images that all filters let through, newest first. Raises UsageError."""
    images = list(store.images.list())
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'invalid filter "{text}"', hint="expected key=value")
        images = [image for image in images if _predicate(store, key, value)(image)]
    return images


def _predicate(store: Store, key: str, value: str) -> Callable[[ImageSummary], bool]:
    match key:
        case "dangling":
            wanted = _boolean(value)
            return lambda image: wanted == (not image.names)
        case "reference":
            return lambda image: any(_matches(name, value) for name in image.names)
        case "before" | "since":
            moment = store.images.get(value).created_seconds
            if key == "before":
                return lambda image: image.created_seconds < moment
            return lambda image: image.created_seconds > moment
        case "until":
            limit = until_seconds(value, time.time())
            return lambda image: image.created_seconds < limit
        case "label":
            name, has_value, wanted_value = value.partition("=")
            return lambda image: _has_label(
                store, image, name, wanted_value if has_value else None
            )
        case _:
            raise UsageError(f"invalid filter '{key}'", hint=f"one of {', '.join(_FILTERS)}")


def _has_label(store: Store, image: ImageSummary, name: str, value: str | None) -> bool:
    labels = store.images.config(image).config.labels
    return name in labels and value in {None, labels[name]}


def _boolean(text: str) -> bool:
    if text.lower() in {"1", "t", "true"}:
        return True
    if text.lower() in {"0", "f", "false"}:
        return False
    raise UsageError(f"invalid filter 'dangling={text}'", hint="true or false")


def until_seconds(text: str, now: float) -> float:
    """A moment: a duration before now (`24h`), Unix seconds, or RFC 3339."""
    from argparse import ArgumentTypeError

    from buildkit_py.cli.options import seconds
    from buildkit_py.oci.config import seconds_of

    if text.isdigit() and len(text) > 8:
        return float(text)
    moment = seconds_of(text) if "-" in text else None
    if moment is not None:
        return moment
    try:
        return now - seconds(text)
    except ArgumentTypeError as error:
        raise UsageError(f'invalid time "{text}"', hint="24h, 2024-01-31T12:00:00Z") from error


def _matches(name: Reference, pattern: str) -> bool:
    repository, _, tag = pattern.partition(":")
    candidates = {name.familiar_repository, name.repository, name.path.rpartition("/")[2]}
    return any(fnmatchcase(item, repository) for item in candidates) and (
        not tag or fnmatchcase(name.tag or "", tag)
    )


def _rows(
    images: Sequence[ImageSummary], wanted: str | None, *, whole: bool
) -> Iterator[dict[str, Any]]:
    from buildkit_py.cli.render import human_age, human_size
    from buildkit_py.digest import short_id

    now = time.time()
    for image in images:
        common = {
            "ID": image.id if whole else short_id(image.id),
            "CreatedSince": human_age(image.created_seconds, now),
            "CreatedAt": time.strftime(
                "%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(image.created_seconds)
            ),
            "Size": human_size(image.size),
            "VirtualSize": human_size(image.size),
            "Platform": str(image.platform),
            "Containers": "N/A",
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
        }
        digests = {item.repository: str(item.digest) for item in image.digests}
        if not image.names and wanted is None:
            yield {"Repository": _NONE, "Tag": _NONE, "Digest": _NONE, **common}
        for name in image.names:
            if wanted is None or _is_wanted(name, wanted):
                own = digests.get(name.repository) or (
                    image.manifest.digest if image.manifest else _NONE
                )
                yield {
                    "Repository": name.familiar_repository,
                    "Tag": name.tag or _NONE,
                    "Digest": own,
                    **common,
                }


def _is_wanted(name: Reference, wanted: str) -> bool:
    if any(character in wanted for character in "*?["):
        return _matches(name, wanted)
    from buildkit_py.oci.reference import parse_reference

    asked = parse_reference(wanted, default_tag=None)
    return asked.repository == name.repository and asked.tag in {None, name.tag}


def _one_per_name(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for a name with images of several platforms."""
    seen: set[tuple[str, str]] = set()
    out = []
    for row in rows:
        name = (row["Repository"], row["Tag"])
        if row["Tag"] == _NONE or name not in seen:
            out.append(row)
        seen.add(name)
    return out


def _print_tree(rows: Sequence[dict[str, Any]]) -> None:
    from buildkit_py.cli.render import print_table

    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        untagged = row["Tag"] == _NONE
        key = row["ID"] if untagged else f"{row['Repository']}:{row['Tag']}"
        groups.setdefault(key, []).append(row)
    lines: list[list[str]] = []
    for key, members in groups.items():
        lines.append([key, members[0]["ID"], ""])
        for number, row in enumerate(members):
            branch = "└─ " if number == len(members) - 1 else "├─ "
            lines.append([branch + row["Platform"], row["ID"], row["Size"]])
    print_table(["IMAGE", "ID", "DISK USAGE"], lines)


# ------------------------------------------------------------------ tag
def configure_tag(parser: CommandParser) -> None:
    """Declare the operands of `tag`."""
    parser.usage = "pybuild tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]"
    parser.add_argument("source", metavar="SOURCE_IMAGE", help=SUPPRESS)
    parser.add_argument("target", metavar="TARGET_IMAGE", help=SUPPRESS)


def run_tag(args: Namespace) -> int:
    """Give an image another name."""
    from buildkit_py.store import open_store

    with open_store(state_root(args)) as store:
        store.images.tag(args.source, args.target)
    return 0


# ------------------------------------------------------------------ rmi
def configure_rmi(parser: CommandParser) -> None:
    """Declare the options of `rmi`."""
    parser.usage = "pybuild rmi [OPTIONS] IMAGE [IMAGE...]"
    parser.add_argument("names", nargs="+", metavar="IMAGE", help=SUPPRESS)
    parser.flag("-f", "--force", help="Remove all names of an image given by id; forgive absence")
    parser.flag("--no-prune", help="Keep the layers that nothing needs any more")


def run_rmi(args: Namespace) -> int:
    """Remove names, and images that have none left."""
    from buildkit_py.store import open_store
    from buildkit_py.store.gc import collect_garbage

    failed = False
    with open_store(state_root(args)) as store:
        for name in args.names:
            try:
                for line in _remove(store, name, force=args.force):
                    print(line)
            except NoSuchImage as error:
                failed |= not args.force
                print(f"ERROR: {error.message}", file=sys.stderr)
            except PybuildError as error:
                failed = True
                hint = f" ({error.hint})" if error.hint else ""
                print(f"ERROR: {error.message}{hint}", file=sys.stderr)
        if not args.no_prune:
            collect_garbage(store.db, store.paths)
    return int(failed)


def _remove(store: Store, text: str, *, force: bool) -> list[str]:
    candidates = store.images.candidates(text)
    if not candidates:
        raise NoSuchImage(f"no such image: {text}")
    named = _as_name(store, text)
    if named is not None:
        images = store.images.untag(named)
        lines = [f"Untagged: {named.familiar}"]
    else:
        (digest,) = candidates
        names = store.images.get(digest).names
        if len(names) > 1 and not force:
            raise UsageError(
                f"unable to delete {text}: image is referenced by several names",
                hint="remove them one by one, or use --force",
            )
        images = (digest,)
        lines = [f"Untagged: {name.familiar}" for name in names]
        for name in names:
            store.images.untag(name)
    for digest in images:
        found = store.images.find(digest)
        if found is None or found.names:
            continue
        lines += [f"Untagged: {item.familiar}" for item in found.digests]
        store.images.remove(digest)
        lines.append(f"Deleted: {digest}")
    return lines


def _as_name(store: Store, text: str) -> Reference | None:
    """The name that the text is, or None when it is an id."""
    from buildkit_py.oci.reference import parse_reference

    try:
        reference = parse_reference(text)
    except UsageError:
        return None
    return reference if store.images.candidates(reference) else None
