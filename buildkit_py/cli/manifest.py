"""`pybuild manifest` (and `index`): images of several platforms put together by hand.

The verbs are those of docker and podman. A list is a name of the local store that leads to several
images, so what was built with several platforms is one too.
"""

from __future__ import annotations

import json
import os
from argparse import SUPPRESS, Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.cli.options import state_root
from buildkit_py.errors import NoSuchImage, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.oci.reference import Reference
    from buildkit_py.platforms import Platform
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.store import Store
    from buildkit_py.store.images import StoredImage
    from buildkit_py.store.lists import Entry, ImageList

_USAGES = {
    "create": "LIST [IMAGE...]",
    "add": "LIST IMAGE...",
    "remove": "LIST IMAGE|DIGEST...",
    "annotate": "LIST [IMAGE|DIGEST]",
    "inspect": "LIST|IMAGE",
    "push": "LIST [DESTINATION]",
    "rm": "LIST...",
    "exists": "LIST",
    "referrers": "IMAGE",
}


def configure(parser: CommandParser) -> None:
    """Declare the options of all verbs."""
    lines = "\n".join(f"        pybuild manifest {verb} {rest}" for verb, rest in _USAGES.items())
    parser.usage = f"{parser.prog} VERB [OPTIONS] LIST [IMAGE...]\n\n" + lines
    parser.add_argument("verb", nargs="?", metavar="VERB", help=SUPPRESS)
    parser.add_argument("words", nargs="*", metavar="NAME", help=SUPPRESS)
    parser.flag("-a", "--amend", help="create: replace a list of that name")
    parser.flag("--all", help="create, add: take all platforms of an image that has several")
    parser.add_argument("--os", metavar="name", help="add, annotate: operating system")
    parser.add_argument("--arch", metavar="name", help="add, annotate: architecture")
    parser.add_argument("--variant", metavar="name", help="add, annotate: variant of it")
    parser.add_argument(
        "--os-version", metavar="text", help="add, annotate: version of the system"
    )
    parser.add_argument(
        "--os-features",
        action="append",
        metavar="list",
        help="add, annotate: features of the system, with commas between them",
    )
    parser.add_argument(
        "--annotation",
        action="append",
        default=[],
        metavar="key=value",
        help="add, annotate: annotation of the entry (of the list, without IMAGE)",
    )
    parser.add_argument(
        "--artifact-type", default="", metavar="type", help="referrers: only these"
    )
    parser.flag("-p", "--purge", help="push: remove the list afterwards")
    parser.flag("-q", "--quiet", help="push: print the digest only")
    parser.flag("--insecure", help="Allow plain HTTP and unknown certificates")
    parser.flag("--tls-verify", default=True, help="The opposite of --insecure (podman's name)")


def run(args: Namespace) -> int:
    """Do what the verb says."""
    from buildkit_py.store import open_store

    verbs: dict[str, Callable[[Namespace, Store], int]] = {
        "create": _create,
        "add": _add,
        "remove": _remove,
        "annotate": _annotate,
        "inspect": _inspect,
        "push": _push,
        "rm": _rm,
        "exists": _exists,
        "referrers": _referrers,
    }
    if args.verb not in verbs:
        raise UsageError(
            f'unknown verb: "{args.verb or ""}"', hint=f"known are {', '.join(verbs)}"
        )
    usage = _USAGES[args.verb]
    least = len([word for word in usage.split() if not word.startswith("[")])
    if len(args.words) < least or (len(args.words) > len(usage.split()) and "..." not in usage):
        raise UsageError(
            f"'pybuild manifest {args.verb}' does not take {len(args.words)} names",
            hint=f"pybuild manifest {args.verb} {usage}",
        )
    with open_store(state_root(args)) as store:
        return verbs[args.verb](args, store)


