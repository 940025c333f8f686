"""Image names: parsing and normal form (the grammar of distribution/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildkit_py.digest import Digest, parse_digest
from buildkit_py.errors import ContentError, UsageError

DEFAULT_DOMAIN = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_HOST_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_DOMAIN = re.compile(rf"(?:{_HOST_LABEL}(?:\.{_HOST_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A name in full: domain, path, and a tag, a digest, or both."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def repository(self) -> str:
        """`docker.io/library/debian`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """`debian`, `user/app`, `localhost:5000/app`: as users write it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    @property
    def familiar(self) -> str:
        """The short form with tag and digest."""
        return self.familiar_repository + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.repository + self._suffix()


def parse_reference(text: str, *, default_tag: str | None = "latest") -> Reference:
    """Parse and normalise an image name.

    A name with neither tag nor digest gets `default_tag`. Raises UsageError.
    """
    rest, _, digest_text = text.partition("@")
    digest: Digest | None = None
    if "@" in text:
        try:
            digest = parse_digest(digest_text)
        except ContentError as error:
            raise _invalid(text) from error
    name, tag = _split_tag(rest)
    domain, path = _split_domain(name)
    if tag is not None and not _TAG.match(tag):
        raise _invalid(text)
    if not _PATH.match(path) or not _DOMAIN.match(domain) or len(path) + len(domain) > 255:
        if path != path.lower() and _PATH.match(path.lower()):
            raise UsageError(
                f"invalid reference format: repository name ({path}) must be lowercase"
            )
        raise _invalid(text)
    if len(name) == 64 and re.fullmatch(r"[0-9a-f]{64}", name):
        raise UsageError(f"invalid reference {text!r}: cannot be 64 hexadecimal digits")
    if tag is None and digest is None:
        tag = default_tag
    return Reference(domain=domain, path=path, tag=tag, digest=digest)


def _invalid(text: str) -> UsageError:
    return UsageError(
        f'invalid reference format: "{text}"',
        hint="expected [host[:port]/]path[:tag][@sha256:…], the path in lower case",
    )


def _split_tag(text: str) -> tuple[str, str | None]:
    head, colon, tail = text.rpartition(":")
    if colon and "/" not in tail:
        return head, tail
    return text, None


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if slash and is_host:
        domain = DEFAULT_DOMAIN if first == "index.docker.io" else first
    else:
        domain, rest = DEFAULT_DOMAIN, name
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return domain, rest
