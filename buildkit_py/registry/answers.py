"""What answers of a registry mean: errors by status, digests checked, scopes to ask for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from buildkit_py.digest import Digest
from buildkit_py.errors import (
    AuthenticationRequired,
    DigestMismatch,
    ManifestUnknown,
    RegistryError,
)
from buildkit_py.oci.reference import Reference
from buildkit_py.registry.endpoints import Endpoint
from buildkit_py.registry.transport import Response

_ERROR_LIMIT = 64 << 10


def pull_scope(end: Endpoint, path: str) -> list[str]:
    """The token scope for reading a repository."""
    return [f"repository:{end.repository(path)}:pull"]


_DENIED = "requested access to the resource is denied"  # docker's words


def push_scope(end: Endpoint, path: str) -> list[str]:
    """The token scope for writing to a repository."""
    return [f"repository:{end.repository(path)}:pull,push"]


def verify_digest(data: bytes, digest: Digest, what: str) -> None:
    """Raise DigestMismatch when the bytes have another digest."""
    algorithm = digest.partition(":")[0]
    have = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if have != digest:
        raise DigestMismatch(f"{what}: expected {digest}, got {have}")


def require(response: Response, good: set[int], reference: Reference) -> None:
    """Raise the error that a status stands for, unless it is one of `good`."""
    if response.status in good:
        return
    code, said = _registry_error(response)
    name = reference.familiar if reference.path else reference.domain
    detail = f": {said}" if said else ""
    facts: dict[str, Any] = {"reference": name, "status": response.status, "code": code}
    match response.status:
        case 401 | 403:
            raise AuthenticationRequired(
                f"denied: {_DENIED}: {reference.domain} denies access to {name}"
                f"{'' if said == _DENIED else detail}",
                hint=f"check the name, or log in: pybuild login {reference.domain}",
                **facts,
            )
        case 404:
            raise ManifestUnknown(f"{name}: not found in {reference.domain}{detail}", **facts)
        case 429:
            raise RegistryError(
                f"{reference.domain} has had too many requests{detail}",
                hint="wait, log in, or configure a mirror",
                **facts,
            )
        case status:
            raise RegistryError(f"{reference.domain} answers {status} for {name}{detail}", **facts)


def _registry_error(response: Response) -> tuple[str, str]:
    """Code and message of the error document, cut and stripped of control characters."""
    try:
        raw = json.loads(response.read(_ERROR_LIMIT))
        first = raw["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
    except (RegistryError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", ""
    clean = "".join(c for c in message if c.isprintable())[:300]
    return "".join(c for c in code if c.isprintable())[:60], clean
