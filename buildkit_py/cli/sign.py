"""sign and verify: signatures of pushed images, as cosign makes them."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from buildkit_py.errors import PybuildError, UsageError

if TYPE_CHECKING:
    from buildkit_py.cli.options import CommandParser
    from buildkit_py.digest import Digest
    from buildkit_py.oci.reference import Reference
    from buildkit_py.registry.client import RegistryClient

_PASSWORDS = ("PYBUILD_KEY_PASSWORD", "COSIGN_PASSWORD")


def configure_sign(parser: CommandParser) -> None:
    """Options of `sign`."""
    parser.usage = "pybuild sign --key FILE NAME[:TAG|@DIGEST]"
    parser.add_argument("--key", metavar="file", help="Private ECDSA key (PEM)")
    _shared(parser)


def run_sign(args: Namespace) -> int:
    """Sign the image that a registry has under a name, and put the signature beside it."""
    from buildkit_py.attest.signatures import attach, payload, private_key, sign

    password = next((os.environ[name] for name in _PASSWORDS if os.environ.get(name)), None)
    key = private_key(_key_file(args), password)
    client, name, digest = _image(args)
    attach(client, name, digest, sign(key, payload(name, digest)))
    print(f"Signed: {name.domain}/{name.path}@{digest}")
    return 0


def configure_verify(parser: CommandParser) -> None:
    """Options of `verify`."""
    parser.usage = "pybuild verify --key FILE NAME[:TAG|@DIGEST]"
    parser.add_argument("--key", metavar="file", help="Public ECDSA key (PEM)")
    _shared(parser)


def run_verify(args: Namespace) -> int:
    """Say whether the key's owner signed what a registry has under a name."""
    from buildkit_py.attest.signatures import is_valid, public_key, signatures

    key = public_key(_key_file(args))
    client, name, digest = _image(args)
    found = signatures(client, name, digest)
    if not any(is_valid(key, item, digest) for item in found):
        count = f"{len(found)} signature{'s' if len(found) != 1 else ''}" if found else "none"
        raise PybuildError(
            f"no signature of {name.domain}/{name.path}@{digest} was made by this key"
            f" ({count} found)"
        )
    print(f"Verified: {name.domain}/{name.path}@{digest}")
    return 0


def _shared(parser: CommandParser) -> None:
    parser.flag("--insecure", help="Accept registries without TLS or with unknown certificates")
    parser.add_argument("name", metavar="NAME")


def _key_file(args: Namespace) -> bytes:
    if not args.key:
        raise UsageError("--key is missing", hint="a PEM file with an ECDSA key")
    try:
        return Path(args.key).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key {args.key}: {error.strerror}") from error


def _image(args: Namespace) -> tuple[RegistryClient, Reference, Digest]:
    from buildkit_py.oci.reference import parse_reference
    from buildkit_py.registry import open_client

    name = parse_reference(args.name)
    client = open_client(os.environ, insecure=(name.domain,) if args.insecure else ())
    return client, name, name.digest or client.manifest(name).descriptor.digest
