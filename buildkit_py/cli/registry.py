"""pull, push, search, login, logout: docker's options, and its words on the way."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from buildkit_py.cli.options import state_root
from buildkit_py.errors import AuthenticationRequired, NoSuchImage, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from buildkit_py.cli.options import CommandParser
    from buildkit_py.oci.reference import Reference
    from buildkit_py.platforms import Platform
    from buildkit_py.registry.client import RegistryClient
    from buildkit_py.store import Store

_HUB = "docker.io"
_HEADINGS = {
    "Name": "NAME",
    "Tag": "TAG",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
}


# ------------------------------------------------------------------ pull
def configure_pull(parser: CommandParser) -> None:
    """Options of `docker pull`."""
    parser.usage = "pybuild pull [OPTIONS] NAME[:TAG|@DIGEST]"
    parser.flag("-a", "--all-tags", help="Pull all tags of the repository")
    parser.flag("-q", "--quiet", help="Print the image's name only")
    parser.add_argument("--platform", metavar="os/arch", help="Take the image of this platform")
    _registry_options(parser)
    parser.add_argument("name", metavar="NAME")


def run_pull(args: argparse.Namespace) -> int:
    """Fetch an image with all its layers into the store."""
    from buildkit_py.store import open_store

    name = _named(args)
    client = _client(args, name.domain)
    with open_store(state_root(args)) as store:
        tags = client.tags(name) if args.all_tags else [name.tag]
        for tag in tags:
            _pull_one(args, store, client, replace(name, tag=tag))
    return 0


def _pull_one(
    args: argparse.Namespace, store: Store, client: RegistryClient, name: Reference
) -> None:
    from buildkit_py.cli.transfers import LayerLines
    from buildkit_py.sources.image import ImageSource

    if not args.quiet:
        print(f"{name.tag or name.digest}: Pulling from {name.path}", flush=True)
    lines = LayerLines(sys.stdout, terminal=sys.stdout.isatty(), quiet=args.quiet)
    source = ImageSource(store, lambda: client, progress=lines)
    pulled = source.pull(str(name), _platform(args.platform))
    _warn_of_platform(args.platform, name, pulled.resolved.config)
    if args.quiet:
        print(name)
        return
    news = "Downloaded newer image for" if pulled.changed else "Image is up to date for"
    print(f"Digest: {pulled.resolved.named_digest.digest}")
    print(f"Status: {news} {name.familiar}")
    print(name)


def _warn_of_platform(asked: str | None, name: Reference, config: bytes) -> None:
    """An image that is in no index is all there is, whatever platform was asked for."""
    import json

    from buildkit_py.oci.config import config_from_json

    if asked is None:
        return
    found, wanted = config_from_json(json.loads(config)).platform, _platform(asked)
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        sys.stderr.write(
            f"WARNING: {name.familiar} is an image for {found}: its platform does not match the"
            f" specified platform ({wanted})\n"
        )


# ------------------------------------------------------------------ push
def configure_push(parser: CommandParser) -> None:
    """Options of `docker push`, and the compression of layers that were made here."""
    parser.usage = "pybuild push [OPTIONS] NAME[:TAG]"
    parser.flag("-a", "--all-tags", help="Push all tags of the repository")
    parser.flag("-q", "--quiet", help="Print the image's name only")
    parser.add_argument("--platform", metavar="os/arch", help="Push the image of one platform")
    parser.add_argument(
        "--compression",
        choices=("gzip", "zstd", "estargz", "uncompressed"),
        default="gzip",
        help="Compression of layers that were made here (default gzip)",
    )
    parser.add_argument("--compression-level", type=int, metavar="n", help="Level of it")
    parser.flag("--force-compression", help="Compress layers that were pulled anew, too")
    _registry_options(parser)
    parser.add_argument("name", metavar="NAME")


def run_push(args: argparse.Namespace) -> int:
    """Send an image of the store to the registry that its name leads to."""
    from buildkit_py.store import open_store

    name = _named(args)
    if name.digest is not None:
        raise UsageError("cannot push a digest reference", hint="give the name and the tag")
    client = _client(args, name.domain)
    with open_store(state_root(args)) as store:
        names = _tags_of(store, name) if args.all_tags else [name]
        if not args.quiet:
            repository = replace(name, tag=None)
            print(f"The push refers to repository [{repository}]", flush=True)
        for item in names:
            _push_one(args, store, client, item)
    return 0


def _push_one(
    args: argparse.Namespace, store: Store, client: RegistryClient, name: Reference
) -> None:
    from buildkit_py.cli.transfers import LayerLines
    from buildkit_py.exporters.stored import StoredPush, push_stored
    from buildkit_py.store.layer import Variant

    lines = LayerLines(sys.stdout, terminal=sys.stdout.isatty(), quiet=args.quiet)
    variant = Variant(
        compression=args.compression,
        level=_level(args),
        force=args.force_compression,
    )
    job = StoredPush(store=store, client=client, progress=lines, variant=variant)
    platform = _platform(args.platform) if args.platform else None
    pushed = push_stored(job, name, name, platform)
    if args.quiet:
        print(name)
    else:
        print(f"{name.tag}: digest: {pushed.digest} size: {pushed.size}")


def _level(args: argparse.Namespace) -> int | None:
    if args.compression_level is None:
        return None
    from buildkit_py.layers.compression import Compression

    return Compression(kind=args.compression, level=args.compression_level).level


def _tags_of(store: Store, name: Reference) -> list[Reference]:
    names = {item for image in store.images.list() for item in image.names}
    found = sorted((item for item in names if item.repository == name.repository), key=str)
    if not found:
        raise NoSuchImage(f"an image does not exist locally with the tag: {name.familiar}")
    return found


# ------------------------------------------------------------------ search
def configure_search(parser: CommandParser) -> None:
    """A registry's repositories or tags; Docker Hub by its own search."""
    parser.usage = "pybuild search [OPTIONS] [HOST/]TERM"
    parser.flag("--list-tags", help="List the tags of the repository instead")
    parser.flag("--no-trunc", help="Do not shorten descriptions")
    parser.add_argument("--limit", type=int, default=25, metavar="n", help="At most so many lines")
    parser.add_argument("--format", default="", metavar="string", help="table, json or a template")
    _registry_options(parser)
    parser.add_argument("term", metavar="TERM")


