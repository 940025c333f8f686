"""Named contexts (`--build-context NAME=VALUE`): their names, their kinds, and their look-up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from buildkit_py.errors import UsageError
from buildkit_py.graph import ContextOp, GitOp, HttpOp
from buildkit_py.oci.reference import Reference, parse_reference
from buildkit_py.platforms import Platform
from buildkit_py.remotes import is_git_url, is_web_url, parse_git_url, web_filename

_NEVER = frozenset({"scratch", "context"})


class ContextKind(StrEnum):
    """What a named context is."""

    DIRECTORY = "directory"
    IMAGE = "image"
    LAYOUT = "oci-layout"
    GIT = "git"
    HTTP = "http"
    SCRATCH = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedContext:
    """One named context. `value` is a directory, an image, a URL, or a layout's directory.

    `reference` of a layout is what stands behind the path: `:tag`, `@digest`, or nothing.
    """

    name: str
    kind: ContextKind
    value: str
    reference: str = ""

    def op(self) -> ContextOp | GitOp | HttpOp:
        """The operation that gives its files (not for images and scratch)."""
        match self.kind:
            case ContextKind.GIT:
                return parse_git_url(self.value)
            case ContextKind.HTTP:
                name = web_filename(self.value) or ""
                return HttpOp(url=self.value, filename=name.replace("__unnamed__", "download"))
            case _:
                return ContextOp(name=self.name)


def context_name(text: str) -> str:
    """The name that look-ups use: familiar, without `:latest`. Raises UsageError."""
    name, separator, platform = text.partition("::")
    try:
        reference = parse_reference(name)
    except UsageError as error:
        raise UsageError(f"invalid context name {text}: {error.message}") from error
    return familiar_name(reference) + separator + platform


def familiar_name(reference: Reference) -> str:
    """`golang` for docker.io/library/golang:latest."""
    return reference.familiar.removesuffix(":latest")


def parse_contexts(contexts: Mapping[str, str]) -> dict[str, NamedContext]:
    """Read all `--build-context` options. Raises UsageError."""
    parsed = (parse_context(name, value) for name, value in contexts.items())
    return {context.name: context for context in parsed}


def parse_context(name: str, value: str) -> NamedContext:
    """Read one `--build-context` option. Raises UsageError."""
    name = context_name(name)
    if not value:
        raise UsageError(f"the named context {name} has no value")
    scheme, separator, rest = value.partition("://")
    if is_git_url(value, context=True):
        return NamedContext(name=name, kind=ContextKind.GIT, value=value)
    if not separator:
        return NamedContext(name=name, kind=ContextKind.DIRECTORY, value=value)
    if scheme == "docker-image":
        if rest == "scratch":
            return NamedContext(name=name, kind=ContextKind.SCRATCH, value=rest)
        parse_reference(rest)
        return NamedContext(name=name, kind=ContextKind.IMAGE, value=rest)
    if scheme == "oci-layout":
        path, reference = _split_layout(rest)
        return NamedContext(name=name, kind=ContextKind.LAYOUT, value=path, reference=reference)
    if is_web_url(value):
        if web_filename(value) is None:
            raise UsageError(f"invalid URL {value!r} for the named context {name}")
        return NamedContext(name=name, kind=ContextKind.HTTP, value=value)
    raise UsageError(
        f"unsupported context source {scheme} for {name}",
        hint="use a directory, docker-image://, oci-layout://, or a git or http(s) URL",
    )


def _split_layout(text: str) -> tuple[str, str]:
    path, at, digest = text.partition("@")
    if at:
        return path, f"@{digest}"
    head, colon, tag = path.rpartition(":")
    if colon and head and "/" not in tag:
        return head, f":{tag}"
    return path, ""


def find_context(
    contexts: Mapping[str, NamedContext], name: str, platform: Platform
) -> NamedContext | None:
    """The named context that stands for a stage or an image of this name, if there is one."""
    if not contexts or name.lower() in _NEVER:
        return None
    try:
        name = familiar_name(parse_reference(name))
    except UsageError:
        return None
    return contexts.get(f"{name}::{platform}") or contexts.get(name)
