"""Signatures of images in a registry, as cosign makes and finds them.

What is signed is a small JSON document ("simple signing") that names the manifest's digest. It is
a layer of a manifest tagged `sha256-<hex>.sig` beside the image, the signature an annotation of
that layer. The keys are ECDSA keys in PEM form; `cryptography` is loaded by signing alone.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from buildkit_py.digest import canonical_json, sha256
from buildkit_py.errors import ContentError, ManifestUnknown, UsageError
from buildkit_py.oci.descriptor import Descriptor, MediaType
from buildkit_py.oci.manifest import Manifest, manifest_to_json, parse_manifest
from buildkit_py.registry.uploads import upload_blob

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

    from buildkit_py.digest import Digest
    from buildkit_py.oci.reference import Reference
    from buildkit_py.registry.client import RegistryClient

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
_KIND = "cosign container image signature"
_LIMIT = 1 << 20
_MOST_SIGNATURES = 1000
_MISSING = "install it: pip install 'cryptography>=42'"
_MAKE_ONE = "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A document that was signed, and the signature of its bytes."""

    payload: bytes
    signature: bytes


# ------------------------------------------------------------------ keys
def private_key(pem: bytes, password: str | None) -> EllipticCurvePrivateKey:
    """The key to sign with. Raises UsageError."""
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    if b"SIGSTORE PRIVATE KEY" in pem or b"COSIGN PRIVATE KEY" in pem:
        raise UsageError("cosign's own encrypted keys are not read", hint=_MAKE_ONE)
    try:
        key = load_pem_private_key(pem, password.encode() if password else None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the private key cannot be read: {error}", hint=_MAKE_ONE) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError("the private key is no ECDSA key", hint=_MAKE_ONE)
    return key


def public_key(pem: bytes) -> EllipticCurvePublicKey:
    """The key to verify with. Raises UsageError."""
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_public_key,
    )

    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        hint = "openssl pkey -in key.pem -pubout -out key.pub"
        raise UsageError(f"the public key cannot be read: {error}", hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError("the public key is no ECDSA key")
    return key


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401, PLC0415
    except ImportError as error:
        raise UsageError("signing needs the package cryptography", hint=_MISSING) from error


# ------------------------------------------------------------------ documents
def payload(reference: Reference, digest: Digest) -> bytes:
    """What is signed of an image."""
    return canonical_json(
        {
            "critical": {
                "identity": {"docker-reference": f"{reference.domain}/{reference.path}"},
                "image": {"docker-manifest-digest": digest},
                "type": _KIND,
            },
            "optional": None,
        }
    )


def sign(key: EllipticCurvePrivateKey, data: bytes) -> Signature:
    """Sign a document."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return Signature(payload=data, signature=key.sign(data, ec.ECDSA(SHA256())))


def is_valid(key: EllipticCurvePublicKey, found: Signature, digest: Digest) -> bool:
    """Whether the key made the signature, and what it signed is that image."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    try:
        key.verify(found.signature, found.payload, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    try:
        document: Any = json.loads(found.payload)
        critical = document["critical"]
        named, kind = critical["image"]["docker-manifest-digest"], critical["type"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
    return bool(named == digest and kind == _KIND)


# ------------------------------------------------------------------ the registry
def attach(client: RegistryClient, reference: Reference, digest: Digest, made: Signature) -> None:
    """Add a signature to those of an image. Raises RegistryError."""
    place = _place(reference, digest)
    layer = Descriptor(
        media_type=PAYLOAD_TYPE,
        digest=sha256(made.payload),
        size=len(made.payload),
        annotations={SIGNATURE: base64.b64encode(made.signature).decode()},
    )
    layers = (*_layers(client, place), layer)
    config = canonical_json(
        {
            "architecture": "",
            "config": {},
            "created": "0001-01-01T00:00:00Z",
            "history": [{"created": "0001-01-01T00:00:00Z"} for _ in layers],
            "os": "",
            "rootfs": {"diff_ids": [item.digest for item in layers], "type": "layers"},
        }
    )
    described = Descriptor(
        media_type=MediaType.OCI_CONFIG, digest=sha256(config), size=len(config)
    )
    for item, data in ((layer, made.payload), (described, config)):
        upload_blob(client, place, item, lambda start, data=data: [data[start:]])  # type: ignore[misc]
    manifest = Manifest(config=described, layers=layers)
    client.put_manifest(place, canonical_json(manifest_to_json(manifest)), manifest.media_type)


def signatures(client: RegistryClient, reference: Reference, digest: Digest) -> list[Signature]:
    """All signatures that stand beside an image. Raises RegistryError."""
    place = _place(reference, digest)
    out = []
    for layer in _layers(client, place):
        try:
            value = base64.b64decode(layer.annotations[SIGNATURE], validate=True)
        except (binascii.Error, ValueError):
            continue
        data = client.read_blob(place, layer, limit=_LIMIT)
        out.append(Signature(payload=data, signature=value))
    return out


def _place(reference: Reference, digest: Digest) -> Reference:
    return replace(reference, tag=digest.replace(":", "-", 1) + ".sig", digest=None)


def _layers(client: RegistryClient, place: Reference) -> tuple[Descriptor, ...]:
    try:
        answer = client.manifest(place)
    except ManifestUnknown:
        return ()
    document = parse_manifest(answer.data, answer.descriptor.media_type)
    if not isinstance(document, Manifest):
        raise ContentError(f"{place} is no manifest of signatures")
    if len(document.layers) > _MOST_SIGNATURES:
        raise ContentError(f"{place} holds more than {_MOST_SIGNATURES} signatures")
    return tuple(
        item
        for item in document.layers
        if item.media_type == PAYLOAD_TYPE and SIGNATURE in item.annotations
    )