def run_search(args: argparse.Namespace) -> int:
    """Print what a registry has."""
    from buildkit_py.cli.templates import print_rows
    from buildkit_py.oci.reference import parse_reference

    host, slash, term = args.term.partition("/")
    remote = bool(slash) and ("." in host or ":" in host or host == "localhost")
    if args.list_tags:
        name = parse_reference(args.term, default_tag=None)
        tags = sorted(_client(args, name.domain).tags(name))
        rows = [{"Name": name.familiar, "Tag": tag} for tag in tags]
    elif remote:
        found = [name for name in _client(args, host).catalog(host) if term in name]
        rows = [{"Name": f"{host}/{name}"} for name in found]
    else:
        rows = _search_hub(args)
    fields = tuple(rows[0]) if rows else ("Name", "Tag") if args.list_tags else ("Name",)
    default = "\t".join(f"{{{{.{name}}}}}" for name in fields)
    print_rows(
        args.format, {name: _HEADINGS[name] for name in fields}, rows[: args.limit], default
    )
    return 0


def _search_hub(args: argparse.Namespace) -> list[dict[str, str]]:
    from buildkit_py.registry.hub import search_hub

    rows = []
    for item in search_hub(_client(args, _HUB).transport, args.term, args.limit):
        text = item.description
        if not args.no_trunc and len(text) > 45:
            text = text[:44] + "…"
        rows.append(
            {
                "Name": item.name,
                "Description": text,
                "StarCount": str(item.stars),
                "IsOfficial": "[OK]" if item.official else "",
            }
        )
    return rows


# ------------------------------------------------------------------ login, logout
def configure_login(parser: CommandParser) -> None:
    """Options of `docker login`."""
    parser.usage = "pybuild login [OPTIONS] [SERVER]"
    parser.add_argument("-u", "--username", metavar="name", help="User name")
    parser.add_argument("-p", "--password", metavar="text", help="Password, or a token")
    parser.flag("--password-stdin", help="Read the password from standard input")
    _registry_options(parser)
    parser.add_argument("server", metavar="SERVER", nargs="?", default=_HUB)


