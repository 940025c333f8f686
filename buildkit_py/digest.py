"""Content identity: digests, and the canonical JSON that they are taken of."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, NewType

from buildkit_py.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Mapping

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hexadecimal digits, of exact bytes."""

_FORM = re.compile(r"sha256:[0-9a-f]{64}\Z")
_FORM_512 = re.compile(r"sha512:[0-9a-f]{128}\Z")


def parse_digest(text: str) -> Digest:
    """Check the form of a digest. Raises ContentError."""
    if _FORM.match(text) or _FORM_512.match(text):
        return Digest(text)
    raise ContentError(f"invalid digest {text!r}", hint="expected sha256:<64 hex digits>")


def sha256(data: bytes | memoryview) -> Digest:
    """The digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """The digits of a digest without its algorithm."""
    return digest.partition(":")[2]


def short_id(digest: Digest) -> str:
    """Twelve digits, as image and step ids are shown."""
    return hex_of(digest)[:12]


def canonical_json(value: Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> bytes:
    """Sorted keys, no blanks, UTF-8: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )


def digest_of(value: Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> Digest:
    """The digest of a value's canonical JSON."""
    return sha256(canonical_json(value))