# ------------------------------------------------------------------ making
def _create(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ImageList, ListStore

    lists, name = ListStore(store.db), _name(args.words[0])
    if not args.amend and (lists.find(name) is not None or store.images.candidates(name)):
        raise UsageError(f"{name.familiar} exists already", hint="--amend replaces it")
    value = _extended(args, store, ImageList(), args.words[1:])
    lists.put(name, value)
    print(f"Created manifest list {name}")
    return 0


def _add(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ListStore

    lists, name = ListStore(store.db), _name(args.words[0])
    lists.put(name, _extended(args, store, lists.get(name), args.words[1:]))
    return 0


def _extended(args: Namespace, store: Store, value: ImageList, names: list[str]) -> ImageList:
    from buildkit_py.store.lists import Entry

    for text in names:
        for image in _images(args, store, text):
            entry = Entry(
                image=image.id,
                platform=_platform(args, image.platform),
                annotations=_annotations(args),
            )
            value = value.with_entry(entry)
    return value


def _images(args: Namespace, store: Store, text: str) -> list[StoredImage]:
    """The images that a name leads to here, else in its registry (manifests and configs only)."""
    from buildkit_py.oci.reference import parse_reference

    plain = text.removeprefix("docker://")
    found = {} if plain != text else store.images.candidates(plain)
    if found:
        return [store.images.get(digest) for digest in found]
    name = parse_reference(plain)
    client = _client(args, name)
    from buildkit_py.oci.manifest import Index, is_attestation, parse_manifest
    from buildkit_py.sources.image import ImageSource

    source = ImageSource(store, lambda: client)
    answer = client.manifest(name)
    document = parse_manifest(answer.data, answer.descriptor.media_type)
    host = _host()
    if isinstance(document, Index):
        offered = [item for item in document.manifests if not is_attestation(item)]
        wanted = [item.platform for item in offered if item.platform] if args.all else [host]
        pinned = [source.pin(plain, platform, pull=True) for platform in wanted]
    else:
        pinned = [source.pin(f"{name.repository}@{answer.descriptor.digest}", host, pull=True)]
    return [store.images.get(item.op.digest) for item in pinned]


# ------------------------------------------------------------------ changing
def _remove(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ListStore

    lists, name = ListStore(store.db), _name(args.words[0])
    value = lists.get(name)
    for text in args.words[1:]:
        doomed = _entry(store, name, value, text)
        value = replace(value, entries=tuple(i for i in value.entries if i is not doomed))
    lists.put(name, value)
    return 0


def _annotate(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ListStore

    lists, name = ListStore(store.db), _name(args.words[0])
    value = lists.get(name)
    if len(args.words) == 1:
        value = replace(value, annotations={**value.annotations, **_annotations(args)})
    else:
        old = _entry(store, name, value, args.words[1])
        new = replace(
            old,
            platform=_platform(args, old.platform),
            annotations={**old.annotations, **_annotations(args)},
        )
        entries = tuple(new if item is old else item for item in value.entries)
        value = replace(value, entries=entries)
    lists.put(name, value)
    return 0


def _entry(store: Store, name: Reference, value: ImageList, text: str) -> Entry:
    """The entry that an image's name, id or manifest digest means. Raises NoSuchImage."""
    for entry in value.entries:
        image = store.images.get(entry.image)
        digests = {image.id} | ({image.manifest.digest} if image.manifest else set())
        if text in digests or text.partition("@")[2] in digests:
            return entry
    try:
        found = set(store.images.candidates(text.removeprefix("docker://")))
    except UsageError:
        found = set()
    matching = [entry for entry in value.entries if entry.image in found]
    if len(matching) == 1:
        return matching[0]
    reason = "several images" if matching else "no image"
    raise NoSuchImage(
        f"{name.familiar} has {reason} called {text}",
        hint="name one by its digest: pybuild manifest inspect shows them",
    )


def _platform(args: Namespace, own: Platform) -> Platform:
    from buildkit_py.platforms import normalize

    changed = args.os or args.arch
    platform = normalize(
        args.os or own.os,
        args.arch or own.architecture,
        args.variant if args.variant is not None else ("" if changed else own.variant),
        args.os_version if args.os_version is not None else own.os_version,
    )
    features = own.os_features
    if args.os_features is not None:
        features = tuple(item for text in args.os_features for item in text.split(",") if item)
    return replace(platform, os_features=features)


def _annotations(args: Namespace) -> dict[str, str]:
    out = {}
    for text in args.annotation:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f'invalid annotation "{text}"', hint="expected key=value")
        out[key] = value
    return out


# ------------------------------------------------------------------ showing
def _inspect(args: Namespace, store: Store) -> int:
    from buildkit_py.exporters.stored import index_of
    from buildkit_py.oci.reference import parse_reference
    from buildkit_py.store.lists import ListStore

    text = args.words[0].removeprefix("docker://")
    name = parse_reference(text)
    value = None if text != args.words[0] else ListStore(store.db).find(name)
    if value is not None:
        images = [store.images.get(entry.image) for entry in value.entries]
        manifests = [image.manifest for image in images if image.manifest is not None]
        if len(manifests) < len(images):
            raise UsageError(f"{name.familiar} has images that were never given a manifest")
        data = index_of(value, manifests).index
    else:
        found = None if text != args.words[0] else store.images.find(name)
        if found is not None and found.manifest is not None:
            data = store.content.read(found.manifest.digest)
        else:
            data = _client(args, name).manifest(name).data
    print(json.dumps(json.loads(data), indent="\t", ensure_ascii=False))
    return 0


def _exists(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ListStore

    return int(ListStore(store.db).find(_name(args.words[0])) is None)


def _referrers(args: Namespace, store: Store) -> int:
    """What refers to an image of a registry: attestations, signatures."""
    del store
    from buildkit_py.cli.render import human_size, print_table
    from buildkit_py.oci.reference import parse_reference
    from buildkit_py.registry.referrers import referrers

    name = parse_reference(args.words[0].removeprefix("docker://"))
    client = _client(args, name)
    digest = name.digest or client.manifest(name).descriptor.digest
    found = referrers(client, name, digest, args.artifact_type)
    rows = [(item.digest, item.artifact_type, human_size(item.size)) for item in found]
    print_table(("DIGEST", "ARTIFACT TYPE", "SIZE"), rows)
    return 0


# ------------------------------------------------------------------ leaving
def _push(args: Namespace, store: Store) -> int:
    import sys

    from buildkit_py.cli.transfers import LayerLines
    from buildkit_py.exporters.stored import StoredPush, push_stored
    from buildkit_py.store.lists import ListStore

    name = _name(args.words[0])
    ListStore(store.db).get(name)
    target = _name(args.words[-1].removeprefix("docker://"))
    lines = LayerLines(sys.stdout, terminal=sys.stdout.isatty(), quiet=args.quiet)
    client = _client(args, target)
    from buildkit_py.sources.image import ImageSource

    # layers of images that were only named are fetched when the registry wants them
    store.snapshots.layers.fetch = ImageSource(store, lambda: client).fetch
    pushed = push_stored(StoredPush(store=store, client=client, progress=lines), name, target)
    print(pushed.digest)
    if args.purge:
        store.images.untag(name)
    return 0


def _rm(args: Namespace, store: Store) -> int:
    from buildkit_py.store.lists import ListStore

    names = [_name(text) for text in args.words]
    for name in names:
        ListStore(store.db).get(name)
    for name in names:
        store.images.untag(name)
        print(f"Untagged: {name.familiar}")
    return 0


# ------------------------------------------------------------------ shared
def _name(text: str) -> Reference:
    from buildkit_py.oci.reference import parse_reference

    name = parse_reference(text)
    if name.digest is not None:
        raise UsageError(f"{text} is a digest, a list needs a name")
    return name


def _client(args: Namespace, name: Reference) -> RegistryClient:
    from buildkit_py.registry import open_client

    insecure = (name.domain,) if args.insecure or not args.tls_verify else ()
    return open_client(os.environ, insecure=insecure)


def _host() -> Platform:
    from buildkit_py.platforms import host_platform

    return host_platform(os.uname().machine)