def run_login(args: argparse.Namespace) -> int:
    """Try the credentials, then keep them where docker keeps them."""
    from buildkit_py.registry.credentials import Credential, CredentialStore

    domain = _domain(args.server)
    credential = Credential(username=_username(args), password=_password(args))
    client = _client(args, domain)
    client.authenticator.use(domain, credential)
    try:
        client.ping(domain)
    except AuthenticationRequired as error:
        raise AuthenticationRequired(
            f"login to {domain} failed: incorrect username or password",
            status=error.status,
            code=error.code,
        ) from error
    store = CredentialStore(os.environ)
    place = store.save(domain, credential)
    if place == store.docker_config:
        sys.stderr.write(
            f"WARNING! Your password is stored unencrypted in {place}.\n"
            "Configure a credential helper to remove this warning.\n"
        )
    print("Login Succeeded")
    return 0


def _username(args: argparse.Namespace) -> str:
    if args.username:
        return str(args.username)
    if args.password_stdin:
        raise UsageError("must provide --username with --password-stdin")
    if not sys.stdin.isatty():
        raise UsageError(
            "cannot ask for a user name: standard input is no terminal",
            hint="give --username and --password-stdin",
        )
    return input("Username: ").strip()


def _password(args: argparse.Namespace) -> str:
    if args.password is not None and args.password_stdin:
        raise UsageError("--password and --password-stdin are mutually exclusive")
    if args.password is not None:
        sys.stderr.write(
            "WARNING! Using --password via the CLI is insecure: use --password-stdin.\n"
        )
        return str(args.password)
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        import getpass

        password = getpass.getpass("Password: ")
    else:
        raise UsageError("cannot ask for a password", hint="give --password-stdin")
    if not password:
        raise UsageError("the password is empty")
    return password


def configure_logout(parser: CommandParser) -> None:
    """`docker logout`."""
    parser.usage = "pybuild logout [SERVER]"
    parser.add_argument("server", metavar="SERVER", nargs="?", default=_HUB)


def run_logout(args: argparse.Namespace) -> int:
    """Forget the credentials of a registry."""
    from buildkit_py.registry.credentials import CredentialStore

    domain = _domain(args.server)
    if CredentialStore(os.environ).forget(domain):
        print(f"Removing login credentials for {domain}")
    else:
        print(f"Not logged in to {domain}")
    return 0


# ------------------------------------------------------------------ shared
def _named(args: argparse.Namespace) -> Reference:
    """The name of `pull` and `push`, with a tag or digest unless all tags are wanted."""
    from buildkit_py.oci.reference import parse_reference

    name = parse_reference(args.name, default_tag=None)
    if args.all_tags:
        if name.tag or name.digest:
            raise UsageError("tag can't be used with --all-tags/-a")
        return name
    if name.tag is None and name.digest is None:
        if not args.quiet:
            print("Using default tag: latest", flush=True)
        return replace(name, tag="latest")
    return name


def _registry_options(parser: CommandParser) -> None:
    parser.flag("--insecure", help="Allow plain HTTP and unknown certificates for this registry")
    parser.flag("--tls-verify", default=True, help="The opposite of --insecure (podman's name)")


def _client(args: argparse.Namespace, domain: str) -> RegistryClient:
    from buildkit_py.registry import open_client

    insecure: Sequence[str] = (domain,) if args.insecure or not args.tls_verify else ()
    return open_client(os.environ, insecure=insecure)


def _platform(text: str | None) -> Platform:
    from buildkit_py.platforms import host_platform, parse_platform

    host = host_platform(os.uname().machine)
    return parse_platform(text, host) if text else host


def _domain(server: str) -> str:
    """The registry's name in what a user writes: `https://index.docker.io/v1/`, `host:5000`."""
    host = server.rpartition("://")[2].partition("/")[0]
    if host in {"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}:
        return _HUB
    if not host or not all(c.isalnum() or c in ".-:[]_" for c in host):
        raise UsageError(f"invalid registry {server!r}")
    return host
